"""Texts with their labels, from TSV, CSV, JSON lines or plain lines."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from polyseme.errors import DataError
from polyseme.tasks.exports import export_value
from polyseme.tasks.label_values import is_skipped, say_skipped
from polyseme.tasks.reading_report import announced, shortened
from polyseme.tasks.settings import ClassificationSettings, ColumnSettings
from polyseme.tasks.skipping import parsed
from polyseme.tasks.tables import Table, TableRow, read_table
from polyseme.text.column_names import all_known_as, known_as
from polyseme.text.reading import TextSettings, read_lines

_FASTTEXT = "__label__"
_LEADING = re.compile(rf"(?:{_FASTTEXT}\S+\s*)+")
_DOCCANO = ["id", "data", "label"]
_COLUMN_OPTIONS = "--text-column and --label-column"


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One example."""

    text: str
    pair: str | None
    labels: tuple[str, ...] | None
    """None where the file does not say; empty where a text has none of several."""
    where: str
    """File and line, for messages."""
    cells: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Of an example to answer, the columns of its row."""


class MarkedText(NamedTuple):
    """A text and whatever stands in its label's cell."""

    text: str
    pair: str | None
    mark: Any
    where: str
    column: str = "label"
    """Of the mark."""
    cells: Mapping[str, Any] = {}
    """Of an example to answer, the columns of its row."""
    separator: str = "|"
    """What stands between several labels in this file."""


def read_labelled(path: Path, settings: ClassificationSettings, *, labelled: bool) -> Iterator[LabelledText]:
    """The examples of a TSV, CSV or JSON file, or of lines that begin with their label, in order.

    A missing column, a missing label or a row that does not fit is a `DataError` that names the
    columns found, or file and line; so is a table of which it is not clear what stands where.
    """
    if settings.label_first or _is_fasttext(path, settings):
        marked, about = _label_first(path, settings), "each line is its label and the text"
    else:
        marked, about = read_marked(path, settings, labelled=labelled, role="label")

    def example(text: MarkedText) -> LabelledText:
        labels = _labels(text, settings) if labelled else None
        return LabelledText(text.text, text.pair, labels, text.where, text.cells)

    return announced(parsed(marked, example), path, lambda first: f"{about}; the first: {_shown(first)}")


def read_marked(
    path: Path, settings: ColumnSettings, *, labelled: bool, role: str
) -> tuple[Iterator[MarkedText], str]:
    """The rows of a file by its columns, and a line that says which these are.

    The label's column is known by the names for `role`, or is the last one.
    """
    table = read_table(
        path,
        settings,
        roles=("text", "pair", role),
        chosen=(settings.text_column, settings.pair_column, settings.label_column),
        options=_COLUMN_OPTIONS if labelled else "--text-column",
        label=(settings.label_column or "-1") if labelled else None,
        gold=labelled,
    )
    columns = _columns(table, settings, role, labelled=labelled)
    doccano = not table.objects and [column.casefold() for column in table.columns] == _DOCCANO
    separator = "#" if doccano else "|"

    def cells(row: TableRow) -> Mapping[str, Any]:
        alone = not table.named and len(row.cells) == 1
        return {} if labelled else {"text": row.cells["0"]} if alone else row.cells

    def marked(row: TableRow) -> MarkedText:
        text = _text(row, columns.text)
        pair = None if columns.pair is None else _text(row, columns.pair)
        if labelled and not (text.strip() or (pair or "").strip()):
            raise DataError(f"{row.where}: {columns.text} is empty; an example to learn from needs a text")
        mark = row.cells.get(columns.label) if labelled and columns.label is not None else None
        name = columns.label or "label"
        mark = export_value(mark, f"{row.where}: {name}")
        return MarkedText(text, pair, mark, row.where, name, cells(row), separator)

    return _without_skipped(parsed(table.rows, marked), path, settings), table.about(
        {"text": columns.text, "pair": columns.pair, role: columns.label if labelled else None}
    )


def example_of(given: Any, where: str) -> LabelledText:
    """An example without label from a text, a pair of texts, or an object with `text` and perhaps `pair`."""
    return LabelledText(*text_and_pair(given, where), None, where)


def text_and_pair(given: Any, where: str) -> tuple[str, str | None]:
    """The text and the second text, if any, of what a program gave."""
    match given:
        case str(text):
            return text, None
        case (str(text), str(pair)):
            return text, pair
        case {"text": str(text), "pair": str(pair)}:
            return text, pair
        case {"text": str(text)} if "pair" not in given:
            return text, None
    raise DataError(f"{where} is {given!r:.60}; it must be a text, or a pair of texts")


def texts_by_name(text: str, pair: str | None) -> dict[str, str]:
    """The texts as columns, where no file gives names."""
    return {"text": text} if pair is None else {"text": text, "pair": pair}


def _without_skipped(
    texts: Iterator[MarkedText], path: Path, settings: ColumnSettings
) -> Iterator[MarkedText]:
    """The texts without those that have the label to skip; how many these are is said at the end."""
    count = 0
    for text in texts:
        marks = text.mark if isinstance(text.mark, list) else [text.mark]
        if is_skipped(settings.skip_label, marks):
            count += 1
        else:
            yield text
    say_skipped(path, settings.skip_label, count)


def _is_fasttext(path: Path, settings: ColumnSettings) -> bool:
    """Whether the first line begins as all lines of fastText's files do."""
    return path.is_file() and next(read_lines(path, _lines(settings))).startswith(_FASTTEXT)


def _label_first(path: Path, settings: ClassificationSettings) -> Iterator[MarkedText]:
    def marked(numbered: tuple[int, str]) -> MarkedText:
        number, line = numbered
        where = f"{path}, line {number}"
        first, _, text = line.strip().partition(" ")
        mark: Any = first
        if first.startswith(_FASTTEXT):
            mark, text = _leading(line.strip())
        if not text:
            raise DataError(f"{where}: {line[:40]!r} is not a label, a blank and a text")
        if isinstance(mark, list) and _FASTTEXT in text:
            raise DataError(f"{where}: a {_FASTTEXT} follows text; write all labels before the text")
        return MarkedText(text.strip(), None, mark, where, cells={"text": text.strip()})

    lines = enumerate(read_lines(path, _lines(settings)), 1)
    texts = parsed(((number, line) for number, line in lines if line.strip()), marked)
    return _without_skipped(texts, path, settings)


def _leading(line: str) -> tuple[list[str], str]:
    """The labels at the begin of a line of fastText's, and the text."""
    found = _LEADING.match(line)
    assert found is not None
    return found[0].split(), line[found.end() :]


def _lines(settings: ColumnSettings) -> TextSettings:
    return TextSettings(format="lines", encoding=settings.encoding, errors=settings.errors)


class Columns(NamedTuple):
    """Where a file has what."""

    text: str
    pair: str | None
    label: str | None


def _columns(table: Table, settings: ColumnSettings, role: str, *, labelled: bool) -> Columns:
    """The columns by choice, or else by the names they are known by, or else by their order."""
    if _plain_lines(table, settings) and not labelled:
        return Columns("0", None, None)
    for chosen in (settings.text_column, settings.pair_column, settings.label_column if labelled else None):
        table.need(chosen)
    found = _by_name(table, settings, role, labelled) if table.named else _by_order(table, settings)
    if found.text is None or (labelled and found.label is None):
        missing, option = ("text", "--text-column") if found.text is None else ("label", "--label-column")
        or_else = ", or say --label-first where every line begins with its label and a blank"
        raise DataError(
            f"{table.path} has no column known as a {missing}; it has {', '.join(table.columns)}: name one "
            f"with {option}{table.hint(settings) or (or_else if len(table.columns) == 1 else '')}"
        )
    return found


def _plain_lines(table: Table, settings: ColumnSettings) -> bool:
    """Whether a file has a text a line and no header, while the training file had named columns."""
    elsewhere = settings.text_column is not None and settings.text_column not in table.columns
    return elsewhere and not table.named and len(table.columns) == 1 and settings.pair_column is None


def _by_name(table: Table, settings: ColumnSettings, role: str, labelled: bool) -> Columns:
    labels = all_known_as(role, table.columns)
    plain = next((name for name in labels if name.casefold() in _PLAIN_NAMES), None)
    several = role == "label" and len(labels) > 1 and plain is None
    if labelled and settings.label_column is None and several:
        raise DataError(
            f"{table.path} has several columns that may be the label: {', '.join(labels)}; name one with "
            "--label-column"
        )
    found: Any = settings.text_column or known_as("text", table.columns)
    return Columns(
        found,
        settings.pair_column or known_as("pair", table.columns),
        settings.label_column or (plain if role == "label" else None) or next(iter(labels), None),
    )


_PLAIN_NAMES = ("label", "labels", "标签")
"""Of several columns known as labels one of these is meant."""


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
        separator = settings.separator or text.separator
        parts = mark if isinstance(mark, list) else ("" if mark is None else str(mark)).split(separator)
        return tuple(dict.fromkeys(name for part in parts if (name := _name(part, settings))))
    one = mark[0] if isinstance(mark, list) and len(mark) == 1 else mark
    name = _name(one, settings)
    if name == "" or isinstance(one, list | dict):
        raise DataError(
            f"{text.where}: {text.column} is {mark!r}; every text here needs exactly one label"
            + (", or say --several" if isinstance(one, list) and len(one) > 1 else "")
        )
    if text.separator == "#" and "#" in name:
        raise DataError(
            f"{text.where}: {text.column} is {mark!r}, several labels as doccano writes them; say --several, "
            "or name the column with --label-column"
        )
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
    name = name.removeprefix(_FASTTEXT)
    return name if settings.label_until is None else name.partition(settings.label_until)[0]


def _shown(example: LabelledText) -> str:
    """An example in a line about its file."""
    texts = shortened(example.text) + ("" if example.pair is None else f" and {shortened(example.pair)}")
    return texts if example.labels is None else f"{texts} → {', '.join(example.labels) or 'no label'}"
