"""Predictions as files: JSON lines, CSV or TSV with the columns of the input beside them, or CoNLL."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from polyseme import progress
from polyseme.errors import DataError, SettingsError
from polyseme.tasks.task import InColumns

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LINES = (".jsonl", ".ndjson")
_DIGITS = 6
"""Significant digits of numbers; float32 has seven."""


class Predicted(NamedTuple):
    """One row of the file."""

    inputs: Mapping[str, Any]
    """The columns of the example."""
    plain: dict[str, Any]
    """What the task writes of the answer."""
    answer: Any
    number: int
    """Of the row in the input."""


class PredictionFile:
    """How predictions are written into a file of this name.

    `keep` names columns of the input, with commas between them, or is all or none; usually a table has all
    and JSON lines none. What is predicted has a name that begins with `predicted_` or `probability_` in a
    table.
    """

    def __init__(self, out: Path, *, keep: str | None, task: Any = None) -> None:
        self.suffix = _suffix(out)
        if self.suffix == ".conll" and not isinstance(task, InColumns):
            name = "several tasks" if task is None else task.name
            raise SettingsError(f"answers of {name} have no columns; name a file that ends in .jsonl")
        if self.suffix == ".conll" and keep not in (None, "none"):
            raise SettingsError("a .conll file has words and tags only; keep columns in .jsonl, .csv or .tsv")
        self.is_table = self.suffix in _DELIMITERS
        self._keep = keep or ("all" if self.is_table else "none")
        self._task = task
        self._kept: list[str] | None = None
        self._predicted: list[str] = []
        self._said = False

    def encoded(self, rows: Sequence[Predicted]) -> bytes:
        """The rows as they stand in the file; before the first ones the header of a table."""
        if not rows:
            return b""
        if self.suffix == ".conll":
            return "".join(self._task.columns(row.answer) for row in rows).encode()
        header = self._kept is None and self.is_table
        if self._kept is None:
            self._kept = self._columns(rows)
            self._predicted = list(_flat(rows[0].plain)) if self.is_table else []
            self._refuse_repeated(self._kept)
        if not self.is_table:
            return b"".join(msgspec.json.encode(self._object(row)) + b"\n" for row in rows)
        lines = [self._line([*self._kept, *self._predicted])] if header else []
        self._say_left_out(rows)
        for row in rows:
            flat = _flat(row.plain)
            cells = [row.inputs.get(name) for name in self._kept]
            lines.append(self._line([*cells, *(flat.get(name) for name in self._predicted)]))
        return "".join(lines).encode()

    def _columns(self, rows: Sequence[Predicted]) -> list[str]:
        """The columns of the input that are kept."""
        there = list(dict.fromkeys(name for row in rows for name in row.inputs))
        if self._keep in ("all", "none"):
            return there if self._keep == "all" else []
        names = [name.strip() for name in self._keep.split(",")]
        for name in names:
            if name not in there:
                raise DataError(f"keep: the input has no column {name!r}; it has {', '.join(there)}")
        return names

    def _say_left_out(self, rows: Sequence[Predicted]) -> None:
        """Say once which columns stand in later rows only, where the header is written already."""
        known = set(self._kept or ())
        late = sorted({name for row in rows for name in row.inputs} - known) if self._keep == "all" else []
        if late and not self._said:
            self._said = True
            progress.warn(f"not written, since the first rows do not have it: {', '.join(late[:8])}")

    def _refuse_repeated(self, kept: Sequence[str]) -> None:
        repeated = next((name for name in self._predicted if name in kept), None)
        if repeated is not None:
            raise DataError(
                f"the input has a column {repeated!r} already; choose the columns to keep with --keep"
            )

    def _object(self, row: Predicted) -> dict[str, Any]:
        """Kept columns and the answer; a column that is called as a part of the answer is `input_…`."""
        kept = {
            f"input_{name}" if name in row.plain else name: row.inputs.get(name) for name in self._kept or ()
        }
        return {**kept, **rounded(row.plain)}

    def _line(self, values: Iterable[Any]) -> str:
        delimiter = _DELIMITERS[self.suffix]
        line = delimiter.join(_cell(value, delimiter) for value in values)
        return (line or '""') + "\n"


def refuse_suffix(out: Path) -> None:
    """Refuse a name whose suffix says nothing about the form."""
    _suffix(out)


def rounded(value: Any) -> Any:
    """Plain data with its numbers to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return value


def _suffix(out: Path) -> str:
    suffix = out.suffix.lower()
    if not suffix:
        return ".jsonl"
    if suffix not in (*_LINES, *_DELIMITERS, ".conll"):
        raise SettingsError(
            f"{out} ends in {suffix!r}; predictions are written as .jsonl, .csv or .tsv, and "
            "those of words as .conll"
        )
    return suffix


def _flat(plain: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """What is said of an example as columns: of several tasks each has its name in them."""
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        if name == "probabilities" and isinstance(value, dict):
            flat |= {f"probability_{within}{label}": share for label, share in value.items()}
        elif isinstance(value, dict):
            flat |= _flat(value, f"{within}{name}_")
        elif name not in ("text", "id", "query", "n_best"):
            flat[f"predicted_{within}{name}"] = value
    return flat


def _cell(value: Any, delimiter: str) -> str:
    """A value as a cell of CSV (RFC 4180); lists and objects as JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str):
        text = value
    elif isinstance(value, int | float):
        text = f"{rounded(value)}"
    else:
        text = msgspec.json.encode(rounded(value)).decode()
    if any(mark in text for mark in (delimiter, '"', "\n", "\r")):
        return '"' + text.replace('"', '""') + '"'
    return text
