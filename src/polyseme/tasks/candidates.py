"""Queries with their candidates: pairs with a label from TSV, CSV or JSON lines, or a query a line."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from polyseme.errors import DataError
from polyseme.tasks.answer_settings import RankingSettings
from polyseme.tasks.skipping import parsed
from polyseme.tasks.tables import Table, TableRow, read_table
from polyseme.text.reading import TextSettings

QUERY_NAMES = ("query", "question", "text_a", "sentence1", "premise", "text", "sentence")
CANDIDATE_NAMES = ("candidate", "document", "passage", "answer", "text_b", "sentence2", "hypothesis")
LABEL_NAMES = ("label", "relevance", "grade", "score", "target")
"""Names of columns that are known without being told; the first that is there counts."""

_LISTS = ("candidates", "positives", "negatives")


@dataclass(frozen=True, slots=True)
class Query:
    """One example."""

    text: str
    candidates: tuple[str, ...]
    grades: tuple[float, ...] | None
    """How well each candidate suits, from 0 for not at all; None where the file does not say."""
    where: str
    """File and line, for messages."""


class _Pair(NamedTuple):
    where: str
    query: str
    candidate: str
    grade: float | None


def read_queries(path: Path, settings: RankingSettings, *, labelled: bool) -> Iterator[Query]:
    """The queries of a file in the order in which they first appear, each with all its candidates.

    A row is a pair of query and candidate with a label. JSON lines may have a query's `candidates` as a list
    instead, of texts with their `labels` beside them or of objects with `text` and `label`; or lists of
    `positives` and `negatives`. What does not fit is a `DataError` with file, line and rule.
    """
    chosen = (settings.query_column, settings.candidate_column, settings.label_column)
    table = read_table(
        path,
        names=[*QUERY_NAMES, *CANDIDATE_NAMES, *LABEL_NAMES, *(name for name in chosen if name)],
        header=settings.header,
        reading=TextSettings(format="lines", encoding=settings.encoding, errors=settings.errors),
    )
    columns = _columns(table, settings, path=path, labelled=labelled)
    rows = parsed(table.rows, lambda row: _pairs(row, columns, labelled=labelled))
    return _together(pair for pairs in rows for pair in pairs)


class _Columns(NamedTuple):
    query: str
    candidate: str
    label: str | None


def _columns(table: Table, settings: RankingSettings, *, path: Path, labelled: bool) -> _Columns:
    known = {column.casefold(): column for column in reversed(table.columns)}
    by_place = dict(zip(("query", "candidate", "label"), table.columns, strict=False))
    found: dict[str, str | None] = {}
    for role, chosen, names in (
        ("query", settings.query_column, QUERY_NAMES),
        ("candidate", settings.candidate_column, (*CANDIDATE_NAMES, *_LISTS)),
        ("label", settings.label_column, LABEL_NAMES),
    ):
        if chosen is not None and chosen not in table.columns:
            raise DataError(f"{path} has no column {chosen!r}; it has {', '.join(table.columns)}")
        named = next((known[name] for name in names if name in known), None)
        found[role] = chosen or (named if table.named else by_place.get(role))
    lists = any(name in known for name in _LISTS)
    missing = [role for role in ("query", "candidate") if found[role] is None]
    if labelled and found["label"] is None and not lists:
        missing.append("label")
    if missing:
        raise DataError(
            f"{path} has no column known as a {missing[0]}; it has {', '.join(table.columns)}: "
            f"name one with --{missing[0]}-column"
        )
    return _Columns(str(found["query"]), str(found["candidate"]), found["label"])


def _pairs(row: TableRow, columns: _Columns, *, labelled: bool) -> list[_Pair]:
    """The pairs of one row."""
    query = _text(row.where, columns.query, row.cells.get(columns.query))
    if not any(name in row.cells for name in _LISTS):
        candidate = _text(row.where, columns.candidate, row.cells.get(columns.candidate))
        grade = _grade(row.where, row.cells.get(str(columns.label))) if labelled else None
        return [_Pair(row.where, query, candidate, grade)]
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
            _grade(row.where, label) if labelled else None,
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


def _grade(where: str, value: Any) -> float:
    try:
        grade = float(value)
    except (TypeError, ValueError):
        grade = -1.0
    if not 0 <= grade < float("inf"):
        raise DataError(f"{where}: the label is {str(value)[:40]!r}; it must be a number from 0 up")
    return grade


def _together(pairs: Iterable[_Pair]) -> Iterator[Query]:
    of_query: dict[str, list[_Pair]] = {}
    for pair in pairs:
        of_query.setdefault(pair.query, []).append(pair)
    for text, members in of_query.items():
        grades = tuple(pair.grade for pair in members if pair.grade is not None)
        yield Query(
            text,
            tuple(pair.candidate for pair in members),
            grades if len(grades) == len(members) else None,
            members[0].where,
        )
