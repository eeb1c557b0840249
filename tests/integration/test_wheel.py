"""The wheel in an environment of its own, with no compiler to be found."""

import json
import os
import shlex
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from corpora import SENTENCES
from small_models import small_model
from test_readme import MADE, blocks, prepare_folder, smaller

from polyseme.devices import processor
from polyseme.runtime.native.building import instructions
from polyseme.runtime.native.prebuilt import LEVELS, best_level

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
UNITS = {"fp32": 2.0**-23, "bf16": 2.0**-8, "int8": 2.0**-7}
"""Distance of neighbouring numbers below 2, of bytes that reach from -1 to 1."""
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        best_level({}, offered=instructions().split(), slow_bf16=False) is None,
        reason="no kernels are compiled for this processor",
    ),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the archive and the wheel."""
    out = tmp_path_factory.mktemp("dist")
    words = ["-m", "build", "--config-setting", "kernels=prebuilt", "--outdir", str(out), str(ROOT)]
    subprocess.run([sys.executable, *words], check=True, timeout=1200)
    return out


@pytest.fixture(scope="module")
def python(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel; other packages are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (wheel,) = built.glob("*.whl")
    found = folder / "bin" / "python"
    words = ["-m", "pip", "--python", str(found), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *words], env=without_settings(), check=True)
    packages = subprocess.run(
        [str(found), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        env=without_settings(),
        check=True,
    )
    Path(packages.stdout.strip(), "others.pth").write_text(sysconfig.get_path("purelib"))
    return found


def without_settings() -> dict[str, str]:
    """The environment without what would choose other packages or kernels."""
    left_out = ("PYTHONPATH", "CC", "POLYSEME_KERNELS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
    return {name: value for name, value in os.environ.items() if name not in left_out}


@pytest.fixture
def environment(python: Path, tmp_path: Path) -> dict[str, str]:
    """No compiler, and a cache folder of its own."""
    return without_settings() | {"PATH": str(python.parent), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_archive_and_wheel_are_as_the_index_wants_them(built: Path) -> None:
    files = sorted(built.iterdir())
    assert [file.name for file in files] == [
        f"polyseme-{VERSION}-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        f"polyseme-{VERSION}.tar.gz",
    ]
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, files)], check=True)
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    libraries = {Path(name).name for name in names if name.endswith(".so")}
    assert libraries == {level.file.name for level in LEVELS}
    assert any(name.endswith("native/kernels.c") for name in names)
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert not [name for name in tar.getnames() if name.endswith(".so")]


def test_the_libraries_need_no_more_than_an_old_glibc(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    for level in LEVELS:
        (path,) = tmp_path.rglob(level.file.name)
        content = path.read_bytes()
        versions = {
            tuple(int(part) for part in word.removeprefix(b"GLIBC_").split(b"."))
            for word in content.split(b"\0")
            if word.startswith(b"GLIBC_2.")
        }
        assert versions
        assert max(versions) <= (2, 17)
        needed = {word.decode() for word in content.split(b"\0") if b".so." in word and word.isascii()}
        assert needed <= {"libc.so.6", "libpthread.so.0", "libm.so.6", "ld-linux-x86-64.so.2"}


def test_the_best_library_is_in_use_and_nothing_is_compiled(
    python: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    for limit in ("", "AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"):
        own = environment | ({"ONEDNN_MAX_CPU_ISA": limit} if limit else {})
        expected = best_level(own, offered=instructions().split(), slow_bf16=processor().has_slow_bf16_dot)
        assert expected is not None
        words = [str(python), "-m", "polyseme", "show", "machine", "--json"]
        shown = subprocess.run(words, env=own, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert json.loads(shown.stdout)["kernels"] == expected.name
        assert shown.stderr == ""
    assert not (tmp_path / "cache" / "polyseme").exists()


@pytest.mark.parametrize("precision", UNITS)
@pytest.mark.parametrize("limit", ["", "AVX2"])
def test_vectors_are_those_of_an_installation_from_source(
    python: Path, environment: dict[str, str], tmp_path: Path, precision: str, limit: str
) -> None:
    model = small_model(tmp_path, "bert")
    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES * 3), encoding="utf-8")
    limits = {"ONEDNN_MAX_CPU_ISA": limit} if limit else {}
    source = {**os.environ, **limits, "PYTHONPATH": str(ROOT / "src")}
    found = []
    for name, program, own in (
        ("wheel", str(python), environment | limits),
        ("source", sys.executable, source),
    ):
        out = tmp_path / f"{name}.npy"
        words = ["-m", "polyseme", "embed", "texts.txt", "--model", str(model), "--out", str(out)]
        subprocess.run([program, *words, "--precision", precision], env=own, cwd=tmp_path, check=True)
        found.append(np.load(out))
    # Two compilers contract products and sums at other places: each of three layers may round otherwise.
    size = np.abs(found[1]).max()
    assert np.abs(found[0] - found[1]).max() <= 8 * UNITS[precision] * size


def test_the_commands_of_the_readme_run(python: Path, environment: dict[str, str], tmp_path: Path) -> None:
    folder = prepare_folder(tmp_path)
    _, *others = blocks("sh")
    for line in smaller("".join(others)).splitlines():
        words = [str(python), "-m", *shlex.split(line)]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert "compiled" not in done.stderr
    for name in MADE:
        assert (folder / name).stat().st_size > 0
    assert not (tmp_path / "cache" / "polyseme").exists()
