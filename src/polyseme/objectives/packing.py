"""Packing: texts cut at sentence ends and laid side by side into rows that are nearly full.

Each text keeps to itself (its own [CLS] and [SEP], positions from 0, attention inside only), so packing
saves padding and changes nothing that is learned.
"""

from bisect import bisect_left, insort

import numpy as np

from polyseme.objectives.samples import Integers, Samples, SampleWriter, document_blocks
from polyseme.seeding import generator
from polyseme.text.store import Store

_OPEN_ROWS = 256
_SPECIAL = 2  # [CLS] and [SEP] of each text


def plan_packed(store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
    """Every token of the documents once: texts of at most `length` − 2 tokens, packed into rows."""
    writer = SampleWriter("packed")
    for number, block in enumerate(document_blocks(store, documents)):
        texts = cut_texts(store, block, most=length - _SPECIAL)
        rng = generator(seed, "packing", epoch, number)
        for row in pack(texts[rng.permutation(len(texts))], length=length):
            writer.add(row)
        writer.end_block()
    return writer.finish()


def cut_texts(store: Store, documents: Integers, *, most: int) -> Integers:
    """The documents as spans `[texts, 2]` of at most `most` tokens, each as many whole sentences as fit.

    Where whole sentences would leave more than an eighth of the room empty, the next one is cut.
    """
    least = most - most // 8
    texts: list[tuple[int, int]] = []
    for document in documents:
        start, end = (int(border) for border in store.document_starts[document : document + 2])
        first, last = np.searchsorted(store.sentence_starts, (start, end))
        borders = [*store.sentence_starts[first:last].tolist(), end]
        while end - start > most:
            fitting = bisect_left(borders, start + most + 1) - 1
            stop = borders[fitting] if borders[fitting] >= start + least else start + most
            texts.append((start, stop))
            start = stop
        if end > start:
            texts.append((start, end))
    return np.array(texts, dtype=np.int64).reshape(-1, 2)


def pack(texts: Integers, *, length: int) -> list[list[tuple[int, int]]]:
    """Rows of texts: each text goes into the fullest open row that still has room (best fit)."""
    rows: list[list[tuple[int, int]]] = []
    open_rows: list[tuple[int, int]] = []  # (room left, row), sorted
    for start, stop in texts.tolist():
        need = stop - start + _SPECIAL
        place = bisect_left(open_rows, (need, -1))
        if place < len(open_rows):
            room, row = open_rows.pop(place)
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append((start, stop))
        if room - need > _SPECIAL:
            insort(open_rows, (room - need, row))
        if len(open_rows) > _OPEN_ROWS:
            open_rows.pop(0)
    return rows
