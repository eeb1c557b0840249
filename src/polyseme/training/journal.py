"""The journal: one JSON line per report, and the curves drawn from it."""

from pathlib import Path
from typing import Any

import msgspec

from polyseme.errors import MissingExtra, SettingsError
from polyseme.files import write_whole
from polyseme.input_files import require_regular
from polyseme.records import decode_json, from_plain

_MAX_LINE = 1 << 20


class Report(msgspec.Struct, frozen=True):
    """The figures of a line that the curves are drawn from; what stands beside them is not read."""

    kind: str
    step: int
    parts: dict[str, float | None]
    """Losses; None where one was not finite."""
    measures: dict[str, float | None] = {}
    unigram: float | None = None


class Journal:
    """Lines of a run, added at the end of `journal.jsonl`; a line cut off by a crash is dropped."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Go on after `step`: what was written beyond it is of a future that a resume undoes."""
        self.path = path
        kept = [line for line in read_journal(path) if _is_until(line, step)]
        write_whole(path, b"".join(msgspec.json.encode(line) + b"\n" for line in kept))
        self._file = path.open("ab", buffering=0)

    def write(self, **figures: Any) -> None:
        """Add one line."""
        self._file.write(msgspec.json.encode(figures) + b"\n")

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The journal's lines; none if there is no file. What is no JSON object is left out."""
    require_regular(path)
    lines = []
    if path.exists():
        with path.open("rb") as file:
            while text := file.readline(_MAX_LINE):
                try:
                    line = decode_json(text, where=str(path))
                except SettingsError:
                    continue
                if isinstance(line, dict):
                    lines.append(line)
    return lines


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


def draw_curves(journal: Path, picture: Path) -> None:
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
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture, format="svg")
