"""Phrases by statistics: words that stand together more often than chance would have it.

Mikolov et al. 2013, "Distributed Representations of Words and Phrases and their Compositionality", section 4,
with the scale of the published word2phrase: two words a, b of a corpus of N words are a phrase where
(n_ab − min_count) / (n_a · n_b) · N exceeds a threshold. Further passes join phrases to longer ones.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from polyseme.records import Record

_MOST_ENTRIES = 1 << 21
_BETWEEN = "\t"


class PhraseSettings(Record, frozen=True, kw_only=True):
    """When words are a phrase, with `phrases = "statistics"`."""

    phrase_min_count: int = 5
    """Words that stand together at most so often are no phrase."""
    phrase_threshold: float = 100.0
    """The score from which on two words are a phrase; lower ones give more phrases."""
    phrase_passes: int = 1
    """Readings of the corpus that count; each joins two: words, then words and phrases …"""

    def __post_init__(self) -> None:
        if self.phrase_min_count < 0:
            raise ValueError(f"phrase_min_count must not be negative, got {self.phrase_min_count}")
        if self.phrase_threshold <= 0:
            raise ValueError(f"phrase_threshold must be above 0, got {self.phrase_threshold}")
        if self.phrase_passes < 1:
            raise ValueError(f"phrase_passes must be at least 1, got {self.phrase_passes}")


class Run(NamedTuple):
    """One or more words that count as one."""

    start: int
    """The first of its pieces in the text."""
    stop: int
    words: str


class PhraseTable:
    """Finds phrases among the pieces of a text: pairs of words, of each pass in turn.

    Signs and line ends part phrases, blanks do not. As word2phrase does, a pass goes from left to right, and
    what it has just joined it does not join again.
    """

    def __init__(self, passes: Sequence[frozenset[str]] = ()) -> None:
        self.passes = tuple(passes)

    def __call__(self, pieces: Sequence[str]) -> list[tuple[int, int]]:
        return [(run.start, run.stop) for line in self.runs(pieces) for run in line if " " in run.words]

    def runs(self, pieces: Sequence[str]) -> list[list[Run]]:
        """The words and phrases of each stretch between signs."""
        stretches: list[list[Run]] = [[]]
        for place, piece in enumerate(pieces):
            if any(map(str.isalnum, piece)):
                stretches[-1].append(Run(place, place + 1, piece))
            elif stretches[-1] and ("\n" in piece or not piece.isspace()):
                stretches.append([])
        for pairs in self.passes:
            stretches = [_joined(stretch, pairs) for stretch in stretches]
        return stretches


def _joined(runs: list[Run], pairs: frozenset[str]) -> list[Run]:
    joined: list[Run] = []
    fresh = True
    for run in runs:
        if not fresh and _pair(joined[-1], run) in pairs:
            before = joined.pop()
            run = Run(before.start, run.stop, f"{before.words} {run.words}")
            fresh = True
        else:
            fresh = False
        joined.append(run)
    return joined


def _pair(first: Run, second: Run) -> str:
    return f"{first.words}{_BETWEEN}{second.words}"


class BlockCounts(NamedTuple):
    """How often words, and two of them together, occur in a part of the corpus."""

    words: dict[str, int]
    pairs: dict[str, int]


def count(stretches: Iterable[Sequence[Run]]) -> BlockCounts:
    """The counts of some stretches of words."""
    words: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for stretch in stretches:
        words.update(run.words for run in stretch)
        pairs.update(_pair(first, second) for first, second in pairwise(stretch))
    return BlockCounts(dict(words), dict(pairs))


class Counts:
    """The counts of the corpus so far, in bounded memory.

    Where words or pairs become more than `most`, the rarest leave, and with each time those that are a
    little less rare (word2phrase's rule). Parts must come in the order of the text: then nothing depends on
    who counted them.
    """

    def __init__(self, *, most: int = _MOST_ENTRIES) -> None:
        self._most = most
        self._words: dict[str, int] = {}
        self._pairs: dict[str, int] = {}
        self._rare = {"words": 1, "pairs": 1}
        self.total = 0
        """Words read."""

    def add(self, part: BlockCounts) -> None:
        """Add the counts of the next part."""
        self.total += sum(part.words.values())
        self._words = self._added("words", self._words, part.words)
        self._pairs = self._added("pairs", self._pairs, part.pairs)

    def _added(self, kind: str, counts: dict[str, int], more: dict[str, int]) -> dict[str, int]:
        for name, number in more.items():
            counts[name] = counts.get(name, 0) + number
        while len(counts) > self._most:
            counts = {name: number for name, number in counts.items() if number > self._rare[kind]}
            self._rare[kind] += 1
        return counts

    def phrases(self, settings: PhraseSettings) -> frozenset[str]:
        """The pairs whose score exceeds the threshold."""
        return frozenset(
            pair
            for pair, together in self._pairs.items()
            if self._score(pair, together, settings.phrase_min_count) > settings.phrase_threshold
        )

    def _score(self, pair: str, together: int, min_count: int) -> float:
        first, _, second = pair.partition(_BETWEEN)
        if first not in self._words or second not in self._words:  # too rare to be remembered
            return 0.0
        return (together - min_count) / (self._words[first] * self._words[second]) * self.total
