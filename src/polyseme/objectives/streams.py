"""Streams: one long text cut into as many parts as a batch has rows, each read piece after piece.

What a network remembers of a row is then what stands before it (Dai et al. 2019, section 3.2). Nothing is
kept about how far a stream is read: the rows of a batch follow from its number.
"""

import dataclasses

from polyseme.objectives.contiguous import cut_rows
from polyseme.objectives.samples import Integers, Samples, SampleWriter, document_blocks
from polyseme.seeding import generator
from polyseme.text.store import Store


def plan_streams(store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
    """Samples of `length` + 1 tokens, each beginning with the last token of the one before.

    So a row of `length` tokens is read and asks for the token after each, and nothing is left out between
    two rows. The documents of a block are shuffled in each epoch; what does not fill a row
    at the end of a block is left out, unless there would be no row at all.
    """
    writer = SampleWriter("contiguous")
    short: list[tuple[int, int]] = []
    for number, block in enumerate(document_blocks(store, documents)):
        rng = generator(seed, "streams", epoch, number)
        turned = block[rng.permutation(len(block))]
        rows = cut_rows(store, turned, length=length + 1, overlap=1)
        sizes = store.document_starts[turned + 1] - store.document_starts[turned]
        full = (int(sizes.sum()) + len(turned) - 1) // length
        for row in rows[:full]:
            writer.add(row)
        short = rows[-1] if rows else short
        writer.end_block()
    samples = writer.finish()
    if not len(samples) and short:
        writer.add(short)
        samples = writer.finish()
    return dataclasses.replace(samples, length=length + 1, streams=True)
