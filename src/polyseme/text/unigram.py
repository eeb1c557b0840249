"""The Unigram model: a set of pieces with probabilities under which the words are most probable.

Kudo 2018, section 3.2: start from many frequent substrings; by turns estimate their probabilities with
expectation maximisation over all ways to cut each word, and drop the pieces whose loss costs least.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from polyseme import progress

Float64s = npt.NDArray[np.float64]

LONGEST_PIECE = 8
_MOST_WORDS = 200_000
"""Only the most frequent words take part: the rest would change little and cost much."""
_SEEDS = 8
"""How many candidates there are at the start for each piece at the end."""
_KEPT = 0.7
"""The share of pieces that survives each round."""
_LEAST = 0.1
"""The count that a character without any is taken to have."""


def learn_pieces(
    words: Mapping[str, int], characters: Sequence[str], *, num_pieces: int, min_count: int
) -> dict[str, float]:
    """Log probabilities of all `characters` and of at most `num_pieces` longer pieces."""
    frequent = sorted(words.items(), key=lambda entry: (-entry[1], entry[0]))[:_MOST_WORDS]
    pieces = [*characters, *_seeds(frequent, _SEEDS * num_pieces, min_count)]
    num_characters = len(characters)
    ids = {piece: index for index, piece in enumerate(pieces)}
    texts = Cuts([word for word, _ in frequent], ids)
    times = np.asarray([count for _, count in frequent], dtype=np.float64)
    themselves = Cuts(pieces, ids)
    alive = np.ones(len(pieces), dtype=bool)
    scores = np.zeros(len(pieces))
    with progress.bar("learn pieces", unit="rounds") as work:
        while True:
            for _ in range(2):
                expected = texts.expected(np.where(alive, scores, -np.inf), times)
                scores = np.log(np.maximum(expected, _LEAST)) - np.log(
                    np.maximum(expected, _LEAST)[alive].sum()
                )
            work.advance()
            longer = alive.sum() - num_characters
            if longer <= num_pieces:
                break
            alternative = themselves.best(np.where(alive, scores, -np.inf), without_itself=True)
            candidates = np.flatnonzero(alive)[num_characters:]
            loss = expected[candidates] * (scores - alternative)[candidates]
            # Stable: what costs as little stays in the order of the seeds.
            order = candidates[np.argsort(-loss, kind="stable")]
            alive[order[max(num_pieces, int(longer * _KEPT)) :]] = False
    kept = [(pieces[index], round(float(scores[index]), 6)) for index in np.flatnonzero(alive)]
    return dict(kept)


def _seeds(words: Sequence[tuple[str, int]], most: int, min_count: int) -> list[str]:
    """The substrings of two characters and more that cover most text."""
    found: Counter[str] = Counter()
    for word, count in words:
        for begin in range(len(word) - 1):
            for end in range(begin + 2, min(begin + LONGEST_PIECE, len(word)) + 1):
                found[word[begin:end]] += count
    often = [(piece, count) for piece, count in found.items() if count >= min_count]
    often.sort(key=lambda entry: (-entry[1] * len(entry[0]), entry[0]))
    return [piece for piece, _ in often[:most]]


class Cuts:
    """All ways to cut some strings into pieces, summed or maximised over for many strings at once."""

    def __init__(self, strings: Sequence[str], ids: Mapping[str, int]) -> None:
        self._num_strings = len(strings)
        self._num_pieces = len(ids)
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for index, string in enumerate(strings):
            by_length[len(string)].append(index)
        self._groups = []
        for length, members in sorted(by_length.items()):
            # The piece that ends at `end` and has `size` characters; the last id stands for none.
            table = np.full((length, min(length, LONGEST_PIECE), len(members)), len(ids), dtype=np.int32)
            for column, member in enumerate(members):
                string = strings[member]
                for end in range(1, length + 1):
                    for size in range(1, min(end, LONGEST_PIECE) + 1):
                        table[end - 1, size - 1, column] = ids.get(string[end - size : end], len(ids))
            self._groups.append((np.asarray(members), table))  # table: [length, sizes, strings]

    def expected(self, scores: Float64s, times: Float64s) -> Float64s:
        """How often each piece is used over all strings, each cut weighed by its probability."""
        padded = np.append(scores, -np.inf)
        uses = np.zeros(self._num_pieces + 1)
        for members, table in self._groups:
            forward, backward = _sums(padded, table), _sums(padded, _reversed(table))[::-1]
            whole = forward[-1]  # [strings]
            possible = np.isfinite(whole)
            for end in range(1, len(table) + 1):
                for size in range(1, min(end, table.shape[1]) + 1):
                    used = table[end - 1, size - 1]
                    log_share = forward[end - size] + padded[used] + backward[end] - whole
                    share = np.exp(log_share, where=possible, out=np.zeros(len(members)))
                    uses += np.bincount(used, weights=share * times[members], minlength=len(uses))
        return uses[:-1]

    def best(self, scores: Float64s, *, without_itself: bool) -> Float64s:
        """The log probability of each string's best cut; `without_itself` as one piece does not count."""
        padded = np.append(scores, -np.inf)
        best = np.full(self._num_strings, -np.inf)
        for members, table in self._groups:
            allowed = table.copy()
            if without_itself and len(table) <= table.shape[1]:
                allowed[-1, len(table) - 1] = self._num_pieces
            best[members] = _sums(padded, allowed, add=np.maximum)[-1]
        return best


def _sums(scores: Float64s, table: npt.NDArray[np.int32], add: np.ufunc = np.logaddexp) -> Float64s:
    """The (log) sum over all cuts of the first 0, 1, 2 … characters: `[length + 1, strings]`."""
    sums = np.full((len(table) + 1, table.shape[2]), -np.inf)
    sums[0] = 0
    for end in range(1, len(table) + 1):
        for size in range(1, min(end, table.shape[1]) + 1):
            sums[end] = add(sums[end], sums[end - size] + scores[table[end - 1, size - 1]])
    return sums


def _reversed(table: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The table of the strings read backwards: the piece that ended at `end` now begins there."""
    mirrored = table.copy()
    length = len(table)
    for end in range(1, length + 1):
        for size in range(1, min(end, table.shape[1]) + 1):
            mirrored[end - 1, size - 1] = table[length - end + size - 1, size - 1]
    return mirrored
