# Everything lives in .venv; stamps in it say what is installed, so a second call starts at once.
#
#   make demo    install with pinned versions, then run every stage on the included text
#   make test    install what the tests need, then run them
#   make check   formatter, linter, strict types
#   make wheel   source archive and wheel for x86-64 Linux, with its kernels compiled, in dist/
#   make test-paths        the tests of the runtime on every path that the processor has, one after the other
#   make test-integration  the tests that need fresh environments, a browser or minutes
#
# PyTorch comes first, alone, because its build decides the weight: the CPU build has 0.5 GB, the CUDA
# build with its libraries over 3 GB, and PyPI serves the latter to every Linux. So on Linux without
# nvidia-smi the CPU build is taken from PyTorch's own index if that answers within five seconds, and
# else whatever the default index of pip has. TORCH_INDEX=URL names another index, and TORCH_INDEX=default
# takes pip's own without asking.
TORCH_INDEX ?= $(shell $(PICK_INDEX))

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu
PICK_INDEX = [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1 \
	&& $(PYTHON) -c 'import urllib.request as u; u.urlopen("$(CPU_INDEX)/torch/", timeout=5)' 2>/dev/null \
	&& echo $(CPU_INDEX) || echo default

# Bytecode of all that lies in the packages has a quarter of a gigabyte; that of what runs is written when
# it first runs, for which Python must be allowed to write it.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE

# Threads of torch in each of the processes that test. There is a process a core, so a thread that waits must sleep:
# by default it keeps its core busy, which others need, for most of the time that small networks take.
THREADS ?= 1
PYTEST = OMP_NUM_THREADS=$(THREADS) OMP_WAIT_POLICY=passive $(BIN)/pytest
PASS = $(PYTEST) --numprocesses auto --dist worksteal

.PHONY: demo test test-paths test-integration check wheel
demo: $(VENV)/demo.stamp
	$(BIN)/polyseme demo

# A process a core. Each begins with half of all tests, in their order, so that a file's tests stay together and
# share what they prepare; who has none left takes some of the other's.
test: $(VENV)/test.stamp
	$(PASS)

# What computes is named explicitly, so that nothing is passed over silently; see docs/machines.md.
RUNTIME_TESTS = $(wildcard tests/test_runtime_*.py tests/test_embed*.py)
NUMERIC_TESTS = $(RUNTIME_TESTS) $(wildcard tests/test_family_*.py tests/test_transformer.py tests/test_attention.py \
	tests/test_checkpoints_parity.py tests/test_optimizing.py tests/test_translation.py tests/test_cross_entropy.py)
test-paths: $(VENV)/test.stamp
	POLYSEME_KERNELS=native $(PASS) $(RUNTIME_TESTS)
	POLYSEME_KERNELS=native ONEDNN_MAX_CPU_ISA=AVX2_VNNI $(PASS) $(RUNTIME_TESTS)
	POLYSEME_KERNELS=native ONEDNN_MAX_CPU_ISA=AVX2 $(PASS) $(RUNTIME_TESTS)
	POLYSEME_KERNELS=onednn $(PASS) $(RUNTIME_TESTS)
	POLYSEME_KERNELS=torch $(PASS) $(RUNTIME_TESTS)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 POLYSEME_KERNELS=onednn $(PASS) $(NUMERIC_TESTS)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 POLYSEME_KERNELS=torch $(PASS) $(NUMERIC_TESTS)

check: $(VENV)/test.stamp
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy

# The archive first, and the wheel from it, so that both have the same files and no earlier build is in the way.
wheel: $(VENV)/release.stamp
	rm -rf dist
	$(BIN)/python -m build --config-setting kernels=prebuilt --outdir dist .
	$(BIN)/twine check --strict dist/*

test-integration: $(VENV)/test.stamp $(VENV)/release.stamp
	$(PYTEST) -m integration

$(VENV)/torch.stamp: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "polyseme needs Python 3.11 or newer; name one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	index='$(TORCH_INDEX)'; \
		if [ "$$index" = default ]; then $(PIP_INSTALL) --no-deps $(TORCH); \
		else $(PIP_INSTALL) --no-deps --index-url "$$index" $(TORCH); fi
	@touch $@

$(VENV)/%.stamp: $(VENV)/torch.stamp pyproject.toml constraints.txt
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[$*]'
	@touch $@
