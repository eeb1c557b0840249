"""Contiguous text: documents one after another, cut wherever a row is full (Radford et al. 2018, section 4).

Nothing is padded, and a document's end is told by the separator alone: what a row shows of the document
before, a causal model may see.
"""

import numpy as np

from polyseme.objectives.samples import Integers, Samples, SampleWriter, document_blocks
from polyseme.seeding import generator
from polyseme.text.store import Store


def plan_contiguous(store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
    """Every token of the documents once, and a separator after each: rows of exactly `length` tokens.

    The documents of a block are shuffled in each epoch, so rows begin elsewhere; the last row of a block
    may be shorter.
    """
    writer = SampleWriter("contiguous")
    for number, block in enumerate(document_blocks(store, documents)):
        rng = generator(seed, "contiguous", epoch, number)
        for row in cut_rows(store, block[rng.permutation(len(block))], length=length):
            writer.add(row)
        writer.end_block()
    return writer.finish()


def cut_rows(
    store: Store, documents: Integers, *, length: int, overlap: int = 0
) -> list[list[tuple[int, int]]]:
    """The documents in this order as rows of spans; an empty span is a separator left for the next row.

    Each row begins with the last `overlap` tokens of the one before.
    """
    starts, stops = store.document_starts[documents], store.document_starts[documents + 1]
    ends = np.cumsum(stops - starts + 1)  # in the stream, where each document's separator is its last token
    begins = ends - (stops - starts + 1)
    rows = []
    for begin in range(0, int(ends[-1]) - overlap if len(ends) else 0, length - overlap):
        first = int(np.searchsorted(ends, begin, side="right"))
        last = int(np.searchsorted(begins, begin + length))
        from_here = starts[first:last] + np.maximum(begin - begins[first:last], 0)
        to_there = np.minimum(stops[first:last], starts[first:last] + begin + length - begins[first:last])
        rows.append(list(zip(from_here.tolist(), to_there.tolist(), strict=True)))
    return rows
