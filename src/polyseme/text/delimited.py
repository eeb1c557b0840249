"""Lines of a CSV or TSV file to rows of cells, quoted cells read; what is broken names its line.

In CSV a cell may stand in quotation marks, with delimiters, line ends and doubled quotation marks inside
(RFC 4180). Files whose columns are split by tabs come in two kinds: with such cells (pandas' `to_csv`), and
with quotation marks that belong to the text (MRPC, QNLI). Where nothing is said, a cell of such a file is
read as quoted only where it cannot be anything else: a quotation mark is doubled inside, or the row has the
right number of columns only so.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from polyseme.errors import DataError
from polyseme.records import Record

_COMPRESSED = {".gz", ".bz2", ".xz"}
_LONGEST_CELL = 2**31 - 1
_MOST_LINES = 10_000
"""Lines of one row; a quotation mark that is open for longer was never meant to open a cell."""
_MOST_JOINED = 200
"""The same where quoted cells are only looked for."""
_DELIMITERS = {"\t": "a tab", ";": "a semicolon", ",": "a comma", "|": "a vertical bar"}


class DelimitedSettings(Record, frozen=True, kw_only=True):
    """How the columns of CSV and TSV files are split."""

    header: Literal["auto", "yes", "no"] = "auto"
    """Whether the first row of a TSV or CSV file is a header. auto: it is where it has a known name, such as
    text or 标签; a doubtful row is an error that asks for yes or no."""
    delimiter: str | None = None
    """The delimiter of the columns of a TSV or CSV file: one character, or the word tab; usually a comma in
    .csv and a tab elsewhere."""
    quoting: Literal["auto", "csv", "none"] = "auto"
    """csv: cells may be enclosed in double quotes; none: quotation marks belong to the text; auto: csv in
    .csv files, elsewhere only for cells that would not make sense otherwise."""

    def __post_init__(self) -> None:
        if self.delimiter is not None and self.delimiter not in ("tab", "\\t") and len(self.delimiter) != 1:
            raise ValueError(f"delimiter must be one character, or the word tab, got {self.delimiter!r}")


class NumberedRow(NamedTuple):
    """The cells of a row, and the line that it begins in."""

    line: int
    cells: list[str]


def _raise(error: DataError) -> NoReturn:
    raise error


def suffix_of(path: Path) -> str:
    """The suffix that tells the form of a file, that of a compression left out."""
    return next((suffix for suffix in reversed(path.suffixes) if suffix not in _COMPRESSED), "").lower()


def delimiter_of(path: Path, settings: DelimitedSettings) -> str:
    """What splits the columns of this file."""
    if settings.delimiter is not None:
        return "\t" if settings.delimiter in ("tab", "\\t") else settings.delimiter
    return "," if suffix_of(path) == ".csv" else "\t"


def other_delimiter(path: Path, settings: DelimitedSettings, line: str) -> str:
    """For the end of a message about a file of one column: what would split its first line, or nothing."""
    character = _otherwise(path, settings, line)
    if character is None:
        return ""
    option = "tab" if character == "\t" else repr(character)
    return (
        f"; {_DELIMITERS[character]} would split its first line into {len(line.split(character))} columns: "
        f"say --delimiter {option}"
    )


def split_otherwise(path: Path, settings: DelimitedSettings, line: str) -> list[str]:
    """The cells of a line by the delimiter that `other_delimiter` names."""
    return line.split(_otherwise(path, settings, line) or delimiter_of(path, settings))


def _otherwise(path: Path, settings: DelimitedSettings, line: str) -> str | None:
    used = delimiter_of(path, settings)
    return next((character for character in _DELIMITERS if character != used and character in line), None)


def numbered_rows(
    lines: Iterable[str],
    path: Path,
    settings: DelimitedSettings,
    *,
    refuse: Callable[[DataError], object] = _raise,
) -> Iterator[NumberedRow]:
    """The rows of the lines of a file; `refuse` is told of a row that is broken, which is then left out."""
    delimiter = delimiter_of(path, settings)
    numbered = enumerate(lines, 1)
    quoting = settings.quoting
    if quoting == "csv" or (quoting == "auto" and suffix_of(path) == ".csv"):
        return _csv(numbered, path, delimiter, refuse)
    plain = (NumberedRow(number, line.split(delimiter)) for number, line in numbered)
    return plain if quoting == "none" else _where_unmistakable(plain, delimiter)


def _csv(
    numbered: Iterable[tuple[int, str]],
    path: Path,
    delimiter: str,
    refuse: Callable[[DataError], object],
) -> Iterator[NumberedRow]:
    csv.field_size_limit(_LONGEST_CELL)  # The module's own limit is 131,072 characters.
    begin = last = 0
    held: list[str] = []
    ended = False

    def feed() -> Iterator[str]:
        nonlocal begin, last, ended
        for last, line in numbered:
            begin = begin or last
            held.append(line)
            if last - begin >= _MOST_LINES:
                raise DataError(_open_quote(path, begin, held, f" in {_MOST_LINES:,} lines"))
            yield line + "\n"
        ended = True

    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    while True:
        begin = 0
        held.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if ended:
                refuse(DataError(_open_quote(path, begin, held, "")))
                return
            opens = f" that opens in line {begin}" if last > begin else ""
            refuse(
                DataError(
                    f"{path}, line {last}: text follows the end of a quoted cell{opens} ({error}); write a "
                    'quotation mark inside a quoted cell as "", or say --quoting none where they belong to '
                    "the text"
                )
            )
            continue
        yield NumberedRow(begin, cells)


def _open_quote(path: Path, begin: int, lines: list[str], within: str) -> str:
    """The message about a quotation mark that never closes, with the line where it opens."""
    opened, marks = begin, 0
    for number, line in enumerate(lines, begin):
        if marks % 2 == 0:
            opened = number
        marks += line.count('"')
    return (
        f"{path}: the quotation mark that opens a cell in line {opened} is not closed{within}; close it, or "
        "say --quoting none where quotation marks belong to the text"
    )


def _where_unmistakable(plain: Iterator[NumberedRow], delimiter: str) -> Iterator[NumberedRow]:
    """The rows, with cells read as quoted where they cannot be anything else."""
    width = 0
    waiting: list[NumberedRow] = []
    while True:
        row = waiting.pop(0) if waiting else next(plain, None)
        if row is None:
            return
        quoted = any(cell.startswith('"') for cell in row.cells)
        if quoted:
            row = _unquoted(row, plain, waiting, delimiter, width or len(row.cells))
        width = width or (0 if row.cells == [""] else len(row.cells))
        yield row


def _unquoted(
    row: NumberedRow, plain: Iterator[NumberedRow], waiting: list[NumberedRow], delimiter: str, width: int
) -> NumberedRow:
    """The row with its quoted cells read, from as many lines as it takes; as it is where they do not fit."""
    text = delimiter.join(row.cells)
    cells = quoted_cells(text, delimiter)
    if cells is not None:
        fits = len(cells) == width and (len(row.cells) != width or any(map(_has_doubled, row.cells)))
        return NumberedRow(row.line, cells) if fits else row
    if not _is_open(text, delimiter):
        return row
    taken: list[NumberedRow] = []
    while len(taken) < _MOST_JOINED:
        following = waiting.pop(0) if waiting else next(plain, None)
        if following is None:
            break
        taken.append(following)
        if not taken[1:] and len(row.cells) == width == len(following.cells):
            break  # Two good rows: the quotation mark is the text's.
        text += "\n" + delimiter.join(following.cells)
        cells = quoted_cells(text, delimiter)
        if cells is not None and len(cells) == width:
            return NumberedRow(row.line, cells)
        if not _is_open(text, delimiter):
            break
    waiting[:0] = taken
    return row


def _has_doubled(cell: str) -> bool:
    """Whether a cell stands in quotation marks and has a doubled one inside."""
    return len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in cell[1:-1]


def quoted_cells(text: str, delimiter: str) -> list[str] | None:
    """The cells of a row by the rules of CSV; None where a quotation mark is left open or misplaced.

    >>> quoted_cells('"a, ""b"" c",d', ",")
    ['a, "b" c', 'd']
    >>> quoted_cells('"a, b', ",") is None
    True
    """
    csv.field_size_limit(_LONGEST_CELL)
    try:
        rows = list(csv.reader((line + "\n" for line in text.split("\n")), delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else ([""] if not rows or text == "" else None)


def _is_open(text: str, delimiter: str) -> bool:
    """Whether a quoted cell is open at the end of the text, by the rules of CSV."""
    return quoted_cells(text, delimiter) is None and quoted_cells(text + '"', delimiter) is not None
