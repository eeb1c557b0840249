"""The loader: any batch of any epoch by its place, prepared ahead in a thread."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from polyseme.errors import DataError
from polyseme.models.batch import Batch
from polyseme.objectives.contract import Corruption
from polyseme.objectives.rows import lay_out
from polyseme.objectives.samples import Integers, Samples, order
from polyseme.seeding import RowGenerator
from polyseme.text.store import Store

_AHEAD = 4
_FEW_DOCUMENTS = 4


@dataclass(frozen=True)
class Position:
    """The place of a batch: its epoch, and its number in it."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Loader:
    """Batches as a pure function of (seed, position): nothing is skipped over, nothing is remembered."""

    store: Store
    corruption: Corruption
    documents: Integers
    length: int
    batch_size: int
    seed: int

    def batches(self, start: Position, progress: Callable[[int], float]) -> Iterator[tuple[Batch, Position]]:
        """The batches from `start` on without end, each with the place of the one after it.

        `progress(i)` says how far the training is when it reads the i-th of them. A last batch that is
        not full is left out, unless it is the only one of its epoch.
        """
        drawn, position = 0, start
        while True:
            chance = self.corruption.chance_epoch(position.epoch)
            samples = self.corruption.plan(
                self.store, self.documents, length=self.length, seed=self.seed, epoch=chance
            )
            if not len(samples):
                raise DataError("the store gives no sample; it needs at least one document with text")
            sequence = order(samples, seed=self.seed, epoch=position.epoch, batch_size=self.batch_size)
            count = max(1, len(sequence) // self.batch_size)
            for number in range(position.batch, count):
                chosen = sequence[number * self.batch_size : (number + 1) * self.batch_size]
                epoch = position.epoch
                position = Position(epoch, number + 1) if number + 1 < count else Position(epoch + 1)
                yield self.batch(samples, chosen, epoch=chance, progress=progress(drawn)), position
                drawn += 1

    def batch(self, samples: Samples, chosen: Integers, *, epoch: int, progress: float) -> Batch:
        """The batch of the chosen samples."""
        rows = lay_out(self.store, samples, chosen, length=self.length, progress=progress)
        arrays = self.corruption(rows, RowGenerator(chosen, self.seed, "corruption", epoch))
        return Batch(
            **{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        )


def ahead(batches: Iterator[tuple[Batch, Position]]) -> Generator[tuple[Batch, Position]]:
    """The same batches, prepared up to a few ahead in a thread of their own."""
    ready: queue.Queue[tuple[Batch, Position] | BaseException] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(item: tuple[Batch, Position] | BaseException) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in batches:
                put(item)
                if stopped.is_set():
                    return
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="loader", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def split_documents(store: Store, *, held_out: float, most_tokens: int) -> tuple[Integers, Integers]:
    """The documents to train on, and those kept for the held-out loss: chosen by number, for any seed.

    Held out are at most `most_tokens`, but two documents at least, since pairs need two; a store of fewer
    than four documents holds nothing out. Copies of a document that is held out are not trained on either.
    """
    everything = np.arange(store.num_documents)
    if held_out == 0 or len(everything) < _FEW_DOCUMENTS:
        return everything, everything[:0]
    sizes = np.diff(store.document_starts)
    lot = RowGenerator(everything, 0, "held out").random(1)[:, 0]
    candidates = everything[lot < held_out]
    kept = candidates[np.cumsum(sizes[candidates]) <= most_tokens]
    if len(kept) < 2:
        kept = np.sort(np.argsort(sizes, kind="stable")[:2])
    return np.setdiff1d(everything, copies_of(store, kept)), kept


def copies_of(store: Store, documents: Integers) -> Integers:
    """The numbers of all documents that have the same tokens as one of `documents`, these included."""
    starts, sizes = store.document_starts[:-1], np.diff(store.document_starts)
    filled = np.flatnonzero(sizes)  # an empty document has no tokens to look at
    looks = sizes[filled].astype(np.uint64)
    for place in (0, sizes[filled] // 2, sizes[filled] - 1):  # few documents share all of this
        ids, _ = store.gather(starts[filled] + place, starts[filled] + place + 1)
        looks = looks * np.uint64(1_000_003) + ids.astype(np.uint64)
    wanted = np.isin(filled, documents)
    alike = filled[np.isin(looks, looks[wanted])]
    tokens = {
        number: store.gather(starts[[number]], starts[[number]] + sizes[number])[0].tobytes()
        for number in alike
    }
    held = {tokens[number] for number in filled[wanted]}
    same = [number for number in alike if tokens[number] in held]
    return np.union1d(documents, np.array(same, dtype=np.int64))
