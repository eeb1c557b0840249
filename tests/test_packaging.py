"""What is installed and what is tracked."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import polyseme

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def tracked() -> list[Path]:
    """The files of the repository, or of the folder where it is none."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git repository")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_packages_settings_and_commands_load_without_torch() -> None:
    packages = [
        ".".join(path.relative_to(ROOT / "src").parent.parts)
        for path in ROOT.glob("src/polyseme/**/__init__.py")
    ]
    settings = [
        "polyseme.embedding.settings",
        "polyseme.models.transformer.config",
        "polyseme.tasks.settings",
        "polyseme.training.recipes",
        "polyseme.training.settings",
    ]
    code = f"import importlib, sys\nfor name in {[*packages, *settings]}: importlib.import_module(name)\n"
    code += "print([m for m in ('torch', 'transformers', 'sklearn', 'matplotlib') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    for name in polyseme.__all__:
        assert getattr(polyseme, name).__doc__
    assert set(dir(polyseme)) == set(polyseme.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'pretrian'"):
        polyseme.pretrian  # noqa: B018


def test_the_changelog_begins_with_the_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    assert first.group(1) == PROJECT["version"]


def test_constraints_pin_everything_that_is_asked_for() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    pinned = {re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins}
    asked = [
        *PROJECT["dependencies"],
        *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
    ]
    names = {re.match(r"[\w.-]+", one).group().lower().replace("_", "-") for one in asked}  # type: ignore[union-attr]
    assert names - {"polyseme"} <= pinned
    assert not {name for name in pinned if name.startswith(("nvidia", "triton", "cuda"))}


def test_no_tracked_file_names_a_place_on_somebody_s_machine() -> None:
    private = re.compile(rb"(?<![\w.])/(?:home|Users|root|work)/\w")
    found = [
        f"{path.relative_to(ROOT)}: {match.group().decode()}"
        for path in tracked()
        if path.suffix not in (".xz", ".gz", ".svg", ".png", ".npy")
        for match in [private.search(path.read_bytes())]
        if match
    ]
    assert not found


def test_what_is_shipped_is_licensed() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "polyseme" in (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
