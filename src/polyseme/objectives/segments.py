"""One or two segments of running text in a row, with no question about them: ELECTRA's rows.

Clark et al. 2020, "ELECTRA", by the rules of its published code. The published loop may put a short sentence
back into the first segment after the second has begun; here segments stay runs of text.
"""

from collections.abc import Iterator

import numpy as np

from polyseme.objectives.samples import Integers, Samples, SampleWriter, document_blocks
from polyseme.seeding import generator
from polyseme.text.store import Store

SINGLE = 0.1
"""Share of the rows that are one segment however long it is."""
SHORT = 0.05
"""Share of the rows that aim at a shorter length, drawn evenly from `SHORTEST` up."""
SHORTEST = 5

Span = tuple[int, int]


def plan_segments(store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
    """Sentences of a document until a row is full, cut in two somewhere near the middle.

    What overflows the row is left out in this epoch: of the last sentence, or of a long first one.
    """
    writer = SampleWriter("pair")
    for number, block in enumerate(document_blocks(store, documents)):
        rng = generator(seed, "segments", epoch, number)
        for document in block.tolist():
            for borders in fill_rows(sentences(store, document), length, rng):
                writer.add(divide(borders, length, rng))
        writer.end_block()
    return writer.finish()


def sentences(store: Store, document: int) -> list[int]:
    """The borders of a document's sentences: count + 1 positions in the store."""
    start, end = store.document_starts[document : document + 2]
    first, last = np.searchsorted(store.sentence_starts, (start, end))
    return [*store.sentence_starts[first:last].tolist(), int(end)]


def fill_rows(borders: list[int], length: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """The borders of the sentences of each row: as many as reach its length, or the document's last."""
    begin, target = 0, _target(length, rng)
    for i in range(1, len(borders)):
        if borders[i] - borders[begin] >= target or (i == len(borders) - 1 and borders[i] > borders[begin]):
            yield borders[begin : i + 1]
            begin, target = i, _target(length, rng)


def divide(borders: list[int], length: int, rng: np.random.Generator) -> list[Span]:
    """One or two segments of these sentences, together at most `length` tokens with [CLS] and [SEP].

    A sentence belongs to the first segment while that stays below half the room; one that would carry it
    over the half does so every second time.
    """
    half = borders[-1] - borders[0] + 1 if rng.random() < SINGLE else (length - 3) // 2
    cut = 1
    while cut < len(borders) - 1:
        filled, more = borders[cut] - borders[0], borders[cut + 1] - borders[0]
        if not (more < half or (filled < half and rng.random() < 0.5)):
            break
        cut += 1
    first = borders[0], min(borders[cut], borders[0] + length - 2)
    room = length - 3 - (first[1] - first[0])
    second = borders[cut], min(borders[-1], borders[cut] + room)
    return [first, second] if second[1] > second[0] else [first]


def _target(length: int, rng: np.random.Generator) -> int:
    return int(rng.integers(SHORTEST, length + 1)) if rng.random() < SHORT else length
