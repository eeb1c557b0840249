"""What a demo came to: every figure of the table and the page, as one record."""

import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from polyseme.demo.senses import ToldApart
from polyseme.demo.settings import DemoSettings
from polyseme.devices import environment, usable_cores
from polyseme.records import Record

NAME = "report.json"
_PACKAGES = ("polyseme", "torch", "numpy", "tokenizers", "rjieba", "scikit-learn", "matplotlib")


class Pretrained(Record, frozen=True, kw_only=True):
    """How the pre-training went."""

    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    held_out: float
    """Loss on text that was kept back, in nats a hidden token."""
    unigram: float
    """The same for someone who knows nothing but how frequent each token is."""
    parameters: int


class Senses(Record, frozen=True, kw_only=True):
    """One way to make vectors, on words of two meanings and on words of one."""

    two_meanings: ToldApart
    one_meaning: ToldApart


class Classified(Record, frozen=True, kw_only=True):
    """One classifier on the test lines."""

    accuracy: float
    macro_f1: float
    dev_accuracy: float


class Report(Record, frozen=True, kw_only=True):
    """A whole run of the demo."""

    folder: str
    settings: DemoSettings
    text: dict[str, int]
    """Bytes of each corpus."""
    vocab_size: int
    tokens: int
    """In the store."""
    pretrained: Pretrained
    senses: dict[str, Senses]
    """By "static", "untrained" and "pretrained"."""
    classified: dict[str, Classified]
    """By "majority", "tfidf", "untrained" and "pretrained"."""
    examples: dict[str, int]
    """Lines of poems to train on, to choose by, and to test on."""
    seconds: dict[str, float]
    """Of each part of the story."""
    machine: dict[str, str | int]

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


class TableRow(NamedTuple):
    """A line of the one table; what does not apply is empty."""

    what: str
    two_meanings: str
    one_meaning: str
    accuracy: str
    macro_f1: str


COLUMNS = TableRow("", "words of two meanings", "words of one meaning", "poems: accuracy", "poems: macro F1")
_ROWS = {
    "static": "one static vector a word",
    "majority": "always the most frequent answer",
    "tfidf": "character n-grams, TF-IDF, linear",
    "untrained": "the network from random weights",
    "pretrained": "the network, pre-trained",
}


def table(report: Report) -> list[TableRow]:
    """The figures in per cent, with 95 % intervals over sentences or test lines."""
    rows = []
    for key, what in _ROWS.items():
        senses, classified = report.senses.get(key), report.classified.get(key)
        rows.append(
            TableRow(
                what,
                _told(senses.two_meanings) if senses else "",
                _told(senses.one_meaning) if senses else "",
                _accuracy(classified.accuracy, report.examples["test"]) if classified else "",
                f"{100 * classified.macro_f1:.1f}" if classified else "",
            )
        )
    return rows


def _told(told: ToldApart) -> str:
    if told.low == told.high:
        return f"{100 * told.share:.1f}"
    return f"{100 * told.share:.1f} ({100 * told.low:.1f}–{100 * told.high:.1f})"


def _accuracy(share: float, count: int) -> str:
    return f"{100 * share:.1f} ± {196 * math.sqrt(share * (1 - share) / count):.1f}"


def machine() -> dict[str, str | int]:
    """Processor, cores and versions, as far as the figures may depend on them."""
    return {
        **environment(),
        "processor": _processor(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _processor(path: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, '')} ({platform.machine()})".strip()
