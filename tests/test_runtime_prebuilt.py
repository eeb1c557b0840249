"""Kernels that came with the package: the best that the processor has, and never one that it lacks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from runtime_paths import needs_compiler

from polyseme.errors import PolysemeWarning
from polyseme.inspection.machine import show_machine
from polyseme.runtime.choice import VARIABLE
from polyseme.runtime.linears import linear
from polyseme.runtime.native import building, library, prebuilt
from polyseme.runtime.native.prebuilt import LEVELS, best_level

HASWELL = "fma movbe f16c bmi1 avx2 bmi2 abm"
ALDER_LAKE = f"{HASWELL} avx_vnni"
KNIGHTS_LANDING = f"{HASWELL} avx512f avx512cd avx512er avx512pf"
SKYLAKE = f"{HASWELL} avx512f avx512bw avx512cd avx512dq avx512vl"
CASCADE_LAKE = f"{SKYLAKE} avx512_vnni"
ZEN_4 = f"{CASCADE_LAKE} avx512_bf16"
SAPPHIRE_RAPIDS = f"{ZEN_4} avx_vnni avx512_fp16"
IVY_BRIDGE = "avx f16c"


@pytest.mark.parametrize(
    ("flags", "limit", "slow_bf16", "name"),
    [
        (HASWELL, "", False, "avx2"),
        (ALDER_LAKE, "", False, "avx2-vnni"),
        (KNIGHTS_LANDING, "", False, "avx2"),
        (SKYLAKE, "", False, "avx512"),
        (CASCADE_LAKE, "", False, "avx512-vnni"),
        (ZEN_4, "", False, "avx512-bf16"),
        (SAPPHIRE_RAPIDS, "", True, "avx512-bf16-rounding"),
        (SAPPHIRE_RAPIDS, "AVX512_CORE_AMX", True, "avx512-bf16-rounding"),
        (SAPPHIRE_RAPIDS, "AVX512_CORE_VNNI", True, "avx512-vnni"),
        (SAPPHIRE_RAPIDS, "AVX512_CORE", True, "avx512"),
        (SAPPHIRE_RAPIDS, "AVX2_VNNI", True, "avx2-vnni"),
        (ZEN_4, "avx2", False, "avx2"),
        (ZEN_4, "SSE41", False, None),
        (IVY_BRIDGE, "", False, None),
        ("asimd asimddp", "", False, None),
        ("", "", False, None),
    ],
)
def test_the_level_is_the_best_within_the_processor_and_the_limit(
    flags: str, limit: str, slow_bf16: bool, name: str | None
) -> None:
    found = best_level({"ONEDNN_MAX_CPU_ISA": limit}, offered=flags.split(), slow_bf16=slow_bf16)
    assert (found and found.name) == name


def test_torch_s_limit_counts_too() -> None:
    found = best_level({"ATEN_CPU_CAPABILITY": "avx2"}, offered=ZEN_4.split(), slow_bf16=False)
    assert found is not None
    assert found.name == "avx2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The place of the package's kernels, empty; nothing can be compiled."""
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path / "prebuilt")
    (tmp_path / "prebuilt").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    library._loaded.cache_clear()
    yield tmp_path / "prebuilt"
    library._loaded.cache_clear()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A library that runs on any processor of this kind."""
    path = tmp_path_factory.mktemp("compiled") / "kernels.so"
    building.compiled(
        building.compilers({"PATH": "/usr/bin:/bin:/usr/local/bin"}), ("-O1", "-fPIC", "-shared"), path
    )
    return path.read_bytes()


@needs_compiler
def test_what_came_with_the_package_is_used_and_nothing_is_compiled(
    folder: Path, compiled: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "instructions", lambda: HASWELL)
    (folder / "kernels-avx2.so").write_bytes(compiled)
    shown = show_machine()
    assert (shown.kernels, shown.kernels_why) == (
        "avx2",
        "came with the package; the best for this processor",
    )
    weight, states = torch.randn(40, 16), torch.randn(3, 16)
    made = linear(weight, None, precision="fp32")(states)
    assert isinstance(made, torch.Tensor)
    torch.testing.assert_close(made, states @ weight.T)
    assert not (folder.parent / "cache").exists()


def test_a_library_that_cannot_be_loaded_is_named_and_torch_computes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "instructions", lambda: HASWELL)
    (folder / "kernels-avx2.so").write_bytes(b"\0" * 100)
    with pytest.warns(PolysemeWarning) as caught:
        shown = show_machine()
    assert shown.kernels == "none"
    assert shown.kernels_why == "no C compiler was found (cc, gcc, clang)"
    assert [str(one.message).split(" (")[0] for one in caught] == [
        f"{folder / 'kernels-avx2.so'} cannot be loaded",
        "the compiled kernels are not used",
    ]


def test_an_installation_from_source_has_none_of_them() -> None:
    assert not any(level.file.exists() for level in LEVELS)
