"""Writing a token store, block by block, in constant memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polyseme import files
from polyseme.records import to_json
from polyseme.text.store import (
    FORMAT_VERSION,
    MANIFEST,
    FileEntry,
    IdType,
    Manifest,
    Mark,
    ids_name,
    marks_name,
)


class StoreWriter:
    """Writes a store into a folder that exists and is not yet visible to others (`files.whole_folder`).

    A tokenizer saved under `tokenizer/` before `finish` becomes part of the store.

    >>> with files.whole_folder(Path("wiki.store")) as building:       # doctest: +SKIP
    ...     writer = StoreWriter(building, vocab_size=21128)
    ...     writer.add(ids, marks)
    ...     writer.finish(settings={})
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
        self._num_words = 0
        self._present = Mark(0)
        self._ids: _HashedFile | None = None
        self._marks: _HashedFile | None = None
        self._documents = _HashedFile(folder / "document_starts.bin")
        self._sentences = _HashedFile(folder / "sentence_starts.bin")
        self.num_tokens = 0

    def add(self, ids: npt.NDArray[np.integer[Any]], marks: npt.NDArray[np.uint8]) -> None:
        """Append tokens. The first token of all must start a document."""
        if not len(ids):
            return
        self._counts += np.bincount(ids, minlength=len(self._counts)).astype(np.uint64)
        self._num_words += int(np.count_nonzero(marks & Mark.WORD))
        self._present |= Mark(int(np.bitwise_or.reduce(marks)))
        for file, bit in ((self._documents, Mark.DOCUMENT), (self._sentences, Mark.SENTENCE)):
            file.write((np.flatnonzero(marks & bit) + self.num_tokens).astype("<i8"))
        ids = ids.astype(np.dtype(self._id_type).newbyteorder("<"))
        self.num_tokens += len(ids)
        while len(ids):
            room = self._room()
            assert self._ids is not None
            assert self._marks is not None
            self._ids.write(ids[:room])
            self._marks.write(np.ascontiguousarray(marks[:room]))
            self._shards[-1] += min(room, len(ids))
            ids, marks = ids[room:], marks[room:]

    def finish(
        self, *, settings: dict[str, Any], num_characters: int = 0, present: Mark | None = None
    ) -> Manifest:
        """Close all files and write the manifest; `present` are the mark bits that mean something."""
        self._close_shard()
        end = np.array([self.num_tokens], dtype="<i8")
        lines = {}
        for name, file in (("documents", self._documents), ("sentences", self._sentences)):
            lines[name] = file.size // end.itemsize
            file.write(end)
            self._close(file)
        counts = _HashedFile(self._folder / "counts.bin")
        counts.write(self._counts.astype("<u8"))
        self._close(counts)
        for path in sorted((self._folder / "tokenizer").rglob("*")):
            if path.is_file():
                name = path.relative_to(self._folder).as_posix()
                self._files[name] = FileEntry(bytes=path.stat().st_size, sha256=files.sha256(path))
        unknown = 0 if self._unknown_id is None else int(self._counts[self._unknown_id])
        marks = self._present if present is None else present
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            settings=settings,
            vocab_size=len(self._counts),
            id_type=self._id_type,
            shards=self._shards,
            marks=[mark.name for mark in Mark if mark in marks and mark.name],
            num_tokens=self.num_tokens,
            num_words=self._num_words,
            num_sentences=lines["sentences"],
            num_documents=lines["documents"],
            num_unknown=unknown,
            num_characters=num_characters,
            files=dict(sorted(self._files.items())),
        )
        files.write_whole(self._folder / MANIFEST, to_json(manifest))
        return manifest

    def _room(self) -> int:
        """How many tokens the open shard still takes; opens the next one when it is full."""
        if self._shards and self._shards[-1] < self._shard_tokens:
            return self._shard_tokens - self._shards[-1]
        self._close_shard()
        self._ids = _HashedFile(self._folder / ids_name(len(self._shards)))
        self._marks = _HashedFile(self._folder / marks_name(len(self._shards)))
        self._shards.append(0)
        return self._shard_tokens

    def _close_shard(self) -> None:
        for file in (self._ids, self._marks):
            if file is not None:
                self._close(file)
        self._ids = self._marks = None

    def _close(self, file: _HashedFile) -> None:
        self._files[file.path.name] = file.close()


class _HashedFile:
    """A file that knows its size and its SHA-256 without being read again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        self._file = files.WholeFile(path)

    def write(self, array: npt.NDArray[Any]) -> None:
        if array.size:
            data = array.view(np.uint8).data
            self._digest.update(data)
            self.size += self._file.write(data)

    def close(self) -> FileEntry:
        self._file.close()
        return FileEntry(bytes=self.size, sha256=self._digest.hexdigest())
