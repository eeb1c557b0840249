"""Rows of a labelled file by the names of their columns: TSV, CSV, JSON, plain lines."""

import csv
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from polyseme.errors import DataError
from polyseme.tasks.exports import gold_beside, plain_cells
from polyseme.tasks.skipping import bad, parsed
from polyseme.text.json_lines import decode_line, why_not
from polyseme.text.reading import TextSettings, read_lines

_COMPRESSED = {".gz", ".bz2", ".xz"}
_BLANK: tuple[list[str], ...] = ([], [""])
_LONGEST_CELL = 2**31 - 1
_DECODE = msgspec.json.Decoder(dict[str, Any]).decode


class TableRow(NamedTuple):
    """One row; the columns of a file without header are called "0", "1" …"""

    where: str
    """File and line, for messages."""
    cells: dict[str, Any]


class Table(NamedTuple):
    """A file of rows, read as they are asked for."""

    columns: list[str]
    """Of the first row, where rows are objects of their own."""
    named: bool
    """Whether the columns have names, and not only numbers."""
    rows: Iterator[TableRow]


def read_table(
    path: Path,
    *,
    names: Collection[str],
    header: Literal["auto", "yes", "no"],
    reading: TextSettings,
    gold: bool = False,
) -> Table:
    """The rows of a file by its suffix: .tsv, .csv, .json or .jsonl (an object a line), else tabs.

    A file that begins with `[` is one list of objects, and with `gold` a `.data` file has its labels in the
    `.gold` file beside it.
    With `header` auto the first row names the columns if one of its cells is among `names`. Blank lines
    are passed over, except in a file of plain lines (no tab in the first), where each is a row.
    A `DataError` names file and line of a row that does not fit.
    """
    lines = read_lines(path, reading)
    suffix = next((s for s in reversed(path.suffixes) if s not in _COMPRESSED), "")
    beginning = next(lines)  # a file without any line is refused by `read_lines`
    lines = chain([beginning], lines)
    if beginning.strip() == "[" or beginning.lstrip().startswith("[{"):
        return _list_of_objects(path, lines, gold_beside(path) if gold else None)
    if suffix in (".json", ".jsonl"):
        return _objects(path, lines, reading)
    numbered = _csv(lines) if suffix == ".csv" else ((n, line.split("\t")) for n, line in enumerate(lines, 1))
    blank: list[tuple[int, list[str]]] = []
    first = next((row for row in numbered if not _put_aside(row, blank)), None)
    if first is None:
        raise DataError(f"{path} is empty; a file of examples needs at least one row")
    known = {name.casefold() for name in names}
    named = header == "yes" or (
        header == "auto" and any(cell.strip().casefold() in known for cell in first[1])
    )
    columns = [cell.strip() for cell in first[1]] if named else [str(n) for n in range(len(first[1]))]
    rows = numbered if named else chain(blank, [first], numbered)
    return Table(columns, named, _fitted(path, columns, rows))


def _put_aside(row: tuple[int, list[str]], blank: list[tuple[int, list[str]]]) -> bool:
    """Keep a blank row for a file of plain lines, where it counts."""
    if row[1] in _BLANK:
        blank.append(row)
    return row[1] in _BLANK


def _fitted(path: Path, columns: list[str], rows: Iterator[tuple[int, list[str]]]) -> Iterator[TableRow]:
    for number, cells in rows:
        if cells in _BLANK and len(columns) > 1:
            continue
        cells = cells or [""]
        if len(cells) != len(columns):
            bad(
                DataError(
                    f"{path}, line {number}: {len(cells)} columns where the first row has {len(columns)} "
                    f"({', '.join(columns)})"
                )
            )
            continue
        yield TableRow(f"{path}, line {number}", dict(zip(columns, cells, strict=True)))


def _csv(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(_LONGEST_CELL)  # The module's own limit is 131,072 characters.
    reader = csv.reader(line + "\n" for line in lines)
    for cells in reader:
        yield reader.line_num, cells


def _objects(path: Path, lines: Iterator[str], reading: TextSettings) -> Table:
    numbered = ((f"{path}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip())
    rows = parsed(numbered, lambda numbered_line: _object(*numbered_line, reading))
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} is empty; a file of examples needs at least one row")
    return Table(list(first.cells), True, chain([first], rows))


def _object(where: str, line: str, reading: TextSettings) -> TableRow:
    try:
        cells = decode_line(line, _DECODE, errors=reading.errors)
    except msgspec.DecodeError as error:
        raise DataError(
            f"{where}: not a JSON object ({why_not(line, error)}); write one object a line"
        ) from error
    return TableRow(where, plain_cells(cells, where, gold=None))


def _list_of_objects(path: Path, lines: Iterator[str], gold: dict[str, str] | None) -> Table:
    text = "\n".join(lines)
    try:
        objects = msgspec.json.decode(text, type=list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: not a list of JSON objects ({why_not(text, error)})") from error
    places = ((f"{path}, object {n}", cells) for n, cells in enumerate(objects, 1))
    rows = list(parsed(places, lambda place: TableRow(place[0], plain_cells(place[1], place[0], gold=gold))))
    if not rows:
        raise DataError(f"{path} is empty; a file of examples needs at least one row")
    return Table(list(rows[0].cells), True, iter(rows))
