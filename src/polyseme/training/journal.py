"""The journal: one JSON line per report, and the curves drawn from it.

Each line ends with a checksum of itself. A last line that a crash cut off is dropped; a line with a changed
byte is left out with a warning.
"""

import io
import re
import zlib
from pathlib import Path
from typing import Any

import msgspec

from polyseme import progress
from polyseme.errors import MissingExtra, SettingsError
from polyseme.files import write_whole
from polyseme.input_files import require_regular
from polyseme.records import decode_json, from_plain


class Report(msgspec.Struct, frozen=True):
    """The figures of a line that the curves are drawn from; what stands beside them is not read."""

    kind: str
    step: int
    parts: dict[str, float | None]
    """Losses; None where one was not finite."""
    measures: dict[str, float | None] = {}
    unigram: float | None = None


_END = re.compile(rb'"crc32":"[0-9a-f]{8}"\}')
_CHECKED = re.compile(rb'(.*),"crc32":"([0-9a-f]{8})"\}', re.DOTALL)


def journal_line(figures: dict[str, Any]) -> bytes:
    """A line of a journal."""
    body = msgspec.json.encode(figures).removesuffix(b"}")
    return body + f',"crc32":"{zlib.crc32(body):08x}"}}\n'.encode()


class Journal:
    """Lines of a run, added at the end of `journal.jsonl`; a line cut off by a crash is dropped."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Go on after `step`: what was written beyond it is of a future that a resume undoes."""
        self.path = path
        kept = [line for line in read_journal(path) if _is_until(line, step)]
        write_whole(path, b"".join(map(journal_line, kept)))
        self._file = path.open("ab", buffering=0)

    def write(self, **figures: Any) -> None:
        """Add one line."""
        self._file.write(journal_line(figures))

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The journal's lines; none if there is no file."""
    lines, damaged = _read(path)
    if damaged:
        progress.warn(f"{path}: line {', '.join(map(str, damaged))} is damaged and left out")
    return lines


def damaged_lines(path: Path) -> list[int]:
    """The numbers of the lines that are not as they were written; one that is cut off at the end is none."""
    return _read(path)[1]


def _read(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    require_regular(path)
    lines: list[dict[str, Any]] = []
    damaged: list[int] = []
    content = path.read_bytes() if path.exists() else b""
    *whole, rest = content.split(b"\n")
    if _END.search(rest):  # no torn line: it is complete, whether its end is as it was or not
        whole.append(rest)
    for number, text in enumerate(whole, 1):
        if (line := _decoded(text)) is None:
            damaged.append(number)
        else:
            lines.append(line)
    return lines, damaged


def _decoded(text: bytes) -> dict[str, Any] | None:
    """The opposite of `journal_line`, without the line's end; None where the line is damaged."""
    found = _CHECKED.fullmatch(text)
    if not found or f"{zlib.crc32(found[1]):08x}".encode() != found[2]:
        return None
    try:
        line = decode_json(found[1] + b"}", where="line")
    except SettingsError:
        return None
    return line if isinstance(line, dict) else None


def read_reports(path: Path) -> list[Report]:
    """The journal's lines with losses; others are left out."""
    reports = []
    for line in read_journal(path):
        try:
            reports.append(from_plain(line, Report, where=str(path)))
        except SettingsError:
            continue
    return reports


def _is_until(line: dict[str, Any], step: int) -> bool:
    reached = line.get("step", 0)
    return isinstance(reached, int) and reached <= step


def curves_of(journal: Path) -> bytes:
    """Loss over steps, training and held-out, with the unigram level, as SVG.

    Raises `MissingExtra` without matplotlib (extra "plots").
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", extra="plots") from error
    lines = read_reports(journal)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for kind, label in (("train", "training"), ("held-out", "held out")):
            chosen = [line for line in lines if line.kind == kind]
            for part in sorted({name for line in chosen for name in line.parts}):
                points = [(line.step, line.parts[part]) for line in chosen if part in line.parts]
                style = {"alpha": 0.5} if kind == "train" else {"marker": "o", "markersize": 3}
                axes.plot(*zip(*points, strict=True), label=f"{part}, {label}", **style)
        if levels := [line.unigram for line in lines if line.unigram is not None]:
            axes.axhline(levels[-1], color="grey", linestyle=":", label="unigram level")
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats)")
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        picture = io.BytesIO()
        figure.savefig(picture, format="svg")
    return picture.getvalue()
