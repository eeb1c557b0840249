"""Similar words in place of [MASK]: masked LM as correction.

Cui et al. 2020, "Revisiting Pre-Trained Models for Chinese Natural Language Processing" (MacBERT), section
3.2. Words are similar whose vectors are, in any file of word vectors. Only words of as many tokens replace
one another, so that every label stays at its place.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyseme.objectives.samples import Integers
from polyseme.objectives.units import unit_sizes
from polyseme.records import Record
from polyseme.seeding import RowGenerator
from polyseme.text.store import Mark, Store
from polyseme.text.vectors import read_vectors

_LONGEST = 8
"""Words of more tokens are not looked up."""
_SCALE = 2048
_ROWS = 1024
_STRETCH = 1 << 22
_PRIME = np.uint64(0x100000001B3)

Booleans = npt.NDArray[np.bool_]


class SimilarSettings(Record, frozen=True, kw_only=True):
    """Where similar words come from."""

    vectors: str | None = None
    """A file of word vectors: word2vec's text or binary, GloVe's text, or NAME.npy with words in NAME.txt."""
    words: int = 50_000
    """Only so many words, those that the store has most often, replace and are replaced."""
    neighbours: int = 10
    """Of so many nearest words one is taken by lot."""

    def __post_init__(self) -> None:
        for name in ("words", "neighbours"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class WordTable:
    """Words as tokens, and how to find them."""

    ids: Integers
    """Their tokens, filled up with −1, in the order of their hashes: `[words, longest]`."""
    hashes: npt.NDArray[np.uint64]
    """`[words]`, rising."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sizes(self) -> Integers:
        """Tokens of each word: `[words]`."""
        sizes: Integers = (self.ids >= 0).sum(axis=1)
        return sizes

    def find(self, ids: Integers) -> Integers:
        """The number of each word, −1 where it is not in the table: `[queries]`."""
        if not len(self):
            return np.full(len(ids), -1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.hashes, hashed(ids)), len(self) - 1)
        return np.where((self.ids[place] == ids).all(axis=1), place, -1)


def word_table(ids: Integers) -> tuple[WordTable, Integers]:
    """The table of some words, and the rows of `ids` that it holds; of two with one hash the first stays."""
    hashes, first = np.unique(hashed(ids), return_index=True)
    return WordTable(ids[first], hashes), first


def hashed(ids: Integers) -> npt.NDArray[np.uint64]:
    """A 64-bit number for each row of `[words, longest]`."""
    total = np.zeros(len(ids), dtype=np.uint64)
    for column in ids.T:
        total = (total ^ (column + 1).astype(np.uint64)) * _PRIME
        total ^= total >> np.uint64(29)
    return total


@dataclass(frozen=True, eq=False)
class SimilarWords:
    """Replaces hidden words: by a similar one, by any one, or not at all."""

    table: WordTable
    neighbours: Integers
    """Of each word of the table the similar ones, filled up with −1: `[words, neighbours]`."""
    by_size: tuple[Integers, ...]
    """The words of 0, 1, 2 … tokens."""
    ordinary: Integers
    """The ids of all tokens that are not special."""
    replaced: float
    random: float

    def replace(self, input_ids: Integers, units: Integers, hidden: Booleans, rng: RowGenerator) -> Integers:
        """The ids that the model reads: each hidden word takes its own lot, also within a run of words.

        A word without a similar one, where one is due, becomes a random word; where no word of as many
        tokens is known, random tokens.
        """
        length = input_ids.shape[1]
        lot, pick = rng.random(length), rng.random(length)
        chance = self.ordinary[rng.integers(len(self.ordinary), length)]
        begins = hidden.copy()
        begins[:, 1:] &= ~hidden[:, :-1] | (units[:, 1:] != units[:, :-1])
        row, place = np.nonzero(begins)  # [words]
        unit = units[row, place]
        size = unit_sizes(units)[row, unit]
        lot, pick = lot[row, unit], pick[row, unit]

        number = self.table.find(self._tokens(input_ids, row, place, size))
        similar = np.where((number >= 0)[:, None], self.neighbours[number], -1)  # [words, neighbours]
        count = (similar >= 0).sum(axis=1)
        nearest = similar[np.arange(len(similar)), (pick * count).astype(np.int64)]
        due = lot < self.replaced + self.random
        new = np.where((lot < self.replaced) & (count > 0), nearest, self._any(size, pick))

        changed = input_ids.copy()
        for step in range(int(size.max(initial=0))):
            here = due & (step < size)
            at = (row[here], place[here] + step)
            known = new[here]
            column = min(step, self.table.ids.shape[1] - 1)
            changed[at] = np.where(known >= 0, self.table.ids[known, column], chance[at])
        return changed

    def _tokens(self, input_ids: Integers, row: Integers, place: Integers, size: Integers) -> Integers:
        """The tokens of words, filled up as the table's; a word that is too long equals none."""
        steps = np.arange(self.table.ids.shape[1])
        at = np.minimum(place[:, None] + steps, input_ids.shape[1] - 1)
        tokens = np.where(steps < size[:, None], input_ids[row[:, None], at], -1)
        tokens[size > len(steps)] = -1
        return tokens

    def _any(self, size: Integers, pick: npt.NDArray[np.float64]) -> Integers:
        """A random word of each size, −1 where none is known."""
        found = np.full(len(size), -1, dtype=np.int64)
        for tokens, words in enumerate(self.by_size):
            here = size == tokens
            if len(words):
                found[here] = words[(pick[here] * len(words)).astype(np.int64)]
        return found


def similar_words(settings: SimilarSettings, store: Store, *, replaced: float, random: float) -> SimilarWords:
    """Read the vectors and find each word's neighbours: the same, in the same order, on every machine."""
    if settings.vectors is None:
        raise ValueError(
            "similar words come from a file of word vectors, and none is named; "
            "pass --change objectives.0.similar.vectors=vectors.txt"
        )
    everything, numbers = _words_of_file(settings.vectors, store)
    counts = _counted(everything, store)
    chosen = np.argsort(-counts, kind="stable")[: min(settings.words, int((counts > 0).sum()))]
    if not len(chosen):
        raise ValueError(
            f"no word of the store has a vector in {settings.vectors}; name vectors of the same language "
            "and script, or prepare the store with another --words"
        )
    chosen = np.sort(chosen)
    table = WordTable(everything.ids[chosen], everything.hashes[chosen])
    vectors = _chosen_vectors(settings.vectors, numbers[chosen])
    sizes = table.sizes
    by_size = tuple(np.flatnonzero(sizes == size) for size in range(int(sizes.max()) + 1))
    neighbours = np.full((len(table), settings.neighbours), -1, dtype=np.int64)
    for words in by_size:
        if len(words) > 1:
            near = nearest_rows(vectors[words], settings.neighbours)
            neighbours[words[:, None], np.arange(near.shape[1])] = words[near]
    special = np.asarray(sorted(store.tokenizer.special_ids))
    return SimilarWords(
        table=table,
        neighbours=neighbours,
        by_size=by_size,
        ordinary=np.setdiff1d(np.arange(store.vocab_size), special),
        replaced=replaced,
        random=random,
    )


def nearest_rows(vectors: npt.NDArray[np.float32], count: int) -> Integers:
    """The numbers of the rows with the largest cosine to each row, itself left out: `[rows, ≤ count]`.

    The unit vectors are rounded to whole numbers whose products stay below 2²⁴: float32 adds these without
    an error, so the order is the same for any number of threads and on any machine. Ties go to the first.
    """
    count = min(count, len(vectors) - 1)
    doubles = vectors.astype(np.float64)
    lengths = np.sqrt((doubles**2).sum(axis=1, keepdims=True))
    whole = np.rint(doubles / np.maximum(lengths, 1e-30) * _SCALE).astype(np.float32)
    near = np.empty((len(vectors), count), dtype=np.int64)
    for begin in range(0, len(vectors), _ROWS):
        products = (whole[begin : begin + _ROWS] @ whole.T).astype(np.int64)  # [rows of the block, rows]
        rows = np.arange(len(products))
        # One number holds product and place, so that no two are equal and the largest ones are one set.
        ranked = products * len(vectors) - np.arange(len(vectors))
        ranked[rows, rows + begin] = -(1 << 62)
        best = np.argpartition(-ranked, count - 1, axis=1)[:, :count]
        turn = np.argsort(-np.take_along_axis(ranked, best, axis=1), axis=1)
        near[begin : begin + _ROWS] = np.take_along_axis(best, turn, axis=1)
    return near


def _words_of_file(path: str, store: Store) -> tuple[WordTable, Integers]:
    """The words of the file that are of known tokens, and their numbers in the file."""
    tokenizer = store.tokenizer
    forbidden = np.asarray(sorted(tokenizer.special_ids))
    rows, numbers, begin = [], [], 0
    for words in _batches(path):
        starts = [np.zeros(1, dtype=np.int64)] * len(words)
        ids, _, counts = tokenizer.encode_joined(words, starts=starts)
        bad = np.zeros(len(words), dtype=np.bool_)
        bad[np.repeat(np.arange(len(words)), counts)[np.isin(ids, forbidden)]] = True
        good = np.flatnonzero(~bad & (counts > 0) & (counts <= _LONGEST))
        steps = np.arange(_LONGEST)
        at = (np.cumsum(counts) - counts)[good, None] + steps
        rows.append(np.where(steps < counts[good, None], ids[np.minimum(at, len(ids) - 1)], -1))
        numbers.append(good + begin)
        begin += len(words)
    joined = np.concatenate([np.zeros((0, _LONGEST), dtype=np.int64), *rows]).astype(np.int64)
    table, kept = word_table(joined)
    return table, np.concatenate([np.zeros(0, dtype=np.int64), *numbers])[kept]


def _batches(path: str) -> Iterator[list[str]]:
    words: list[str] = []
    for word, _ in read_vectors(path):
        words.append(word)
        if len(words) == 1 << 16:
            yield words
            words = []
    if words:
        yield words


def _counted(table: WordTable, store: Store) -> Integers:
    """How often each word of the table is a word of the store: `[words]`."""
    if Mark.WORD not in store.marks_present:
        raise ValueError("similar words need word marks; prepare the store again with --words rjieba")
    counts = np.zeros(len(table), dtype=np.int64)
    begin = 0
    while begin < store.num_tokens:
        stop = min(begin + _STRETCH, store.num_tokens)
        ids, marks = store.gather(np.array([begin]), np.array([min(stop + _LONGEST, store.num_tokens)]))
        starts = np.flatnonzero(marks & Mark.WORD)
        sizes = np.diff(starts, append=len(ids))
        inside = (starts < stop - begin) & (sizes <= _LONGEST)
        starts, sizes = starts[inside], sizes[inside]
        steps = np.arange(_LONGEST)
        at = np.minimum(starts[:, None] + steps, len(ids) - 1)
        found = table.find(np.where(steps < sizes[:, None], ids[at].astype(np.int64), -1))
        counts += np.bincount(found[found >= 0], minlength=len(table))
        begin = stop
    return counts


def _chosen_vectors(path: str, numbers: Integers) -> npt.NDArray[np.float32]:
    """The vectors of the words with these numbers in the file, in this order."""
    place = {number: row for row, number in enumerate(numbers.tolist())}
    found: dict[int, npt.NDArray[np.float32]] = {
        place[number]: vector for number, (_, vector) in enumerate(read_vectors(path)) if number in place
    }
    return np.stack([found[row] for row in range(len(numbers))])
