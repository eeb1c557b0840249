"""Writing a token store, block by block, in constant memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from polyseme import files
from polyseme.errors import CheckpointError
from polyseme.integrity import FileEntry, entry_of_file, write_checked
from polyseme.records import from_plain, read_json_object, to_json
from polyseme.text.store import (
    BLOCK,
    CHECKSUMS,
    FORMAT_VERSION,
    MANIFEST,
    IdType,
    Manifest,
    Mark,
    ids_name,
    marks_name,
)

_STARTS = {"document_starts.bin": Mark.DOCUMENT, "sentence_starts.bin": Mark.SENTENCE}


class StoreWriter:
    """Writes a store into a folder that exists and is not yet visible to others (`files.whole_folder`).

    A tokenizer saved under `tokenizer/` before `finish` becomes part of the store.

    >>> with files.whole_folder(Path("wiki.store")) as building:       # doctest: +SKIP
    ...     with StoreWriter(building, vocab_size=21128) as writer:
    ...         writer.add(ids, marks)
    ...         writer.finish(settings={})
    """

    def __init__(
        self, folder: Path, *, vocab_size: int, unknown_id: int | None = None, shard_tokens: int = 1 << 27
    ) -> None:
        self._folder = folder
        self._unknown_id = unknown_id
        self._shard_tokens = shard_tokens
        self._id_type: IdType = "uint16" if vocab_size <= 1 << 16 else "uint32"
        self._counts = np.zeros(vocab_size, dtype=np.uint64)
        self._shards: list[int] = []
        self._files: dict[str, FileEntry] = {}
        self._number = dict.fromkeys((Mark.WORD, Mark.SENTENCE, Mark.DOCUMENT), 0)
        self._present = Mark(0)
        self._open: dict[str, _HashedFile] = {}
        self._checksums: dict[str, list[int]] = {}
        self.num_tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.abandon()

    def add(self, ids: npt.NDArray[np.integer[Any]], marks: npt.NDArray[np.uint8]) -> None:
        """Append tokens. The first token of all must start a document."""
        if not len(ids):
            return
        self._counts += np.bincount(ids, minlength=len(self._counts)).astype(np.uint64)
        for mark in self._number:
            self._number[mark] += int(np.count_nonzero(marks & mark))
        # What starts a document starts a turn too: turns are there if some start inside a document.
        inside = marks[(marks & Mark.DOCUMENT) == 0]
        self._present |= Mark(int(np.bitwise_or.reduce(marks))) & ~Mark.TURN
        self._present |= Mark(int(np.bitwise_or.reduce(inside))) & Mark.TURN
        for name, mark in _STARTS.items():
            self._file(name).write((np.flatnonzero(marks & mark) + self.num_tokens).astype("<i8"))
        ids = ids.astype(np.dtype(self._id_type).newbyteorder("<"))
        self.num_tokens += len(ids)
        while len(ids):
            room = self._room()
            self._file(ids_name(len(self._shards) - 1)).write(ids[:room])
            self._file(marks_name(len(self._shards) - 1)).write(np.ascontiguousarray(marks[:room]))
            self._shards[-1] += min(room, len(ids))
            ids, marks = ids[room:], marks[room:]

    def finish(self, *, settings: dict[str, Any], num_characters: int = 0) -> Manifest:
        """Close all files and write the manifest."""
        for name in _STARTS:
            self._file(name).write(np.array([self.num_tokens], dtype="<i8"))
        self._file("counts.bin").write(self._counts.astype("<u8"))
        for name in list(self._open):
            self._close(name)
        by_file = (
            self._checksums[name(n)] for n in range(len(self._shards)) for name in (ids_name, marks_name)
        )
        pairs = [pair for ids in by_file for pair in zip(ids, next(by_file), strict=True)]
        self._file(CHECKSUMS).write(np.array(pairs, dtype="<u8").reshape(-1))
        self._close(CHECKSUMS)
        for path in sorted((self._folder / "tokenizer").rglob("*")):
            if path.is_file():
                name = path.relative_to(self._folder).as_posix()
                self._files[name] = entry_of_file(path)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            settings=settings,
            vocab_size=len(self._counts),
            id_type=self._id_type,
            shards=self._shards,
            marks=[str(mark.name) for mark in Mark if mark in self._present],
            num_tokens=self.num_tokens,
            num_words=self._number[Mark.WORD],
            num_sentences=self._number[Mark.SENTENCE],
            num_documents=self._number[Mark.DOCUMENT],
            num_unknown=0 if self._unknown_id is None else int(self._counts[self._unknown_id]),
            num_characters=num_characters,
            files=dict(sorted(self._files.items())),
        )
        write_checked(self._folder / MANIFEST, to_json(manifest))
        return manifest

    def _room(self) -> int:
        """How many tokens the open shard still takes; starts the next one when it is full."""
        if not self._shards or self._shards[-1] == self._shard_tokens:
            if self._shards:
                self._close(ids_name(len(self._shards) - 1))
                self._close(marks_name(len(self._shards) - 1))
            self._shards.append(0)
        return self._shard_tokens - self._shards[-1]

    def _file(self, name: str) -> _HashedFile:
        if name not in self._open:
            size = np.dtype(self._id_type).itemsize if name.startswith("ids-") else 1
            self._open[name] = _HashedFile(self._folder / name, block=BLOCK * size)
        return self._open[name]

    def _close(self, name: str) -> None:
        file = self._open.pop(name)
        self._files[name] = file.close()
        self._checksums[name] = file.blocks


def accept_store(folder: Path) -> None:
    """Take the files of a store as they are now for what its manifest and its checksums list."""
    path = folder / MANIFEST
    plain = read_json_object(path)
    plain.pop("checksum", None)
    manifest = from_plain(plain, Manifest, where=str(path))
    for name in manifest.files:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; prepare the store again")
    names = [name for shard in range(len(manifest.shards)) for name in (ids_name(shard), marks_name(shard))]
    for name, right in manifest.sizes.items():
        size = (folder / name).stat().st_size
        if size != right:
            raise CheckpointError(
                f"{folder / name} has {size} bytes and should have {right}; prepare the store again"
            )
    width = np.dtype(manifest.id_type).itemsize
    by_file = ([*_blocks(folder / name, BLOCK * (width if name.startswith("ids-") else 1))] for name in names)
    pairs = [pair for ids in by_file for pair in zip(ids, next(by_file), strict=True)]
    files.write_whole(folder / CHECKSUMS, np.array(pairs, dtype="<u8").tobytes())
    entries = {name: entry_of_file(folder / name) for name in manifest.files}
    write_checked(path, to_json(msgspec.structs.replace(manifest, files=entries)))


def _blocks(path: Path, size: int) -> Iterator[int]:
    with path.open("rb") as file:
        while block := file.read(size):
            yield xxhash.xxh3_64_intdigest(block)


class _HashedFile:
    """A file that knows its size and its hashes, and those of its blocks, without being read again."""

    def __init__(self, path: Path, *, block: int) -> None:
        self.blocks: list[int] = []
        """XXH3 (64 bits) of each `block` bytes; complete when the file is closed."""
        self._block = block
        self._size = 0
        self._digests = hashlib.sha256(), xxhash.xxh3_128()
        self._open = xxhash.xxh3_64()
        self._file = files.WholeFile(path)

    def write(self, array: npt.NDArray[Any]) -> None:
        if not array.size:
            return
        data = array.view(np.uint8).data
        for digest in self._digests:
            digest.update(data)
        self._file.write(data)
        while data:
            room = self._block - self._size % self._block
            part, data = data[:room], data[room:]
            self._open.update(part)
            self._size += len(part)
            if self._size % self._block == 0:
                self._end_block()

    def close(self) -> FileEntry:
        if self._size % self._block:
            self._end_block()
        self._file.close()
        sha256, fast = self._digests
        return FileEntry(bytes=self._size, sha256=sha256.hexdigest(), xxh3=fast.hexdigest())

    def _end_block(self) -> None:
        self.blocks.append(self._open.intdigest())
        self._open.reset()

    def abandon(self) -> None:
        self._file.abandon()
