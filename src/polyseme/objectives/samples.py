"""Samples: which spans of the store make each row of an epoch, and in what order they come."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from polyseme.seeding import generator
from polyseme.text.store import Store

Integers = npt.NDArray[np.int64]

Layout = Literal["pair", "packed", "contiguous", "joined", "behind"]
"""How spans share a row: together as one text or pair (`[CLS] A [SEP] B [SEP]`); each a text of its own
(`[CLS] text [SEP]`, blind to the others); as one stream of documents, a `[SEP]` after each and no `[CLS]`,
that is cut wherever the row is full; side by side without any special token, for an objective that makes
two rows of each, one to be read and one to be written; or as a pair whose special tokens all stand behind
texts (`A [SEP] B [SEP] [CLS]`), where the third span is empty and stands for the `[CLS]`."""

BLOCK_TOKENS = 1 << 23
"""Documents are planned and shuffled in blocks of about so many tokens, so that a store larger than
memory is still read in long strokes."""

_SPILL = 1 << 22


@dataclass(frozen=True)
class Samples:
    """An epoch's table: sample `i` is made of the spans `rows[i]:rows[i + 1]`."""

    starts: Integers
    """First token of each span in the store: `[spans]`."""
    stops: Integers
    """One past the last token of each span: `[spans]`."""
    rows: Integers
    """`[samples + 1]`"""
    blocks: Integers
    """Where each block of samples begins: `[blocks + 1]`."""
    pair_labels: npt.NDArray[np.int8] | None = None
    layout: Layout = "pair"
    length: int | None = None
    """The most tokens of a sample, where that is not the length of the rows that the model reads."""
    streams: bool = False
    """Whether each sample goes on where the one before it stopped, and must be read after it."""

    def __len__(self) -> int:
        return len(self.rows) - 1


class SampleWriter:
    """Collects samples; what grows large lies in unnamed temporary files, mapped into memory."""

    def __init__(self, layout: Layout = "pair", *, length: int | None = None) -> None:
        self._layout, self._length = layout, length
        self._starts, self._stops, self._rows = (_Growing(np.int64) for _ in range(3))
        self._labels = _Growing(np.int8)
        self._blocks = [0]
        self._spans = 0

    def add(self, spans: list[tuple[int, int]], *, label: int | None = None) -> None:
        """Add one sample made of `spans`, in their order."""
        for start, stop in spans:
            self._starts.append(start)
            self._stops.append(stop)
        self._spans += len(spans)
        self._rows.append(self._spans)
        if label is not None:
            self._labels.append(label)

    def end_block(self) -> None:
        """Say that the samples since the last call belong together on disk."""
        if len(self._rows) > self._blocks[-1]:
            self._blocks.append(len(self._rows))

    def finish(self) -> Samples:
        """The table of everything added."""
        self.end_block()
        rows = self._rows.array()
        return Samples(
            starts=self._starts.array(),
            stops=self._stops.array(),
            rows=np.concatenate([np.zeros(1, np.int64), rows]),
            blocks=np.array(self._blocks, dtype=np.int64),
            pair_labels=self._labels.array() if len(self._labels) else None,
            layout=self._layout,
            length=self._length,
        )


class _Growing:
    """A list of numbers that moves to a temporary file each time it holds `_SPILL` of them."""

    def __init__(self, kind: type[np.integer[Any]]) -> None:
        self._kind = kind
        self._recent: list[int] = []
        self._spilled = 0
        self._file: Any = None

    def __len__(self) -> int:
        return self._spilled + len(self._recent)

    def append(self, value: int) -> None:
        self._recent.append(value)
        if len(self._recent) == _SPILL:
            self._spill()

    def array(self) -> npt.NDArray[Any]:
        if not self._spilled:
            return np.array(self._recent, dtype=self._kind)
        self._spill()
        return np.memmap(self._file, dtype=self._kind, mode="r", shape=(self._spilled,))

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  the memory map keeps it open
        np.array(self._recent, dtype=self._kind).tofile(self._file)
        self._file.flush()
        self._spilled += len(self._recent)
        self._recent = []


def document_blocks(store: Store, documents: Integers) -> Iterator[Integers]:
    """The chosen documents in order, cut into runs of about `BLOCK_TOKENS` tokens."""
    sizes = store.document_starts[documents + 1] - store.document_starts[documents]
    block = np.cumsum(sizes) // BLOCK_TOKENS
    borders = np.flatnonzero(np.diff(block)) + 1
    yield from np.split(documents, borders)


def in_sequence(samples: Samples, *, batch_size: int) -> Integers:
    """The samples as they come; streams side by side, so that row i of a batch goes on in the next one.

    Of streams, the samples behind the last full batch are left out, unless there is no full one.
    """
    count = len(samples) // batch_size
    if not samples.streams or not count:
        return np.arange(len(samples))
    return np.arange(batch_size * count).reshape(batch_size, count).T.reshape(-1)


def order(samples: Samples, *, seed: int, epoch: int, batch_size: int = 1) -> Integers:
    """The epoch's order of samples: blocks shuffled and samples inside each block; streams keep theirs."""
    if samples.streams:
        return in_sequence(samples, batch_size=batch_size)
    rng = generator(seed, "order", epoch)
    blocks = rng.permutation(len(samples.blocks) - 1)
    return np.concatenate(
        [
            samples.blocks[block] + rng.permutation(int(samples.blocks[block + 1] - samples.blocks[block]))
            for block in blocks
        ]
        or [np.zeros(0, np.int64)]
    ).astype(np.int64)
