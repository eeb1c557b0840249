"""Texts with their labels, from TSV, CSV, JSON lines or plain lines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from polyseme.errors import DataError
from polyseme.tasks.settings import ClassificationSettings
from polyseme.tasks.skipping import parsed
from polyseme.tasks.tables import Table, TableRow, read_table
from polyseme.text.reading import TextSettings

TEXT_NAMES = ("text_a", "text", "sentence", "sentence1", "premise", "question1", "query", "content", "review")
PAIR_NAMES = ("text_b", "sentence2", "hypothesis", "question2")
LABEL_NAMES = ("label", "labels", "class", "category", "target")
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


def read_labelled(path: Path, settings: ClassificationSettings, *, labelled: bool) -> Iterator[LabelledText]:
    """The examples of a TSV, CSV or JSON-lines file, in order.

    A missing column, a missing label or a row that does not fit is a `DataError` that names the
    columns found, or file and line.
    """
    chosen = (settings.text_column, settings.pair_column, settings.label_column)
    table = read_table(
        path,
        names=[*TEXT_NAMES, *PAIR_NAMES, *LABEL_NAMES, *(name for name in chosen if name)],
        header=settings.header,
        reading=TextSettings(format="lines", encoding=settings.encoding, errors=settings.errors),
    )
    columns = _columns(table, settings, path=path, labelled=labelled)
    label = columns.label if labelled else None
    yield from parsed(table.rows, lambda row: _example(row, columns._replace(label=label), settings))


def _example(row: TableRow, columns: "Columns", settings: ClassificationSettings) -> LabelledText:
    return LabelledText(
        text=_text(row, columns.text),
        pair=_text(row, columns.pair) if columns.pair is not None else None,
        labels=_labels(row, columns.label, settings) if columns.label is not None else None,
        where=row.where,
    )


class Columns(NamedTuple):
    """Where a file has what."""

    text: str
    pair: str | None
    label: str | None


def _columns(table: Table, settings: ClassificationSettings, *, path: Path, labelled: bool) -> Columns:
    """The columns by choice, or else by the names they are known by, or else by their order."""
    for chosen in (settings.text_column, settings.pair_column, settings.label_column if labelled else None):
        if chosen is not None and chosen not in table.columns:
            raise DataError(f"{path} has no column {chosen!r}; it has {', '.join(table.columns)}")
    found = _by_name(table, settings) if table.named else _by_order(table, settings)
    if found.text is None or (labelled and found.label is None):
        missing, option = ("text", "--text-column") if found.text is None else ("label", "--label-column")
        raise DataError(
            f"{path} has no column known as a {missing}; it has {', '.join(table.columns)}: "
            f"name one with {option}"
        )
    return found


def _by_name(table: Table, settings: ClassificationSettings) -> Columns:
    columns = {column.casefold(): column for column in reversed(table.columns)}

    def known(names: Sequence[str]) -> Any:
        return next((columns[name] for name in names if name in columns), None)

    return Columns(
        settings.text_column or known(TEXT_NAMES),
        settings.pair_column or known(PAIR_NAMES),
        settings.label_column or known(LABEL_NAMES),
    )


def _by_order(table: Table, settings: ClassificationSettings) -> Columns:
    """Text and label, or two texts and label; a single column is text."""
    free = table.columns
    label = settings.label_column or (free[-1] if 1 < len(free) <= 3 else None)
    free = [column for column in free if column not in (label, settings.pair_column)]
    text: Any = settings.text_column or (free[0] if free and len(table.columns) <= 3 else None)
    free = [column for column in free if column != text]
    return Columns(
        text, settings.pair_column or (free[0] if len(table.columns) == 3 and free else None), label
    )


def _labels(row: TableRow, column: str, settings: ClassificationSettings) -> tuple[str, ...]:
    value = row.cells.get(column)
    if settings.several:
        parts = value if isinstance(value, list) else str(value or "").split(settings.separator)
        return tuple(dict.fromkeys(name for part in parts if (name := _name(part))))
    name = _name(value)
    if name == "" or isinstance(value, list | dict):
        raise DataError(f"{row.where}: {column} is {value!r}; every text here needs exactly one label")
    return (name,)


def _text(row: TableRow, column: str) -> str:
    value = row.cells.get(column)
    if not isinstance(value, str):
        raise DataError(f"{row.where}: {column} is {value!r}; it must be text")
    return value


def _name(value: Any) -> str:
    """A label as text: 1 and "1" are the same one."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()
