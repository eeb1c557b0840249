"""Rows of ids laid end to end, sorted by length and cut into tiles that stay in the processor's cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """What a network reads, one row behind the other; every row has at least one token."""

    input_ids: Ids
    """`[tokens]`"""
    starts: Numbers
    """Where each row begins, and where the last one ends: `[rows + 1]`."""
    token_type_ids: Ids | None = None
    """`[tokens]`; None: all are of segment 0."""
    counted: Numbers | None = None
    """Begin and end, in the row, of the tokens that stand for its text: `[rows, 2]`. None: all of them."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Numbers:
        """Tokens of each row."""
        return self.starts[1:] - self.starts[:-1]

    @classmethod
    def of(cls, rows: Sequence[Ids], token_type_ids: Sequence[Ids] | None = None) -> "Rows":
        """Rows from an array of ids each.

        >>> Rows.of([np.array([5, 6]), np.array([7])]).starts
        array([0, 2, 3])
        """
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        kinds = None if token_type_ids is None else _joined(token_type_ids)
        return cls(_joined(rows), starts_of(lengths), kinds)

    def first(self, count: int) -> "Rows":
        """The first `count` rows, or all where there are fewer."""
        stop = self.starts[: count + 1][-1]
        return Rows(
            self.input_ids[:stop],
            self.starts[: count + 1],
            None if self.token_type_ids is None else self.token_type_ids[:stop],
            None if self.counted is None else self.counted[:count],
        )


@dataclass(frozen=True)
class Tile:
    """Rows that are computed together, shorter ones first."""

    rows: Numbers
    """Their numbers."""
    tokens: Numbers
    """For each of the tile's tokens, which of all tokens it is."""
    starts: Numbers
    """Where each row begins in the tile, and where the last one ends: `[rows + 1]`."""


def tiles(rows: Rows, *, most: int, least: int = 1, shares: int = 1) -> Iterator[Tile]:
    """All rows, each once, in tiles of at most `most` tokens; a longer row has one of its own.

    The longest come first: that shows at once whether the memory suffices. A tile has one of `shares` parts
    of the tokens that are left, though not fewer than `least`: towards the end they get smaller, so that no
    worker waits long for another. How many workers there are decides nothing.
    """
    if len(rows) == 1:  # One text: nothing to sort.
        yield Tile(np.zeros(1, dtype=np.int64), np.arange(len(rows.input_ids)), rows.starts)
        return
    lengths = rows.lengths
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    stop = len(order)
    while stop:
        left = int(ends[stop - 1])
        before = left - min(most, max(-(-left // shares), least))
        start = min(int(np.searchsorted(ends, before, side="left")) + 1 if before > 0 else 0, stop - 1)
        yield _tile(rows, order[start:stop], lengths[order[start:stop]])
        stop = start


def _tile(rows: Rows, numbers: Numbers, lengths: Numbers) -> Tile:
    starts = starts_of(lengths)
    moved = np.repeat(rows.starts[numbers] - starts[:-1], lengths)
    return Tile(numbers, moved + np.arange(len(moved)), starts)


def filled(tokens: int) -> int:
    """The next of few sizes: oneDNN builds a product for each size that it meets, which takes as long as
    computing a hundred tokens, and keeps them all. Nobody reads the tokens that fill a tile up."""
    step = 8 if tokens <= 64 else 32 if tokens <= 1024 else 128
    return -(-tokens // step) * step


def starts_of(lengths: Numbers) -> Numbers:
    """Where rows of these lengths begin, and where the last one ends: `[rows + 1]`."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


def _joined(rows: Sequence[Ids]) -> Ids:
    return np.concatenate([np.zeros(0, dtype=np.int32), *rows]).astype(np.int32, copy=False)
