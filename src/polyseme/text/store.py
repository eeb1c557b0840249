"""The token store: a corpus as numbers on disk, read through memory maps.

A folder holds shards of `ids` and `marks` (one each per token), where documents and sentences start,
how often each id occurs, the tokenizer, and a manifest with the hashes of every other file. It is
written by `store_writing` and read here. A changed byte is noticed when it is first read: `checksums.bin`
has a hash for each `BLOCK` tokens of a shard, so that nobody has to read a store through to look into it.
"""

from __future__ import annotations

import hashlib
from enum import IntFlag
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from polyseme import integrity
from polyseme.errors import CheckpointError, SettingsError
from polyseme.input_files import read_small
from polyseme.integrity import FileEntry
from polyseme.records import Record, decode_json, from_plain

if TYPE_CHECKING:
    from polyseme.text.tokenizer import Tokenizer

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CHECKSUMS = "checksums.bin"
ORIGIN = "origin.json"
"""The text that a store was made of, by its hashes; no part of what the store is."""
BLOCK = 1 << 20
"""Tokens of a shard that are checked together."""
_MAX_COUNT = 1 << 48
_CHECKED = 1 << 20
IdType = Literal["uint16", "uint32"]


class Mark(IntFlag):
    """What a token starts; one byte holds all of it."""

    WORD = 1
    PHRASE = 2
    ENTITY = 4
    SENTENCE = 8
    TURN = 16
    DOCUMENT = 32


class Manifest(Record, frozen=True):
    """What a store says of itself. Nothing in it depends on when, where or how fast it was written."""

    format_version: int
    settings: dict[str, Any]
    """How the store was made."""
    vocab_size: int
    id_type: IdType
    shards: list[int]
    """The number of tokens of each shard."""
    marks: list[str]
    """The names of the bits that are present."""
    num_tokens: int
    num_words: int
    num_sentences: int
    num_documents: int
    num_unknown: int
    num_characters: int
    """Characters that were read, after normalising."""
    files: dict[str, FileEntry]

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and not 0 <= value < _MAX_COUNT:
                raise ValueError(f"{name} must not be negative, nor above {_MAX_COUNT}, got {value}")
        if any(size <= 0 for size in self.shards) or sum(self.shards) != self.num_tokens:
            raise ValueError(
                f"the shards hold {sum(self.shards)} tokens, and num_tokens is {self.num_tokens}"
            )
        if unknown := [name for name in self.marks if name not in Mark.__members__]:
            raise ValueError(f"marks names {unknown[0]!r}; there are {', '.join(Mark.__members__)}")
        if self.id_type == "uint16" and self.vocab_size > 1 << 16:
            raise ValueError(f"ids of uint16 cannot tell {self.vocab_size} tokens apart")
        for name in self.files:
            if name.startswith("/") or "\0" in name or ".." in name.split("/"):
                raise ValueError(f"files names {name!r}, which lies outside of the store")
        for name, size in self.sizes.items():
            if name not in self.files or self.files[name].bytes != size:
                raise ValueError(f"files must list {name} with {size} bytes")

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of each file of numbers, as they follow from the counts."""
        width = np.dtype(self.id_type).itemsize
        sizes = {ids_name(shard): width * size for shard, size in enumerate(self.shards)}
        sizes |= {marks_name(shard): size for shard, size in enumerate(self.shards)}
        return sizes | {
            "document_starts.bin": 8 * (self.num_documents + 1),
            "sentence_starts.bin": 8 * (self.num_sentences + 1),
            "counts.bin": 8 * self.vocab_size,
        }


class Store:
    """A token store opened for reading; nothing is loaded until it is asked for.

    >>> store = Store.open("wiki.store")                             # doctest: +SKIP
    >>> starts = store.document_starts
    >>> ids, marks = store.gather(starts[:2], starts[1:3])           # doctest: +SKIP
    """

    def __init__(self, folder: Path, manifest: Manifest, fingerprint: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.fingerprint = fingerprint
        """SHA-256 of the manifest, and so of every byte of the store."""
        self.vocab_size = manifest.vocab_size
        self.num_tokens = manifest.num_tokens
        self.num_words = manifest.num_words
        self.num_sentences = manifest.num_sentences
        self.num_documents = manifest.num_documents
        self.marks_present = Mark(sum(Mark[name] for name in manifest.marks))
        self._checks = True
        self._bounds = np.concatenate([[0], np.cumsum(manifest.shards)]).astype(np.int64)

    @classmethod
    def open(cls, folder: str | Path, *, check: bool = False, verify: bool = True) -> Store:
        """The store in `folder`; `check` reads every byte now and compares the hashes.

        Without it, what is read later on is compared when it is first read, unless `verify` is False.

        Raises `CheckpointError` if files are missing, cut short, changed, or of another version.
        """
        folder = Path(folder).absolute()
        path = folder / MANIFEST
        if not path.is_file():
            raise CheckpointError(f"{folder} is not a token store (no {MANIFEST}); make one with `prepare`")
        manifest = _read_manifest(path)
        for name, entry in manifest.files.items():
            _check_file(folder, name, entry, thorough=check)
        fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
        store = cls(folder, manifest, fingerprint)
        store._checks = verify and integrity.checks_files()
        if store._checks and CHECKSUMS in manifest.files:
            _check_content(folder, CHECKSUMS, manifest.files[CHECKSUMS])
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder, self.fingerprint, self._checks)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids, from the store's own copy."""
        from polyseme.text.tokenizer import Tokenizer

        for name, entry in self.manifest.files.items():
            if self._checks and name.startswith("tokenizer/"):
                _check_content(self.folder, name, entry)
        tokenizer = Tokenizer.load(self.folder / "tokenizer")
        if tokenizer.vocab_size != self.vocab_size:
            raise CheckpointError(
                f"{self.folder}: the tokenizer has {tokenizer.vocab_size} tokens and the store was made with "
                f"{self.vocab_size}; prepare the store again"
            )
        return tokenizer

    @cached_property
    def document_starts(self) -> npt.NDArray[np.int64]:
        """Where documents start, in tokens, and at last the number of tokens: `[num_documents + 1]`."""
        return self._starts("document_starts.bin")

    @cached_property
    def sentence_starts(self) -> npt.NDArray[np.int64]:
        """Where sentences start, in tokens, and at last the number of tokens: `[num_sentences + 1]`."""
        return self._starts("sentence_starts.bin")

    @cached_property
    def counts(self) -> npt.NDArray[np.uint64]:
        """How often each id occurs: `[vocab_size]`."""
        counts = self._index("counts.bin", np.dtype("<u8"))
        if counts.max(initial=0) > self.num_tokens or int(counts.sum()) != self.num_tokens:
            raise CheckpointError(f"{self.folder / 'counts.bin'} {_DAMAGED}")
        return counts

    def gather(
        self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """The ids and marks of the spans `starts[i]:stops[i]`, joined: both `[sum(stops - starts)]`.

        Spans may overlap, be empty, come in any order and cross from one shard to the next.
        """
        starts, stops = np.asarray(starts, dtype=np.int64), np.asarray(stops, dtype=np.int64)
        if starts.size and not (
            starts.min() >= 0 and (starts <= stops).all() and stops.max() <= self.num_tokens
        ):
            raise ValueError(f"spans must lie between 0 and {self.num_tokens} and not end before they start")
        lengths = stops - starts
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        if (unread := self._unread) is not None:
            self._check_blocks(unread, starts, stops)
        positions = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)  # [tokens]
        if len(self._shards) == 1:
            ids, marks = (array[positions] for array in self._shards[0])
        else:
            ids, marks = self._gather_across(positions)
        if ids.max(initial=0) >= self.vocab_size or ids.min(initial=0) < 0:
            raise CheckpointError(
                f"{self.folder} holds a token id of {ids.max()}, and its vocabulary has {self.vocab_size} "
                "tokens; it is damaged: prepare the store again"
            )
        return ids.astype(np.int32, copy=False), marks

    def _gather_across(
        self, positions: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        ids = np.empty(len(positions), dtype=np.int32)
        marks = np.empty(len(positions), dtype=np.uint8)
        shard_of = np.searchsorted(self._bounds, positions, side="right") - 1
        for shard in np.unique(shard_of):
            here = shard_of == shard
            inside = positions[here] - self._bounds[shard]
            ids[here] = self._shards[shard][0][inside]
            marks[here] = self._shards[shard][1][inside]
        return ids, marks

    @cached_property
    def _block_bounds(self) -> npt.NDArray[np.int64]:
        """The first token of each block, and at last the number of tokens."""
        starts = [
            np.arange(start, stop, BLOCK, dtype=np.int64)
            for start, stop in zip(self._bounds[:-1], self._bounds[1:], strict=True)
        ]
        return np.concatenate([*starts, self._bounds[-1:]])

    @cached_property
    def _unread(self) -> npt.NDArray[np.bool_] | None:
        """Of each block whether it is still to be compared; None where all are, or none shall be."""
        return np.ones(len(self._block_bounds) - 1, dtype=bool) if self._checks else None

    def _check_blocks(
        self, unread: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
    ) -> None:
        """Compare the blocks that these spans are the first to read."""
        bounds = self._block_bounds
        first = np.searchsorted(bounds, starts, side="right") - 1
        last = np.searchsorted(bounds, stops, side="left")
        touched = np.zeros(len(unread) + 1, dtype=np.int64)
        some = stops > starts
        np.add.at(touched, first[some], 1)
        np.add.at(touched, last[some], -1)
        for block in np.flatnonzero((np.cumsum(touched[:-1]) > 0) & unread):
            self._check_block(int(block))
            unread[block] = False
        if not unread.any():
            self.__dict__["_unread"] = None

    def _check_block(self, block: int) -> None:
        start, stop = self._block_bounds[block : block + 2]
        shard = int(np.searchsorted(self._bounds, start, side="right")) - 1
        inside = slice(start - self._bounds[shard], stop - self._bounds[shard])
        names = (ids_name(shard), marks_name(shard))
        for name, array, expected in zip(names, self._shards[shard], self._checksums[block], strict=True):
            if xxhash.xxh3_64_intdigest(array[inside].view(np.uint8).data) != expected:
                raise _changed(self.folder / name)

    @cached_property
    def _checksums(self) -> npt.NDArray[np.uint64]:
        """XXH3 (64 bits) of the ids and of the marks of each block: `[blocks, 2]`."""
        return self._map(CHECKSUMS, np.dtype("<u8")).reshape(-1, 2)

    @cached_property
    def _shards(self) -> list[tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]]:
        id_type = np.dtype(self.manifest.id_type).newbyteorder("<")
        return [
            (self._map(ids_name(shard), id_type), self._map(marks_name(shard), np.dtype(np.uint8)))
            for shard in range(len(self.manifest.shards))
        ]

    def _starts(self, name: str) -> npt.NDArray[np.int64]:
        """Offsets that begin with 0, never fall, and end with the number of tokens."""
        starts = self._index(name, np.dtype("<i8"))
        parts = (starts[first : first + _CHECKED + 1] for first in range(0, len(starts), _CHECKED))
        rises = ((part[:-1] <= part[1:]).all() for part in parts)
        if not len(starts) or starts[0] != 0 or starts[-1] != self.num_tokens or not all(rises):
            raise CheckpointError(f"{self.folder / name} {_DAMAGED}")
        return starts

    def _index(self, name: str, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        """A file that is compared as a whole before it is read."""
        if self._checks and name in self.manifest.files:
            _check_content(self.folder, name, self.manifest.files[name])
        return self._map(name, kind)

    def _map(self, name: str, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        try:
            # A plain array over the map: indexing a `memmap` itself costs several times as much.
            return np.asarray(np.memmap(self.folder / name, dtype=kind, mode="r"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.folder / name} cannot be read: {error}") from error


_DAMAGED = "does not fit to the tokens of the store; it is damaged: prepare the store again"


def ids_name(shard: int) -> str:
    """The file of a shard's ids."""
    return f"ids-{shard:05}.bin"


def marks_name(shard: int) -> str:
    """The file of a shard's marks."""
    return f"marks-{shard:05}.bin"


def _reopen(folder: Path, fingerprint: str, verify: bool) -> Store:
    store = Store.open(folder, verify=verify)
    if store.fingerprint != fingerprint:
        raise CheckpointError(f"{folder} was replaced while it was in use; start again")
    return store


def _read_manifest(path: Path) -> Manifest:
    try:
        content = read_small(path)
        plain = decode_json(content, where=str(path))
    except SettingsError as error:
        raise CheckpointError(f"{error}; prepare the store again") from error
    if isinstance(plain, dict):
        plain.pop("checksum", None)
    try:
        manifest = from_plain(plain, Manifest, where=str(path))
    except SettingsError as error:
        raise CheckpointError(f"{error}; prepare the store again") from error
    if manifest.format_version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path.parent} has format version {manifest.format_version} and this polyseme reads "
            f"version {FORMAT_VERSION}; prepare the store again"
        )
    integrity.without_checksum(content, where=path, otherwise="; prepare the store again")
    integrity.entries_in(plain, path)
    return manifest


def _check_file(folder: Path, name: str, entry: FileEntry, *, thorough: bool) -> None:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; prepare the store again")
    if (size := path.stat().st_size) != entry.bytes:
        raise CheckpointError(
            f"{path} has {size} bytes and should have {entry.bytes}; prepare the store again"
        )
    if thorough and integrity.entry_of_file(path) != entry:
        raise _changed(path)


def _check_content(folder: Path, name: str, entry: FileEntry) -> None:
    if not integrity.same(folder / name, entry):
        raise _changed(folder / name)


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} has changed since it was written; prepare the store again")
