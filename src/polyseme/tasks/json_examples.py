"""Examples in JSON: one value that is the whole file, or a value a line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from polyseme.errors import DataError
from polyseme.tasks.skipping import bad
from polyseme.text.encodings import decoded, whole_text
from polyseme.text.json_lines import decode_line, why_not
from polyseme.text.sources import read_blocks, shown

T = TypeVar("T")

_DECODE = msgspec.json.Decoder().decode


class JsonItem(NamedTuple):
    """One of a file's items: an article, a passage with its questions, or a line."""

    where: str
    """File and place, for messages."""
    value: Any

    @property
    def file(self) -> str:
        """The file alone."""
        return self.where.partition(", ")[0]


def json_items(
    path: Path, *, encoding: str, errors: Literal["strict", "replace"], lists: bool = False
) -> Iterator[JsonItem]:
    """The objects of a file's list, which may stand under `data`; or one object a line.

    With `lists` an item may be a list too. A file that is no JSON is a `DataError`; a line or an item that
    does not fit is `bad`.
    """
    name = shown(path)
    text = whole_text(decoded(read_blocks(path), name=name, encoding=encoding, errors=errors), name=name)
    if not text.strip():
        raise DataError(f"{name} is empty; a file of examples needs at least one")
    for where, value in _values(name, text, errors):
        if not isinstance(value, dict | list if lists else dict):
            bad(DataError(f"{where}: {str(value)[:40]!r} stands where an object must"))
            continue
        yield JsonItem(where, value)


def at(item: JsonItem, key: str, kind: type[T]) -> T:
    """What an object has under a key, or a `DataError` where that is missing or of another kind."""
    value = item.value.get(key)
    if not isinstance(value, kind):
        raise DataError(f"{item.where}: {key} is {str(value)[:40]!r}; it must be a {kind.__name__}")
    return value


def _values(name: str, text: str, errors: Literal["strict", "replace"]) -> Iterator[tuple[str, Any]]:
    if ".jsonl" in Path(name).suffixes:
        yield from _lines(name, text, errors)
        return
    try:
        whole = decode_line(text, _DECODE, errors=errors)
    except msgspec.DecodeError as error:
        if "\n" not in text.strip() or not _is_json(text.partition("\n")[0], errors):
            raise DataError(f"{name} is not JSON: {why_not(text, error)}") from error
        yield from _lines(name, text, errors)
        return
    except RecursionError as error:
        raise DataError(f"{name} is nested too deeply for a file of examples") from error
    if isinstance(whole, dict) and "data" in whole:
        whole = whole["data"]
    elif isinstance(whole, dict):
        yield f"{name}, line 1", whole
        return
    if not isinstance(whole, list):
        raise DataError(f"{name}: data is {str(whole)[:40]!r}; it must be a list")
    for number, value in enumerate(whole, 1):
        yield f"{name}, item {number}", value


def _is_json(line: str, errors: Literal["strict", "replace"]) -> bool:
    try:
        decode_line(line, _DECODE, errors=errors)
    except msgspec.DecodeError:
        return False
    return True


def _lines(name: str, text: str, errors: Literal["strict", "replace"]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{name}, line {number}", decode_line(line, _DECODE, errors=errors)
        except msgspec.DecodeError as error:
            bad(DataError(f"{name}, line {number}: not JSON ({why_not(line, error)})"))
