"""The kernels are compiled once, kept where only their user can write, and never needed."""

import contextlib
import ctypes
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from reporters import Said
from runtime_paths import needs_compiler

import polyseme
from polyseme import progress
from polyseme.errors import PolysemeWarning, SettingsError
from polyseme.runtime import onednn
from polyseme.runtime.linears import PortableLinear, linear
from polyseme.runtime.native import building, library
from polyseme.runtime.native.building import (
    CacheUnusable,
    CannotBuild,
    built,
    cache_folder,
    fingerprint,
    instruction_flags,
)
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
    with contextlib.nullcontext() if part == "file" else pytest.warns(PolysemeWarning, match="chmod go-w"):
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
    with pytest.raises(CacheUnusable, match="symbolic link"):
        cache_folder(environment(tmp_path, fake_compiler))


def test_a_file_in_the_folder_s_place_leads_to_a_private_folder(tmp_path: Path, fake_compiler: Path) -> None:
    cache = tmp_path / "file"
    cache.write_text("")
    with pytest.warns(PolysemeWarning, match=r"at every start.*cannot be made"):
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
        "the compiled kernels are not used (no C compiler was found (cc, gcc, clang)); "
        "torch's own operations take their place, slower"
    ]


def test_a_library_is_kept_where_new_files_are_for_a_group_to_write(
    tmp_path: Path, fake_compiler: Path
) -> None:
    before = os.umask(0o002)
    try:
        path, is_private = built(environment(tmp_path, fake_compiler))
    finally:
        os.umask(before)
    assert not is_private
    assert built({**environment(tmp_path, fake_compiler), "PATH": "/nowhere"}) == (path, False)


def test_a_user_without_home_has_kernels_of_one_process(
    tmp_path: Path, fake_compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.warns(PolysemeWarning, match="this user has no home folder"):
        path, is_private = built({"PATH": str(fake_compiler)})
    assert is_private
    shutil.rmtree(path.parent)


def test_where_nothing_can_be_written_there_are_no_kernels(
    tmp_path: Path, fake_compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not-there"))
    with pytest.raises(CannotBuild, match="no temporary folder can be written"):
        built(environment(tmp_path, fake_compiler, tmp_path / "file"))


def test_nothing_is_compiled_into_a_cache_from_which_nothing_may_be_loaded(
    tmp_path: Path, fake_compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(building, "is_noexec", lambda folder: folder.is_relative_to(cache))
    with pytest.warns(PolysemeWarning, match="at every start.*mounted noexec"):
        path, is_private = built(environment(tmp_path, fake_compiler))
    assert is_private
    assert not list((cache / "polyseme" / "native").iterdir())
    shutil.rmtree(path.parent)
    monkeypatch.setattr(building, "is_noexec", lambda folder: True)
    with pytest.raises(CannotBuild, match=f"{tempfile.gettempdir()} is mounted noexec"):
        built(environment(tmp_path, fake_compiler))


def test_a_mount_without_execution_is_noticed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from polyseme.runtime.native.building import is_noexec; "
        "print(is_noexec(Path(sys.argv[1])))"
    )
    script = f'mount -t tmpfs -o noexec none "{tmp_path}" && exec "$0" -c "{code}" "{tmp_path}"'
    own = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = (
        subprocess.run(
            ["unshare", "-m", "sh", "-c", script, sys.executable],
            env=own,
            capture_output=True,
            text=True,
            check=False,
        )
        if shutil.which("unshare")
        else None
    )
    if done is None or "rmission" in done.stderr or "not permitted" in done.stderr:
        pytest.skip("this user may not mount file systems")
    assert done.stdout == "True\n", done.stderr
    assert not building.is_noexec(Path(sys.executable).parent)


def test_the_compiler_that_cc_names_comes_first_and_others_after_it(
    tmp_path: Path, fake_compiler: Path
) -> None:
    own = environment(tmp_path, fake_compiler)
    (fake_compiler / "cc").rename(fake_compiler / "mine")
    with pytest.raises(CannotBuild, match=r"no C compiler was found \(CC=none, cc, gcc, clang\)"):
        built({**own, "CC": "none"})
    assert building.compilers({**own, "CC": "mine -m64"}) == [[str(fake_compiler / "mine"), "-m64"]]
    for name in ("clang", "gcc", "cc"):
        shutil.copy(fake_compiler / "mine", fake_compiler / name)
        assert building.compilers(own)[0] == [str(fake_compiler / name)]
    found = [Path(command[0]).name for command in building.compilers({**own, "CC": "mine"})]
    assert found == ["mine", "cc", "gcc", "clang"]
    (fake_compiler / "cc").write_text("#!/bin/sh\nexit 3\n")
    assert built(own)[0].read_bytes() == b"library"


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
