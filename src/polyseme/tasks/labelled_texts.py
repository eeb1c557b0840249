"""Texts with their labels, from TSV, CSV, JSON lines or plain lines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from polyseme.errors import DataError
from polyseme.tasks.settings import ClassificationSettings, ColumnSettings
from polyseme.tasks.skipping import parsed
from polyseme.tasks.tables import Table, TableRow, read_table
from polyseme.text.reading import TextSettings, read_lines

TEXT_NAMES = (
    "text_a",
    "text",
    "sentence",
    "sentence1",
    "sentence_a",
    "premise",
    "question1",
    "query",
    "content",
    "review",
    "abst",
    "#1 string",
)
PAIR_NAMES = ("text_b", "sentence2", "sentence_b", "hypothesis", "question2", "#2 string")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "quality", "entailment_judgment")
"""Names of columns that are known without being told; the first that is there counts."""


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One example."""

    text: str
    pair: str | None
    labels: tuple[str, ...] | None
    """None where the file does not say; empty where a text has none of several."""
    where: str
    """File and line, for messages."""


class MarkedText(NamedTuple):
    """A text and whatever stands in its label's cell."""

    text: str
    pair: str | None
    mark: Any
    where: str
    column: str = "label"
    """Of the mark."""


def read_labelled(path: Path, settings: ClassificationSettings, *, labelled: bool) -> Iterator[LabelledText]:
    """The examples of a TSV, CSV or JSON file, or of lines that begin with their label, in order.

    A missing column, a missing label or a row that does not fit is a `DataError` that names the
    columns found, or file and line.
    """
    if settings.label_first:
        marked = _label_first(path, settings)
    else:
        marked = read_marked(path, settings, labelled=labelled, label_names=LABEL_NAMES)

    def example(text: MarkedText) -> LabelledText:
        labels = _labels(text, settings) if labelled else None
        return LabelledText(text.text, text.pair, labels, text.where)

    return parsed(marked, example)


def read_marked(
    path: Path, settings: ColumnSettings, *, labelled: bool, label_names: Sequence[str]
) -> Iterator[MarkedText]:
    """The rows of a file by its columns; the label's is known by `label_names`, or is the last one."""
    chosen = (settings.text_column, settings.pair_column, settings.label_column)
    table = read_table(
        path,
        names=[
            *TEXT_NAMES,
            *PAIR_NAMES,
            *label_names,
            *(name for name in chosen if name and not name.isdecimal()),
        ],
        header=settings.header,
        reading=_lines(settings),
        gold=labelled,
    )
    columns = _columns(table, settings, label_names, path=path, labelled=labelled)

    def marked(row: TableRow) -> MarkedText:
        text = _text(row, columns.text)
        pair = None if columns.pair is None else _text(row, columns.pair)
        if labelled and not (text.strip() or (pair or "").strip()):
            raise DataError(f"{row.where}: {columns.text} is empty; an example to learn from needs a text")
        mark = row.cells.get(columns.label) if labelled and columns.label is not None else None
        return MarkedText(text, pair, mark, row.where, columns.label or "label")

    return parsed(table.rows, marked)


def _label_first(path: Path, settings: ClassificationSettings) -> Iterator[MarkedText]:
    def marked(numbered: tuple[int, str]) -> MarkedText:
        number, line = numbered
        label, _, text = line.strip().partition(" ")
        if not text:
            raise DataError(f"{path}, line {number}: {line[:40]!r} is not a label, a blank and a text")
        return MarkedText(text.strip(), None, label, f"{path}, line {number}")

    lines = enumerate(read_lines(path, _lines(settings)), 1)
    return parsed(((number, line) for number, line in lines if line.strip()), marked)


def _lines(settings: ColumnSettings) -> TextSettings:
    return TextSettings(format="lines", encoding=settings.encoding, errors=settings.errors)


class Columns(NamedTuple):
    """Where a file has what."""

    text: str
    pair: str | None
    label: str | None


def _columns(
    table: Table, settings: ColumnSettings, label_names: Sequence[str], *, path: Path, labelled: bool
) -> Columns:
    """The columns by choice, or else by the names they are known by, or else by their order."""
    for chosen in (settings.text_column, settings.pair_column, settings.label_column if labelled else None):
        if chosen is not None and chosen not in table.columns:
            raise DataError(f"{path} has no column {chosen!r}; it has {', '.join(table.columns)}")
    found = _by_name(table, settings, label_names) if table.named else _by_order(table, settings)
    if found.text is None or (labelled and found.label is None):
        missing, option = ("text", "--text-column") if found.text is None else ("label", "--label-column")
        or_else = ", or say --label-first where every line begins with its label and a blank"
        raise DataError(
            f"{path} has no column known as a {missing}; it has {', '.join(table.columns)}: "
            f"name one with {option}{or_else if len(table.columns) == 1 else ''}"
        )
    return found


def _by_name(table: Table, settings: ColumnSettings, label_names: Sequence[str]) -> Columns:
    columns = {column.casefold(): column for column in reversed(table.columns)}

    def known(names: Sequence[str]) -> Any:
        return next((columns[name] for name in names if name in columns), None)

    return Columns(
        settings.text_column or known(TEXT_NAMES),
        settings.pair_column or known(PAIR_NAMES),
        settings.label_column or known(label_names),
    )


def _by_order(table: Table, settings: ColumnSettings) -> Columns:
    """Text and label, or two texts and label; a single column is text."""
    free = table.columns
    label = settings.label_column or (free[-1] if 1 < len(free) <= 3 else None)
    free = [column for column in free if column not in (label, settings.pair_column)]
    text: Any = settings.text_column or (free[0] if free and len(table.columns) <= 3 else None)
    free = [column for column in free if column != text]
    return Columns(
        text, settings.pair_column or (free[0] if len(table.columns) == 3 and free else None), label
    )


def _labels(text: MarkedText, settings: ClassificationSettings) -> tuple[str, ...]:
    mark = text.mark
    if settings.several:
        parts = mark if isinstance(mark, list) else str(mark or "").split(settings.separator)
        return tuple(dict.fromkeys(name for part in parts if (name := _name(part, settings))))
    one = mark[0] if isinstance(mark, list) and len(mark) == 1 else mark
    name = _name(one, settings)
    if name == "" or isinstance(one, list | dict):
        raise DataError(f"{text.where}: {text.column} is {mark!r}; every text here needs exactly one label")
    return (name,)


def _text(row: TableRow, column: str) -> str:
    value = row.cells.get(column)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "；".join(value)  # FewCLUE's keywords
    if not isinstance(value, str):
        raise DataError(f"{row.where}: {column} is {value!r}; it must be text")
    return value


def _name(value: Any, settings: ClassificationSettings) -> str:
    """A label as text: 1 and "1" are the same one."""
    if value is None:
        return ""
    name = str(value).lower() if isinstance(value, bool) else str(value).strip()
    return name if settings.label_until is None else name.partition(settings.label_until)[0]
