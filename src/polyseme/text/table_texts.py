"""The texts of one column of a CSV or TSV file, for whoever reads text and no labels."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from polyseme import progress
from polyseme.errors import DataError
from polyseme.text.column_names import all_known_as, known_as
from polyseme.text.delimited import DelimitedSettings, NumberedRow, numbered_rows
from polyseme.text.header import LOOK, has_header, refuse_other_delimiter

_BLANK: tuple[list[str], ...] = ([], [""])
_ROLES = ("text", "pair", "label", "score", "id")


class TextColumnSettings(DelimitedSettings, frozen=True, kw_only=True):
    """Which column of a table holds the text, and how its columns are split."""

    text_column: str | None = None
    """Of CSV, TSV and JSON lines, the column or field that holds the text, by name, or by number from 0 in a
    table without header; usually known by its name."""


def table_texts(
    lines: Iterator[str], path: Path, settings: TextColumnSettings, *, announce: bool
) -> Iterator[str]:
    """The cells of the column of texts, one a row, in order.

    The column is the chosen one, or the one that is known by its name, or the only one; where that leaves a
    doubt a `DataError` asks for it. With `announce` it is said which column is read.
    """
    column = settings.text_column
    numbered = numbered_rows(lines, path, settings)
    near = list(islice(numbered, LOOK))
    begin = next((number for number, row in enumerate(near) if row.cells not in _BLANK), None)
    if begin is None:
        return
    first = near[begin].cells
    named = has_header(
        first,
        [row.cells for row in near[begin + 1 :] if row.cells not in _BLANK],
        path,
        header=settings.header,
        roles=_ROLES,
        chosen=[] if column is None or column.isdecimal() else [column],
    )
    place = _place(path, [cell.strip() for cell in first], column, named=named)
    if not named and len(first) == 1:
        refuse_other_delimiter(path, settings, first[0], _ROLES)
    for row in chain(near[begin + 1 :] if named else near, numbered):
        if row.cells in _BLANK and len(first) > 1:
            continue
        text = _cell(path, row, place, len(first))
        if announce:
            _say(path, first, place, text, named=named)
            announce = False
        yield text


def _place(path: Path, first: Sequence[str], column: str | None, *, named: bool) -> int:
    """The number of the column of texts."""
    if column is not None and named and column in first:
        return first.index(column)
    if column is not None and column.isdecimal() and int(column) < len(first):
        return int(column)
    if column is not None:
        has = ", ".join(first) if named else f"{', '.join(map(str, range(len(first))))} and no header"
        raise DataError(f"{path} has no column {column!r}; it has {has}")
    if len(first) == 1:
        return 0
    known, pair = (known_as(role, first) if named else None for role in ("text", "pair"))
    if known is not None and pair is None:
        return first.index(known)
    both = f"two columns of texts, {known} and {pair}" if pair is not None else "no column known as a text"
    shown = ", ".join(repr(cell[:20]) for cell in first[:10])
    raise DataError(
        f"{path} has {both}; its first row is {shown}: name one with --text-column (by number from 0 where "
        "there is no header), or say --format lines to read whole lines"
    )


def _say(path: Path, first: Sequence[str], place: int, text: str, *, named: bool) -> None:
    """One line about what is read, with the first text."""
    others = [cell for number, cell in enumerate(first) if number != place]
    unread = f"; not read: {', '.join(others[:8])}" if named and others else ""
    count = f" of {len(first)}" if len(first) > 1 else ""
    what = f"the column {first[place]!r}" if named else f"column {place}{count}, without a header"
    also = [name for name in all_known_as("text", others) if name] if named else []
    hint = " (--text-column names another)" if also else ""
    progress.say(f"{path}: a table, of which {what} is read{unread}{hint}; the first text: {text[:40]!r}")


def _cell(path: Path, row: NumberedRow, place: int, width: int) -> str:
    cells = row.cells or [""]
    if len(cells) != width:
        raise DataError(
            f"{path}, line {row.line}: {len(cells)} columns where the first row has {width}; --format lines "
            "reads whole lines"
        )
    return cells[place]
