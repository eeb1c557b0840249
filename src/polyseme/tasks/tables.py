"""Rows of a labelled file by the names of their columns: TSV, CSV, JSON, plain lines."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from polyseme.errors import DataError
from polyseme.tasks.exports import gold_beside, plain_cells
from polyseme.tasks.skipping import bad, parsed
from polyseme.text.delimited import (
    DelimitedSettings,
    NumberedRow,
    numbered_rows,
    other_delimiter,
    suffix_of,
)
from polyseme.text.header import LOOK, has_header, refuse_other_delimiter
from polyseme.text.json_lines import decode_line, why_not
from polyseme.text.reading import TextSettings, read_lines

_BLANK: tuple[list[str], ...] = ([], [""])
_DECODE = msgspec.json.Decoder(dict[str, Any]).decode
_DECODE_LIST = msgspec.json.Decoder(list[dict[str, Any]]).decode


class FileSettings(DelimitedSettings, frozen=True, kw_only=True):
    """How the rows of a labelled file are read."""

    encoding: str = "utf-8"
    """Encoding of the files, or `auto`."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not in the encoding."""


class TableRow(NamedTuple):
    """One row; the columns of a file without header are called "0", "1" …"""

    where: str
    """File and line, for messages."""
    cells: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A file of rows, read as they are asked for."""

    path: Path
    columns: list[str]
    """Of the first row; of objects those of the first 10,000 or, in a list, of all."""
    named: bool
    """Whether the columns have names, and not only numbers."""
    rows: Iterator[TableRow]
    first_line: str = ""
    """Of a file of columns."""
    objects: bool = False
    """Whether the rows are JSON objects."""

    def need(self, chosen: str | None) -> None:
        """Refuse a column that was chosen and is not there."""
        if chosen is None or chosen in self.columns:
            return
        first = "" if self.named else f"; no header was seen, the first row is {self.first_line[:60]!r}"
        raise DataError(f"{self.path} has no column {chosen!r}; it has {', '.join(self.columns)}{first}")

    def hint(self, settings: DelimitedSettings) -> str:
        """For the end of a message about a missing column: what would split the columns, if anything."""
        if self.objects or len(self.columns) > 1:
            return ""
        return other_delimiter(self.path, settings, self.first_line)

    def about(self, roles: dict[str, str | None]) -> str:
        """What was taken for what: the header, the column of each role, and the columns that are not read."""
        taken = {role: column for role, column in roles.items() if column is not None}
        kind = "keys" if self.objects else "columns"
        header = "" if self.objects else ("the first row is a header; " if self.named else "no header; ")
        parts = [f"{role} {'' if self.named else 'column '}{column}" for role, column in taken.items()]
        left = [column for column in self.columns if column not in taken.values()]
        unread = f"; {kind} not read: {', '.join(left[:8])}{' …' if len(left) > 8 else ''}" if left else ""
        return f"{header}{', '.join(parts)}{unread}"


def read_table(
    path: Path,
    settings: FileSettings,
    *,
    roles: Collection[str],
    chosen: Sequence[str | None] = (),
    options: str = "--text-column",
    label: str | None = None,
    gold: bool = False,
) -> Table:
    """The rows of a file by its suffix: .csv, .json or .jsonl (an object a line), else columns split by tabs.

    A file that begins with `[` is one list of objects, and with `gold` a `.data` file has its labels in the
    `.gold` file beside it. The first row may name the columns: `has_header` says when, by the names that
    are known for `roles` and the `chosen` ones; `label` is the column of labels without a header, "-1" for
    the last of up to three. Blank lines are passed over, except in a file of one column, where each is a row.
    A `DataError` names file and line of a row that does not fit.
    """
    lines = read_lines(path, _reading(settings))
    beginning = next(lines)  # a file without any line is refused by `read_lines`
    lines = chain([beginning], lines)
    if beginning.strip() == "[" or beginning.lstrip().startswith("[{"):
        return _list_of_objects(path, lines, gold_beside(path) if gold else None)
    if suffix_of(path) in (".json", ".jsonl", ".ndjson"):
        return _objects(path, lines, settings)
    numbered = numbered_rows(lines, path, settings, refuse=bad)
    blank: list[NumberedRow] = []
    first = next((row for row in numbered if not _put_aside(row, blank)), None)
    if first is None:
        raise DataError(f"{path} is empty; a file of examples needs at least one row")
    near = list(islice(numbered, LOOK))
    named = has_header(
        first.cells,
        [row.cells for row in near],
        path,
        header=settings.header,
        roles=roles,
        chosen=[name for name in chosen if name and not name.isdecimal()],
        label=_label_place(label, len(first.cells)),
        options=options,
    )
    if not named and len(first.cells) == 1:
        refuse_other_delimiter(path, settings, beginning, roles)
    columns = [cell.strip() for cell in first.cells] if named else [str(n) for n in range(len(first.cells))]
    rows = chain(near, numbered) if named else chain(blank, [first], near, numbered)
    return Table(path, columns, named, _fitted(path, columns, rows), beginning)


def _reading(settings: FileSettings) -> TextSettings:
    return TextSettings(format="lines", encoding=settings.encoding, errors=settings.errors)


def _label_place(label: str | None, width: int) -> int | None:
    """The number of the label's column in a file without header; None where nobody knows."""
    if label == "-1":
        return width - 1 if 1 < width <= 3 else None
    return int(label) if label is not None and label.isdecimal() else None


def _put_aside(row: NumberedRow, blank: list[NumberedRow]) -> bool:
    """Keep a blank row for a file of plain lines, where it counts."""
    if row.cells in _BLANK:
        blank.append(row)
    return row.cells in _BLANK


def _fitted(path: Path, columns: list[str], rows: Iterator[NumberedRow]) -> Iterator[TableRow]:
    for number, cells in rows:
        if cells in _BLANK and len(columns) > 1:
            continue
        cells = cells or [""]
        if len(cells) != len(columns):
            quoted = any(cell.count('"') % 2 for cell in cells)
            bad(
                DataError(
                    f"{path}, line {number}: {len(cells)} columns where the first row has {len(columns)} "
                    f"({', '.join(columns)})"
                    + ("; a quoted cell may go on in other lines: say --quoting csv" if quoted else "")
                )
            )
            continue
        yield TableRow(f"{path}, line {number}", dict(zip(columns, cells, strict=True)))


def _objects(path: Path, lines: Iterator[str], settings: FileSettings) -> Table:
    numbered = ((f"{path}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip())
    rows = parsed(numbered, lambda numbered_line: _object(*numbered_line, settings))
    near = list(islice(rows, LOOK))
    if not near:
        raise DataError(f"{path} is empty; a file of examples needs at least one row")
    return Table(path, _keys(near), True, chain(near, rows), objects=True)


def _object(where: str, line: str, settings: FileSettings) -> TableRow:
    try:
        cells = decode_line(line, _DECODE, errors=settings.errors)
    except msgspec.DecodeError as error:
        raise DataError(
            f"{where}: not a JSON object ({why_not(line, error)}); write one object a line"
        ) from error
    return TableRow(where, plain_cells(cells, where, gold=None))


def _list_of_objects(path: Path, lines: Iterator[str], gold: dict[str, str] | None) -> Table:
    text = "\n".join(lines)
    try:
        objects = decode_line(text, _DECODE_LIST, errors="strict")
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: not a list of JSON objects ({why_not(text, error)})") from error
    places = ((f"{path}, object {n}", cells) for n, cells in enumerate(objects, 1))
    rows = list(parsed(places, lambda place: TableRow(place[0], plain_cells(place[1], place[0], gold=gold))))
    if not rows:
        raise DataError(f"{path} is empty; a file of examples needs at least one row")
    return Table(path, _keys(rows), True, iter(rows), objects=True)


def _keys(rows: Sequence[TableRow]) -> list[str]:
    """Every key, in the order in which they first appear: tools leave out those of empty values."""
    return list(dict.fromkeys(key for row in rows for key in row.cells))
