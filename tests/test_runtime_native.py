"""The kernels are compiled once, kept where only their user can write, and never needed."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from reporters import Said
from runtime_paths import needs_compiler

import polyseme
from polyseme import progress
from polyseme.errors import SettingsError
from polyseme.runtime import onednn
from polyseme.runtime.linears import PortableLinear, linear
from polyseme.runtime.native import building, library
from polyseme.runtime.native.building import CannotBuild, built, cache_folder, fingerprint, instruction_flags
from polyseme.runtime.native.linears import NativeLinear

ROOT = Path(polyseme.__file__).parents[2]


@pytest.fixture
def fake_compiler(tmp_path: Path) -> Path:
    """A folder with a `cc` that writes a few bytes where it is told to, for what is not about compiling."""
    script = tmp_path / "bin" / "cc"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nwhile [ "$1" != "-o" ]; do shift; done\nprintf library > "$2"\n')
    script.chmod(0o755)
    return script.parent


def environment(tmp_path: Path, compiler: Path, cache: Path | None = None) -> dict[str, str]:
    return {"PATH": str(compiler), "XDG_CACHE_HOME": str(cache or tmp_path / "cache"), "HOME": str(tmp_path)}


def test_a_library_is_kept_and_found_again(tmp_path: Path, fake_compiler: Path) -> None:
    path, is_private = built(environment(tmp_path, fake_compiler))
    assert path.parent == tmp_path / "cache" / "polyseme" / "native"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not is_private
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert built({**environment(tmp_path, fake_compiler), "PATH": "/nowhere"}) == (path, False)


@pytest.mark.parametrize("part", ["folder", "parent", "file"])
def test_what_others_can_write_is_not_used(tmp_path: Path, fake_compiler: Path, part: str) -> None:
    path, _ = built(environment(tmp_path, fake_compiler))
    path.write_bytes(b"planted")
    {"folder": path.parent, "parent": path.parent.parent, "file": path}[part].chmod(0o777)
    other, is_private = built(environment(tmp_path, fake_compiler))
    assert other.read_bytes() == b"library"
    assert is_private == (part != "file")
    if is_private:
        assert stat.S_IMODE(other.parent.stat().st_mode) == 0o700
        shutil.rmtree(other.parent)


def test_links_are_not_followed(tmp_path: Path, fake_compiler: Path) -> None:
    path, _ = built(environment(tmp_path, fake_compiler))
    planted = tmp_path / "planted.so"
    planted.write_bytes(b"planted")
    path.unlink()
    path.symlink_to(planted)
    assert built(environment(tmp_path, fake_compiler))[0].read_bytes() == b"library"
    assert planted.read_bytes() == b"planted"
    folder = path.parent.rename(tmp_path / "elsewhere")
    path.parent.symlink_to(folder)
    assert cache_folder(environment(tmp_path, fake_compiler)) is None


def test_a_file_in_the_folder_s_place_leads_to_a_private_folder(tmp_path: Path, fake_compiler: Path) -> None:
    cache = tmp_path / "file"
    cache.write_text("")
    path, is_private = built(environment(tmp_path, fake_compiler, cache))
    assert is_private
    shutil.rmtree(path.parent)


def test_a_relative_cache_home_counts_as_none(
    tmp_path: Path, fake_compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path, _ = built(environment(tmp_path, fake_compiler, Path("relative")))
    assert path.is_relative_to(tmp_path / ".cache")


def test_without_a_compiler_one_line_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYSEME_KERNELS", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(CannotBuild, match="no C compiler"):
        built()
    library._loaded.cache_clear()
    lines = Said()
    try:
        with progress.reporting(lines):
            assert library.library() is None
            assert library.library() is None
    finally:
        library._loaded.cache_clear()
    assert lines.lines == [
        "the fast kernels could not be compiled (no C compiler (cc) was found); "
        "torch's own calls are used, slower"
    ]


def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path: Path, fake_compiler: Path) -> None:
    (fake_compiler / "cc").write_text("#!/bin/sh\necho 'unknown flag' >&2\necho more >&2\nexit 3\n")
    with pytest.raises(CannotBuild, match=r"cc failed: unknown flag$"):
        built(environment(tmp_path, fake_compiler))
    assert not list((tmp_path / "cache" / "polyseme" / "native").iterdir())


def test_a_compiler_that_hangs_is_given_up(
    tmp_path: Path, fake_compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake_compiler / "cc").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(building, "SECONDS", 0.2)
    with pytest.raises(CannotBuild, match="timed out"):
        built(environment(tmp_path, fake_compiler))


@pytest.fixture
def forget() -> Iterator[None]:
    """What a process decides once is decided anew in the test, and after it."""
    for kept in (library._loaded, onednn.works):
        kept.cache_clear()
    yield
    for kept in (library._loaded, onednn.works):
        kept.cache_clear()


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(
    ("named", "kinds"),
    [
        ("native", (NativeLinear,)),
        ("onednn", (onednn.FloatLinear, PortableLinear)),  # the latter where oneDNN is missing or wrong
        ("torch", (PortableLinear,)),
        ("auto", (NativeLinear,)),
        ("", (NativeLinear,)),
    ],
)
@needs_compiler
def test_the_environment_names_what_computes(
    named: str, kinds: tuple[type, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYSEME_KERNELS", named)
    made = linear(torch.ones(3, 8), None, precision="fp32")
    assert isinstance(made, kinds)
    assert isinstance(made, onednn.FloatLinear) == (named == "onednn" and onednn.works("fp32"))


@pytest.mark.usefixtures("forget")
def test_kernels_that_are_asked_for_and_missing_or_unknown_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYSEME_KERNELS", "avx2")
    with pytest.raises(
        SettingsError, match="POLYSEME_KERNELS is 'avx2'; it may be auto, native, onednn, torch"
    ):
        library.library()
    monkeypatch.setenv("POLYSEME_KERNELS", "native")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SettingsError, match="asks for the compiled kernels, but there are none"):
        library.library()


@needs_compiler
def test_a_damaged_library_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYSEME_KERNELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(building, "FLAGS", ("-O0", "-fPIC", "-shared"))
    path, _ = built()
    path.write_bytes(b"\0" * 100)
    library._loaded.cache_clear()
    try:
        assert library.library() is not None
    finally:
        library._loaded.cache_clear()
    assert path.read_bytes()[:4] == b"\x7fELF"


@needs_compiler
def test_two_processes_at_once_both_end_with_a_whole_library(tmp_path: Path) -> None:
    script = (
        "from polyseme.runtime.native import building\n"
        "building.FLAGS = ('-O0', '-fPIC', '-shared')\n"
        "print(building.built()[0].name)"
    )
    own = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    running = [
        subprocess.Popen([sys.executable, "-c", script], env=own, stdout=subprocess.PIPE) for _ in range(2)
    ]
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert printed[0] == printed[1] != b""
    kept = list((tmp_path / "polyseme" / "native").iterdir())
    assert [path.name for path in kept] == printed[0].decode().split()
    assert ctypes.CDLL(str(kept[0])).native_columns() > 0


@needs_compiler
def test_the_limit_set_for_onednn_is_kept() -> None:
    narrow = library.Library(str(built({**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"})[0]))
    assert narrow.vector_bits <= 256
    assert not narrow.has_bf16
    assert not narrow.has_byte_dot


def test_limits_only_leave_instructions_out() -> None:
    assert instruction_flags({"ATEN_CPU_CAPABILITY": "avx2"}) == instruction_flags(
        {"DNNL_MAX_CPU_ISA": "avx2"}
    )
    free = instruction_flags({})
    assert instruction_flags({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"})[: len(free)] == free
    assert fingerprint(free) != fingerprint(instruction_flags({"ONEDNN_MAX_CPU_ISA": "AVX2"}))


def test_the_source_is_among_what_is_shipped() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    package = ROOT / "src" / "polyseme"
    shipped = [
        path
        for glob in settings["tool"]["setuptools"]["package-data"]["polyseme"]
        for path in package.glob(glob)
    ]
    assert set(building.PARTS) <= set(shipped)
