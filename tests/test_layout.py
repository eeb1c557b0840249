"""The house: who may import whom, as the design says."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import polyseme

ROOT = Path(polyseme.__file__).parent

FLOOR = (
    "text",
    "models",
    "objectives",
    "checkpoints",
    "runtime",
    "static",
    "training",
    "embedding",
    "generation",
)
ABOVE = (*FLOOR, "tasks")
ROOMS: dict[str, tuple[str, ...]] = {
    "text": (),
    "models": (),
    "objectives": ("text", "models"),
    "checkpoints": ("text", "models"),
    "runtime": ("models",),
    "static": ("text", "models", "checkpoints"),
    "training": ("text", "models", "objectives", "checkpoints"),
    "embedding": ("text", "models", "checkpoints", "runtime", "static"),
    "generation": ("text", "models", "checkpoints", "runtime"),
    "tasks": ("text", "models", "objectives", "checkpoints", "runtime", "training", "embedding"),
    "evaluation": ABOVE,
    "inspection": (*ABOVE, "evaluation"),
    "serving": ("text", "checkpoints", "embedding", "generation", "tasks"),
    "scale": ("text", "training", "embedding"),
    "demo": (*ABOVE, "evaluation", "inspection", "serving", "scale"),
    "cli": (*ABOVE, "evaluation", "inspection", "serving", "scale", "demo"),
}
BOTTOM: dict[str, tuple[str, ...]] = {
    "errors": (),
    "devices": (),
    "threads": ("devices",),
    "seeding": (),
    "progress": ("errors",),
    "protobuf": (),
    "input_files": ("errors",),
    "records": ("errors", "input_files"),
    "files": ("errors",),
    "integrity": ("errors", "files", "input_files", "progress", "records"),
}
"""Modules that all may import."""
DOORS = ("__init__", "__main__")
"""Modules of the package itself, which only lead to the rooms."""
DATA = ("recipes",)
REFERENCES = (("checkpoints", "reference.py"),)
"""Files that may ask a reference whether we are right, where it happens to be installed; nothing needs it."""


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)


@functools.cache
def imported(path: Path) -> tuple[str, ...]:
    """Every module that a file names in an import, wherever it stands, relative ones resolved."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    package = ["polyseme", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{name.name}" for name in node.names if module == "polyseme")


def owner(path: Path) -> str:
    """The room or bottom module that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_only(path: Path) -> None:
    own = owner(path)
    if own in DOORS:
        return
    allowed = {own, *ROOMS[own], *BOTTOM} if own in ROOMS else {own, *BOTTOM[own]}
    for module in imported(path):
        parts = module.split(".")
        if parts[0] == "polyseme" and len(parts) > 1:
            assert parts[1] in allowed, f"{path.relative_to(ROOT)} imports {module}"


def test_every_room_has_its_place_in_the_table() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= {*ROOMS, *DATA}
    files = {path.stem for path in ROOT.glob("*.py")}
    assert files <= {*BOTTOM, *DOORS}


def test_the_table_itself_has_no_circle() -> None:
    seen: set[str] = set()
    for room, below in ROOMS.items():
        assert set(below) <= seen, f"{room} may import what stands above it"
        seen.add(room)


def test_text_is_read_without_torch() -> None:
    for path in modules():
        if owner(path) == "text":
            assert not {"torch", "transformers"} & {module.split(".")[0] for module in imported(path)}


@pytest.mark.parametrize(
    "package", ["transformers", "sentence_transformers", "gensim", "onnxruntime", "openvino"]
)
def test_what_we_compare_with_is_never_a_dependency(package: str) -> None:
    for path in modules():
        if path.relative_to(ROOT).parts not in REFERENCES:
            assert package not in {module.split(".")[0] for module in imported(path)}


def test_recipes_are_data() -> None:
    assert not list((ROOT / "recipes").rglob("*.py"))


def test_no_file_is_named_after_nothing() -> None:
    assert not {path.stem for path in modules()} & {"utils", "util", "misc", "common", "helpers"}
