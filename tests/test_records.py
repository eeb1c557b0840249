"""Records of settings: no number that is not finite, and no file that ends in anything but one line."""

import importlib
import math
import os
import pkgutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyseme
from polyseme.errors import PolysemeError, SettingsError
from polyseme.input_files import MAX_SETTINGS_BYTES
from polyseme.records import Record, from_plain, read_json, read_json_object, read_toml
from polyseme.training.recipes import FOLDER, changed, read_recipe
from polyseme.training.settings import Paper, Recipe, TrainingSettings


def every_record() -> list[type[Record]]:
    for module in pkgutil.walk_packages(polyseme.__path__, prefix="polyseme."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(kind: type[Record]) -> Iterator[type[Record]]:
        for inner in kind.__subclasses__():
            if inner.__module__.startswith("polyseme."):
                yield inner
                yield from below(inner)

    return list(dict.fromkeys(below(Record)))


def float_fields(kind: type[Record]) -> Iterator[tuple[str, Any]]:
    """Each field that may hold a float, with what makes a value for it out of one float."""
    for name, hint in typing.get_type_hints(kind).items():
        for part in typing.get_args(hint) or (hint,):
            if part is float:
                is_tuple = typing.get_origin(hint) is tuple
                yield name, (lambda value: (value,) * 2) if is_tuple else (lambda value: value)
                break


def example(hint: Any) -> Any:
    """Some value of a type, for the fields that must be given."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        given = {f.name: example(f.type) for f in msgspec.structs.fields(hint) if f.required}
        return msgspec.to_builtins(hint(**given))
    origin = typing.get_origin(hint) or hint
    if origin is typing.Literal:
        return typing.get_args(hint)[0]
    known = {int: 1, float: 1.0, str: "x", bool: False, bytes: b"", Path: "x"}
    return known.get(origin, [] if origin in (list, tuple) else {})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_record_takes_a_number_that_is_not_finite(value: float) -> None:
    tried = 0
    for kind in every_record():
        needed = {f.name: f.type for f in msgspec.structs.fields(kind) if f.required}
        for name, made in float_fields(kind):
            given = {other: example(hint) for other, hint in needed.items() if other != name}
            with pytest.raises(ValueError, match=rf"{name} must be a finite number, got {value}"):
                kind(**given, **{name: made(value)})
            tried += 1
    assert tried > 40


def test_numbers_inside_dictionaries_and_lists_of_a_record_are_looked_at_too() -> None:
    class Loose(Record, frozen=True, kw_only=True):
        anything: dict[str, Any]

    for value in (math.nan, [1.0, [math.inf]], {"a": {"b": -math.inf}}, 1 << 64, [-(1 << 70)]):
        with pytest.raises(ValueError, match=r"anything (must be a finite number|is a number of)"):
            Loose(anything={"x": value})
    deep: Any = 1
    for _ in range(1000):
        deep = [deep]
    with pytest.raises(ValueError, match="anything is nested more than 100 levels deep"):
        Loose(anything={"x": deep})


def test_a_record_checks_its_own_rules_after_its_numbers() -> None:
    class Share(Record, frozen=True, kw_only=True):
        share: float = 0.5

        def __post_init__(self) -> None:
            if not 0 <= self.share <= 1:
                raise ValueError(f"share must lie between 0 and 1, got {self.share}")

    class Named(Share, frozen=True, kw_only=True):
        name: str = ""

    with pytest.raises(SettingsError, match="x: share must lie between 0 and 1, got 2"):
        from_plain({"share": 2.0, "name": "a"}, Named, where="x")
    with pytest.raises(SettingsError, match="x: share must be a finite number, got nan"):
        from_plain({"share": math.nan}, Named, where="x")


BAD = {
    "empty": b"",
    "another type": b"3",
    "no text": b"\xff\xfe{",
    "cut off": b'{"authors": "a", ',
    "long number": b'{"year": ' + b"9" * 5_000 + b"}",
    "long negative number": b'{"year": -' + b"9" * 300 + b"}",
    "too large a float": b'{"year": 1e999}',
    "a list, nested": b"[" * 100_000,
    "an object, nested": b'{"a":' * 100_000,
    "closed nesting": b"[" * 100_000 + b"]" * 100_000,
    "half a pair": b'{"authors": "\\ud800"}',
    "a float for a number": b'{"authors": "a", "year": 1.5, "title": "t", "url": "u"}',
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_file_that_is_no_record_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"settings\.json"):
        read_json(path, Paper)
    if content not in (BAD["a float for a number"], BAD["long negative number"]):
        with pytest.raises(SettingsError, match=r"settings\.json"):
            read_json_object(path)


@pytest.mark.parametrize(
    "content",
    [b"a = " + b"[" * 100_000, b"a = " + b"9" * 5_000, b"a = \xff", b"year = nan", b"a.b" * 50_000 + b" = 1"],
)
def test_a_toml_file_that_is_no_record_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"settings\.toml"):
        read_toml(path, Paper)


def test_only_regular_files_of_sensible_size_are_read_as_settings(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_SETTINGS_BYTES + 1)
    for name, said in {
        "pipe": "is a named pipe, not a file",
        "device": "is a device, not a file",
        "folder": "is a folder, not a file",
        "large": r"is larger than \d+ MB",
        "absent": "there is no file",
        "a\0b": "is no name of a file",
    }.items():
        for read in (read_json, read_toml):
            with pytest.raises(SettingsError, match=said):
                read(tmp_path / name, Paper)


RECIPE = (FOLDER / "bert.toml").read_text(encoding="utf-8")


@given(
    st.integers(0, RECIPE.count("\n")), st.sampled_from(["nan", "-inf", "9" * 5_000, "[" * 9_999, "''", "{}"])
)
@settings(max_examples=25, deadline=None)
def test_a_recipe_with_any_value_changed_is_a_recipe_or_refused(line: int, value: str) -> None:
    lines = RECIPE.split("\n")
    name, sign, _ = lines[line].partition(" = ")
    lines[line] = f"{name} = {value}" if sign else lines[line]
    path = Path("recipe.toml")
    try:
        recipe = from_plain(__import__("tomllib").loads("\n".join(lines)), Recipe, where=str(path))
    except (PolysemeError, ValueError, RecursionError):
        return
    assert isinstance(recipe, Recipe)


def test_a_change_of_a_recipe_that_is_no_toml_is_a_string() -> None:
    for text in ("[" * 100_000, "9" * 5_000):
        with pytest.raises(SettingsError, match="Expected"):
            changed(read_recipe("bert"), [f"training.length={text}"])


@pytest.mark.parametrize("name", ["learning_rate", "matrix_learning_rate", "weight_decay", "clip"])
def test_rates_beyond_single_precision_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be at most 1e\+30, got 1e\+308"):
        TrainingSettings(**{name: 1e308})  # type: ignore[arg-type]
