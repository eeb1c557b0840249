"""A frozen network's layers for a batch: computed, or read from a file where they were computed before."""

import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from polyseme import progress
from polyseme.checkpoints.fingerprints import fingerprint
from polyseme.errors import CheckpointError
from polyseme.integrity import read_checked_record, write_checked
from polyseme.models.batch import Batch
from polyseme.models.batching import batches_by_length
from polyseme.models.transformer.model import Transformer
from polyseme.records import Record
from polyseme.tasks.rows import collate
from polyseme.tasks.task import Row
from polyseme.tasks.ways.layers import FrozenLayers
from polyseme.training.loop import autocast

_SYNC = 1 << 26
"""Bytes between two marks of what is done."""
_TYPES = {"fp32": np.float32, "fp16": np.float16}


class _Done(Record, frozen=True, kw_only=True):
    """How far a file of features is whole."""

    batches: int = 0
    bytes: int = 0
    xxh3: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.batches < 1 << 62 or not 0 <= self.bytes < 1 << 62:
            raise ValueError(f"batches and bytes must not be negative, got {self.batches}, {self.bytes}")


class Source(Protocol):
    """Where a batch's states come from."""

    def __call__(self, batch: Batch) -> list[Tensor]:
        """The states to mix, `[batch, length, …]` each."""


class Extractor:
    """The chosen layers of a network that rests: without dropout, without gradient.

    It is no part of the module that learns, whose state it would fill with weights that never change.
    """

    def __init__(self, backbone: Transformer, layers: FrozenLayers) -> None:
        self.backbone = backbone.eval().requires_grad_(False)
        self.layers = layers

    @torch.no_grad()
    def __call__(self, batch: Batch) -> list[Tensor]:
        states = self.backbone(batch, every_layer=True).layers
        chosen = [states[number] for number in self.layers.numbers]
        return chosen if self.layers.mix.learned else [self.layers.mix(chosen)]


class Cache:
    """The same from a file, `[tokens, states, size]`, that is filled once and read through the page cache.

    A row is found by what it says, so nothing needs to number the rows; one that is not there is computed.
    The file grows in strokes, and a note beside it tells how far it is whole: what was killed goes on there.
    """

    def __init__(self, extractor: Extractor, folder: Path, *, precision: str, stored: str) -> None:
        self.extractor, self.folder, self.precision = extractor, folder, precision
        self.type = _TYPES[stored]
        self.mark = hashlib.sha256(
            f"{fingerprint(extractor.backbone, {})} {extractor.layers.written} {precision} {stored} "
            f"{torch.__version__}".encode()
        ).hexdigest()[:16]
        self.places: dict[bytes, tuple[int, int]] = {}
        self.file: NDArray[Any] | None = None

    def fill(self, rows: Sequence[Row], *, padding: int, config: Any, batch_tokens: int, device: Any) -> None:
        """Compute the states of all different rows, longest first, from where an earlier call stopped."""
        keys = {_key(row.input_ids, row.token_type_ids, config.tells_segments): row for row in rows}
        chosen = list(keys.values())
        lengths = [len(row.input_ids) for row in chosen]
        order = batches_by_length(lengths, max_tokens=batch_tokens)
        names = list(keys)
        content = hashlib.sha256(b"".join(names[n] for n in itertools.chain.from_iterable(order)))
        content.update(f"{batch_tokens}".encode())
        name = f"features-{self.mark}-{content.hexdigest()[:16]}"
        path, note = self.folder / f"{name}.bin", self.folder / f"{name}.json"
        start = 0
        for number in itertools.chain.from_iterable(order):
            self.places[names[number]] = (start, lengths[number])
            start += lengths[number]
        tokens = [sum(lengths[n] for n in numbers) for numbers in order]
        done, digest = self._done(note, path, tokens)
        with progress.bar("features", total=len(chosen), unit="texts") as work:
            work.advance(sum(len(numbers) for numbers in order[: done.batches]))
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(path, "r+b" if path.exists() else "w+b") as file:
                file.truncate(done.bytes)
                file.seek(done.bytes)
                for place, numbers in enumerate(order[done.batches :], done.batches + 1):
                    batch = collate([chosen[n] for n in numbers], padding=padding, config=config).to(device)
                    for states in self._computed(batch, [lengths[n] for n in numbers]):
                        data = states.tobytes()
                        file.write(data)
                        digest.update(data)
                    work.advance(len(numbers))
                    if file.tell() - done.bytes >= _SYNC or place == len(order):
                        file.flush()
                        os.fsync(file.fileno())
                        done = _Done(batches=place, bytes=file.tell(), xxh3=digest.hexdigest())
                        write_checked(note, msgspec.json.encode(done))
        size = done.bytes // (start * np.dtype(self.type).itemsize)
        count = len(self.extractor.layers.numbers) if self.extractor.layers.mix.learned else 1
        self.file = np.memmap(path, dtype=self.type, mode="r", shape=(start, count, size // count))

    def _done(self, note: Path, path: Path, tokens: Sequence[int]) -> tuple["_Done", xxhash.xxh3_128]:
        """How far the file is whole, with `tokens` a batch, and the hash of that much; not at all where
        it or the note is damaged."""
        if not note.exists():
            return _Done(), xxhash.xxh3_128()
        try:
            done = read_checked_record(note, _Done)
            size = sum(tokens[: done.batches]) * np.dtype(self.type).itemsize
            digest = _hash_of(path, done.bytes)
            whole = done.batches <= len(tokens) and digest.hexdigest() == done.xxh3
            if whole and not (done.bytes % size if size else done.bytes):
                return done, digest
        except (CheckpointError, FileNotFoundError):
            pass
        progress.warn(f"{path} is damaged; its features are computed again")
        return _Done(), xxhash.xxh3_128()

    def __call__(self, batch: Batch) -> list[Tensor]:
        places = [self.places.get(key) for key in _keys(batch, self.extractor.backbone.config)]
        if self.file is None or any(place is None for place in places):
            return self.extractor(batch)
        states = np.zeros((*batch.input_ids.shape, *self.file.shape[1:]), dtype=np.float32)
        for row, place in enumerate(places):
            assert place is not None
            states[row, : place[1]] = self.file[place[0] : sum(place)]
        moved = torch.from_numpy(states).to(batch.input_ids.device)
        return list(moved.unbind(dim=2))

    def _computed(self, batch: Batch, lengths: list[int]) -> Iterable[NDArray[Any]]:
        with (
            torch.inference_mode(),
            autocast("bf16" if self.precision == "bf16" else "fp32", batch.input_ids.device),
        ):
            states = torch.stack(self.extractor(batch), dim=2)  # [batch, length, states, size]
        found = states.float().cpu().numpy().astype(self.type)
        for row, length in enumerate(lengths):
            yield found[row, :length]


def _hash_of(path: Path, size: int) -> xxhash.xxh3_128:
    """The hash of the first `size` bytes of a file, or of all where it has fewer."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while size and (block := file.read(min(size, _SYNC))):
            digest.update(block)
            size -= len(block)
    return digest


def _key(ids: NDArray[Any], types: NDArray[Any] | None, tells_segments: bool) -> bytes:
    digest = hashlib.blake2b(np.ascontiguousarray(ids, dtype=np.int32).tobytes(), digest_size=16)
    if tells_segments and types is not None and types.any():
        digest.update(b"." + np.ascontiguousarray(types, dtype=np.int32).tobytes())
    return digest.digest()


def _keys(batch: Batch, config: Any) -> list[bytes]:
    """What each row of a batch says; padding stands on its right."""
    ids = batch.input_ids.cpu().numpy()
    types = batch.token_type_ids.cpu().numpy() if batch.token_type_ids is not None else None
    lengths = [ids.shape[1]] * len(ids)
    if batch.attention_mask is not None:
        lengths = batch.attention_mask.sum(dim=1).tolist()
    return [
        _key(ids[n, :length], types[n, :length] if types is not None else None, config.tells_segments)
        for n, length in enumerate(lengths)
    ]
