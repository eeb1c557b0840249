"""Queries with their candidates: pairs with a label from TSV, CSV or JSON lines, or a query a line."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from polyseme.errors import DataError
from polyseme.tasks.answer_settings import RankingSettings
from polyseme.tasks.exports import export_value
from polyseme.tasks.label_values import is_skipped, say_skipped
from polyseme.tasks.reading_report import announced, shortened
from polyseme.tasks.skipping import parsed
from polyseme.tasks.tables import Table, TableRow, read_table
from polyseme.text.column_names import known_as

_LISTS = ("candidates", "positives", "negatives")
_SKIPPED = -1.0
"""The grade of a pair that is left out for its label."""


@dataclass(frozen=True, slots=True)
class Query:
    """One example."""

    text: str
    candidates: tuple[str, ...]
    grades: tuple[float, ...] | None
    """How well each candidate suits, from 0 for not at all; None where the file does not say."""
    where: str
    """File and line, for messages."""
    cells: tuple[Mapping[str, Any], ...] = field(default=(), compare=False, repr=False)
    """Of a query to answer, the columns of each candidate's row."""
    rows: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """The number of each candidate's pair in the file, from 0."""


class _Pair(NamedTuple):
    where: str
    query: str
    candidate: str
    grade: float | None
    cells: Mapping[str, Any] = {}
    """Of a pair to score, the columns of its row."""


def read_queries(path: Path, settings: RankingSettings, *, labelled: bool) -> Iterator[Query]:
    """The queries of a file in the order in which they first appear, each with all its candidates.

    A row is a pair of query and candidate with a label. JSON lines may have a query's `candidates` as a list
    instead, of texts with their `labels` beside them or of objects with `text` and `label`; or lists of
    `positives` and `negatives`. What does not fit is a `DataError` with file, line and rule.
    """
    table = read_table(
        path,
        settings,
        roles=("query", "candidate", "relevance"),
        chosen=(settings.query_column, settings.candidate_column, settings.label_column),
        options="--query-column, --candidate-column and --label-column",
        label=(settings.label_column or "-1") if labelled else None,
    )
    columns = _columns(table, settings, labelled=labelled)
    rows = parsed(table.rows, lambda row: _pairs(row, columns, settings.skip_label, labelled=labelled))
    pairs = _without_skipped((pair for of_row in rows for pair in of_row), path, settings)
    about = table.about(columns._asdict() if labelled else {**columns._asdict(), "label": None})
    return announced(_together(pairs), path, lambda first: f"{about}; the first: {_shown(first)}")


def example_of(given: Any, where: str) -> Query:
    """A query with its candidates from a pair (query, [candidate, …]) or an object with these names."""
    match given:
        case (str(query), [*candidates]) | {"query": str(query), "candidates": [*candidates]} if (
            candidates and all(isinstance(one, str) for one in candidates)
        ):
            return Query(query, tuple(map(str, candidates)), None, where)
    raise DataError(f"{where} is {given!r:.60}; it must be a query with a list of candidates")


def _without_skipped(pairs: Iterable[_Pair], path: Path, settings: RankingSettings) -> Iterator[_Pair]:
    count = 0
    for pair in pairs:
        if pair.grade == _SKIPPED:
            count += 1
        else:
            yield pair
    say_skipped(path, settings.skip_label, count)


def _shown(example: Query) -> str:
    """A query in a line about its file."""
    grade = "" if example.grades is None else f" → {example.grades[0]:g}"
    return f"{shortened(example.text)} and {shortened(example.candidates[0])}{grade}"


class _Columns(NamedTuple):
    query: str
    candidate: str
    label: str | None


def _columns(table: Table, settings: RankingSettings, *, labelled: bool) -> _Columns:
    known = {column.casefold(): column for column in reversed(table.columns)}
    by_place = dict(zip(("query", "candidate", "label"), table.columns, strict=False))
    found: dict[str, str | None] = {}
    listed = next((known[name] for name in _LISTS if name in known), None)
    for role, chosen, named in (
        ("query", settings.query_column, known_as("query", table.columns)),
        ("candidate", settings.candidate_column, listed or known_as("candidate", table.columns)),
        ("label", settings.label_column, known_as("relevance", table.columns)),
    ):
        if role != "label" or labelled:
            table.need(chosen)
        found[role] = chosen or (named if table.named else by_place.get(role))
    lists = listed is not None
    missing = [role for role in ("query", "candidate") if found[role] is None]
    if labelled and found["label"] is None and not lists:
        missing.append("label")
    if missing:
        raise DataError(
            f"{table.path} has no column known as a {missing[0]}; it has {', '.join(table.columns)}: "
            f"name one with --{missing[0]}-column{table.hint(settings)}"
        )
    return _Columns(str(found["query"]), str(found["candidate"]), found["label"])


def _pairs(row: TableRow, columns: _Columns, skip: str | None, *, labelled: bool) -> list[_Pair]:
    """The pairs of one row."""
    query = _text(row.where, columns.query, row.cells.get(columns.query))
    if not any(name in row.cells for name in _LISTS):
        candidate = _text(row.where, columns.candidate, row.cells.get(columns.candidate))
        grade = _grade(row.where, row.cells.get(str(columns.label)), skip) if labelled else None
        return [_Pair(row.where, query, candidate, grade, {} if labelled else row.cells)]
    given: list[tuple[Any, Any]] = [(one, 1) for one in _list(row, "positives")] + [
        (one, 0) for one in _list(row, "negatives")
    ]
    labels = row.cells.get("labels")
    for number, one in enumerate(_list(row, "candidates")):
        if isinstance(one, dict):
            given.append((one.get("text"), one.get("label")))
        else:
            has_label = isinstance(labels, list) and number < len(labels)
            given.append((one, labels[number] if has_label and isinstance(labels, list) else None))
    if not given:
        raise DataError(f"{row.where}: the query has no candidates")
    return [
        _Pair(
            row.where,
            query,
            _text(row.where, "a candidate", text),
            _grade(row.where, label, skip) if labelled else None,
            {} if labelled else row.cells,
        )
        for text, label in given
    ]


def _list(row: TableRow, name: str) -> list[Any]:
    value = row.cells.get(name, [])
    if not isinstance(value, list):
        raise DataError(f"{row.where}: {name} is {str(value)[:40]!r}; it must be a list")
    return value


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is {str(value)[:40]!r}; it must be a text, and not empty")
    return value


def _grade(where: str, value: Any, skip: str | None) -> float:
    value = export_value(value, f"{where}: the label")
    if is_skipped(skip, [value]):
        return _SKIPPED
    try:
        grade = float(value)
    except (TypeError, ValueError, OverflowError):
        grade = -1.0
    if not 0 <= grade < float("inf"):
        leave = "; --skip-label leaves such pairs out" if str(value).strip() in ("-", "-1", "-1.0") else ""
        raise DataError(f"{where}: the label is {str(value)[:40]!r}; it must be a number from 0 up{leave}")
    return grade


def _together(pairs: Iterable[_Pair]) -> Iterator[Query]:
    of_query: dict[str, list[tuple[int, _Pair]]] = {}
    for number, pair in enumerate(pairs):
        of_query.setdefault(pair.query, []).append((number, pair))
    for text, members in of_query.items():
        grades = tuple(pair.grade for _, pair in members if pair.grade is not None)
        yield Query(
            text,
            tuple(pair.candidate for _, pair in members),
            grades if len(grades) == len(members) else None,
            members[0][1].where,
            tuple(pair.cells for _, pair in members),
            tuple(number for number, _ in members),
        )
