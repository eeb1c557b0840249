"""Byte-pair encoding: the most frequent pair of neighbours becomes a token, again and again.

Sennrich, Haddow and Birch 2016. Of pairs that occur equally often the one that is first by code points
wins, so what is learned depends on nothing but the counts.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from polyseme import progress

Merge = tuple[str, str]


def learn_merges(
    words: Mapping[tuple[str, ...], int], *, num_tokens: int, min_count: int, prefix: str = ""
) -> Iterator[Merge]:
    """Merges over `words`, given as their symbols, until they have made `num_tokens` new tokens.

    Or until no pair occurs `min_count` times. `prefix` stands before symbols inside a word ("##") and is
    written once in what is joined. Some merges make a token that an earlier one made another way.
    """
    pairs = _Pairs(words)
    made = {symbol for word in words for symbol in word}
    remaining = num_tokens
    with progress.bar("learn merges", total=num_tokens, unit="tokens") as work:
        while remaining > 0 and (best := pairs.most_frequent(min_count)):
            joined = best[0] + best[1].removeprefix(prefix)
            pairs.merge(best, joined)
            yield best
            if joined not in made:
                made.add(joined)
                remaining -= 1
                work.advance()


class _Pairs:
    """The counts of all pairs of neighbours, kept right while words change."""

    def __init__(self, words: Mapping[tuple[str, ...], int]) -> None:
        self._words = [list(word) for word in words]
        self._times = list(words.values())
        self._counts: Counter[Merge] = Counter()
        self._places: defaultdict[Merge, set[int]] = defaultdict(set)
        for index, (word, times) in enumerate(zip(self._words, self._times, strict=True)):
            for pair in pairwise(word):
                self._counts[pair] += times
                self._places[pair].add(index)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def most_frequent(self, min_count: int) -> Merge | None:
        """The pair to merge next, or None if none occurs often enough."""
        while self._heap:
            count, pair = self._heap[0]
            # A pair is pushed again whenever its count changes; entries with an old count are stale.
            if self._counts.get(pair, 0) != -count:
                heapq.heappop(self._heap)
            elif -count < min_count:
                return None
            else:
                return pair
        return None

    def merge(self, pair: Merge, joined: str) -> None:
        """Write `joined` for `pair` in every word."""
        changes: Counter[Merge] = Counter()
        for index in self._places.pop(pair):
            word, times = self._words[index], self._times[index]
            self._words[index] = merged = _join(word, pair, joined)
            for old in pairwise(word):
                changes[old] -= times
            for new in pairwise(merged):
                changes[new] += times
                self._places[new].add(index)
        for changed, change in changes.items():
            if change:
                self._push(changed, self._counts[changed] + change)
        self._places.pop(pair, None)

    def _push(self, pair: Merge, count: int) -> None:
        if count:
            self._counts[pair] = count
            heapq.heappush(self._heap, (-count, pair))
        else:
            del self._counts[pair]


def _join(word: list[str], pair: Merge, joined: str) -> list[str]:
    merged: list[str] = []
    index = 0
    while index < len(word):
        if word[index] == pair[0] and index + 1 < len(word) and word[index + 1] == pair[1]:
            merged.append(joined)
            index += 2
        else:
            merged.append(word[index])
            index += 1
    return merged


def tokens_of(merges: Iterable[Merge], prefix: str = "") -> list[str]:
    """The tokens that merges make, each once, in order."""
    return list(dict.fromkeys(left + right.removeprefix(prefix) for left, right in merges))
