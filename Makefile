# Everything lives in .venv; stamps in it say what is installed, so a second call starts at once.
#
#   make demo    install with pinned versions, then the whole road on the text that ships
#   make test    install what the tests need, then pass them
#   make check   formatter, linter, strict types
#   make wheel   source archive and wheel for x86-64 Linux, with its kernels compiled, in dist/
#   make test-integration   what needs fresh environments or minutes
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

.PHONY: demo test check wheel test-integration
demo: $(VENV)/demo.stamp
	$(BIN)/polyseme demo

# A process a core, each with one thread; a file's tests stay together, since they share what they prepare.
test: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

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
	OMP_NUM_THREADS=1 $(BIN)/pytest -m integration

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
