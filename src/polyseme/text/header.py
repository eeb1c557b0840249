"""Whether the first row of a table names its columns; where that is doubtful, the user is asked."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from polyseme.errors import DataError
from polyseme.text.column_names import is_known, looks_like_a_name
from polyseme.text.delimited import DelimitedSettings, other_delimiter, split_otherwise

LOOK = 10_000
"""Rows that the first row is compared with."""
_CLEAR_SHARE = 0.8


def has_header(
    first: Sequence[str],
    others: Sequence[Sequence[str]],
    path: Path,
    *,
    header: Literal["auto", "yes", "no"],
    roles: Collection[str],
    chosen: Collection[str] = (),
    label: int | None = None,
    options: str = "--text-column",
) -> bool:
    """Whether the first row names the columns.

    It does where it has a name that was `chosen` or that is known for one of `roles`, unless that stands
    in the same column of another row too. Any other first row is an example, unless it looks like names
    and is of another kind than the rows below it: then a `DataError` asks for a decision. `label` is the
    column of the labels in a file without header; `options` are what names columns.
    """
    if header != "auto":
        return header == "yes"
    cells = [cell.strip() for cell in first]
    if any(cell and cell in chosen for cell in cells):
        return True
    known = [number for number, cell in enumerate(cells) if is_known(cell, roles)]
    if any(not _stands_below(cells[number], number, others) for number in known):
        return True
    why = None if known else _doubt(cells, others, label)
    if why is not None:
        names = ", ".join(map(repr, cells))
        raise DataError(
            f"{path}, line 1: {names} may be an example or the names of the columns: {why}; say --header no, "
            f"or --header yes and which column is which with {options}"
        )
    return False


def refuse_other_delimiter(
    path: Path, settings: DelimitedSettings, line: str, roles: Collection[str]
) -> None:
    """Refuse a file of one column whose first line has known names between other delimiters."""
    hint = other_delimiter(path, settings, line)
    cells = [cell.strip(" \"'") for cell in split_otherwise(path, settings, line)]
    if hint and any(is_known(cell, roles) for cell in cells) and all(map(looks_like_a_name, cells)):
        raise DataError(f"{path} is read as one column{hint}")


def _doubt(cells: Sequence[str], others: Sequence[Sequence[str]], label: int | None) -> str | None:
    """Why a first row without known names might name the columns; None where it does not look so."""
    if len(cells) < 2 or not others or not all(not cell or looks_like_a_name(cell) for cell in cells):
        return None
    for number, cell in enumerate(cells):
        below = [row[number].strip() for row in others if number < len(row)]
        if cell and below and all(_is_number(other) for other in below if other) and any(below):
            return f"all rows below have a number in the place of {cell!r}"
    if label is not None and label < len(cells):
        cell = cells[label]
        if cell and not _stands_below(cell, label, others, inside=True):
            return f"{cell!r} is the label of no other row"
        return None
    if any(cell and _stands_below(cell, number, others) for number, cell in enumerate(cells)):
        return None
    for number, cell in enumerate(cells):
        below = [row[number] for row in others if number < len(row)]
        if cell and len(below) > 2 and sum(map(_is_text, below)) > _CLEAR_SHARE * len(below):
            return f"the rows below have longer texts in the place of {cell!r}"
    return None


def _stands_below(cell: str, number: int, others: Sequence[Sequence[str]], *, inside: bool = False) -> bool:
    """Whether the cell stands in its column of another row; `inside` another cell too."""
    below = (row[number].strip() for row in others if number < len(row))
    return any(cell in other if inside else cell == other for other in below)


def _is_text(cell: str) -> bool:
    return not looks_like_a_name(cell) and not _is_number(cell.strip())


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
