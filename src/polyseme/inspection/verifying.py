"""Whether the files of a model, store, run, fine-tuning or job are as they were written."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from polyseme import progress
from polyseme.embedding.jobs import check_job
from polyseme.errors import CheckpointError, PolysemeError
from polyseme.files import held, write_whole
from polyseme.integrity import (
    RECORD,
    accept_folder,
    entries_in,
    entry_of_file,
    has_checksum,
    readable,
    same,
    without_checksum,
    write_checked,
)
from polyseme.records import decode_json
from polyseme.text.store import MANIFEST
from polyseme.text.store_writing import accept_store
from polyseme.training.journal import damaged_lines, journal_line

_JOB, _JOURNAL = "job.json", "journal.jsonl"
_ALWAYS_CHECKED = (MANIFEST, "state.json", "run.json", "command.json", "fit.json", _JOB, "whole.json")
"""Records that are never without a checksum."""


@dataclass(frozen=True)
class Verified:
    """What `verify` found."""

    folder: Path
    files: int
    """Files that have a checksum."""
    bytes: int
    damaged: dict[str, str]
    """The files that are not as they were written, by their names, and what is wrong with each."""
    unlisted: tuple[str, ...]
    """Files that have no checksum anywhere."""


def verify(folder: str | Path, *, accept: bool = False) -> Verified:
    """Compare every file below `folder` with the checksums that were written with it.

    The folder is one of a model, a tokenizer, a token store, a run, an unfinished fine-tuning (`OUT.partial`)
    or an unfinished `embed` (`.NAME.embedding`). With `accept` the files as they are now are taken for what
    was written, after a change that was intended. A folder of another library has no checksums: then nothing
    is compared, and `files` is 0.

    >>> verify("models/mini").damaged  # doctest: +SKIP
    {}
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; name one of a model, a store, a run or a job")
    with _held(folder):
        if accept:
            _accept(folder)
        return _Search(folder).verified()


class _Search:
    """A walk through a folder and its records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: dict[str, str] = {}
        self.seen: dict[Path, int] = {}
        self.compared: set[Path] = set()

    def verified(self) -> Verified:
        paths = list(_files(self.folder))
        with progress.bar("verify", total=sum(path.stat().st_size for path in paths), unit="B") as self.bar:
            for path in paths:
                if path.suffix == ".json":
                    self._record(path)
                elif path.name == _JOURNAL:
                    self._journal(path)
        return Verified(
            folder=self.folder,
            files=len(self.seen),
            bytes=sum(self.seen.values()),
            damaged=self.damaged,
            unlisted=tuple(self._name(path) for path in paths if path not in self.seen),
        )

    def _record(self, path: Path) -> None:
        content = path.read_bytes()
        if not has_checksum(content) and path.name not in _ALWAYS_CHECKED and not _has_files(path, content):
            return
        self._count(path)
        try:
            without_checksum(content, where=path)
            plain = _decoded(content, path)
            entries = entries_in(plain, path)
        except CheckpointError:
            self.damaged[self._name(path)] = "its checksum is not that of its content"
            return
        for name, entry in entries.items():
            file = path.parent / name
            if file in self.compared:
                continue
            self.compared.add(file)
            if not file.is_file():
                self.damaged[self._name(file)] = f"missing, but listed in {path.name}"
                continue
            self._count(file)
            if not same(file, entry, thorough=True):
                self.damaged[self._name(file)] = "changed since it was written"
        if path.name == RECORD:
            for name in readable(path.parent):
                if name not in entries:
                    self.damaged[self._name(path.parent / name)] = (
                        f"would be read, but {RECORD} lists no such file"
                    )
        if path.name == _JOB:
            self._job(path.parent)
        if "xxh3" in plain:
            self._features(path.with_suffix(".bin"), plain)

    def _journal(self, path: Path) -> None:
        self._count(path)
        if lines := damaged_lines(path):
            self.damaged[self._name(path)] = f"damaged in line {', '.join(map(str, lines))}"

    def _job(self, folder: Path) -> None:
        for name in ("vectors", "journal"):
            if (folder / name).is_file():
                self._count(folder / name)
        if what := check_job(folder):
            self.damaged[self._name(folder / "vectors")] = what

    def _features(self, path: Path, noted: dict[str, Any]) -> None:
        digest, left = xxhash.xxh3_128(), int(noted["bytes"])
        if path.is_file():
            self._count(path)
            with path.open("rb") as file:
                while block := file.read(min(left, 1 << 24)):
                    digest.update(block)
                    left -= len(block)
        if left or digest.hexdigest() != noted["xxh3"]:
            self.damaged[self._name(path)] = "changed since it was written"

    def _count(self, path: Path) -> None:
        if path not in self.seen:
            self.seen[path] = path.stat().st_size
            self.bar.advance(self.seen[path])

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _accept(folder: Path) -> None:
    """Write the checksums of all files as they are, those of inner folders first."""
    for path in sorted(_files(folder), key=lambda path: -len(path.parts)):
        if path.name == RECORD:
            accept_folder(path.parent)
        elif path.name == MANIFEST:
            accept_store(path.parent)
        elif path.name == _JOB:
            raise CheckpointError(
                f"{path.parent} is an unfinished job; its command, repeated, computes what is damaged again"
            )
        elif path.name == _JOURNAL:
            _accept_journal(path)
        elif path.suffix == ".json":
            _accept_record(path)


def _accept_record(path: Path) -> None:
    content = path.read_bytes()
    if not has_checksum(content) and path.name not in _ALWAYS_CHECKED:
        return
    plain = _decoded(content, path)
    plain.pop("checksum", None)
    if "files" in plain:
        names = [name for name in entries_in(plain, path) if (path.parent / name).is_file()]
        plain["files"] = {name: entry_of_file(path.parent / name) for name in names}
    if "xxh3" in plain and path.with_suffix(".bin").is_file():
        raise CheckpointError(f"{path} counts computed features; remove it, and they are computed again")
    write_checked(path, msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n")


def _accept_journal(path: Path) -> None:
    lines = [_decoded(line, path) for line in path.read_bytes().splitlines() if line.strip()]
    plain = [{name: value for name, value in line.items() if name != "crc32"} for line in lines]
    write_whole(path, b"".join(map(journal_line, plain)))


def _decoded(content: bytes, path: Path) -> dict[str, Any]:
    try:
        plain = decode_json(content, where=str(path))
        msgspec.json.encode(plain)
    except (PolysemeError, OverflowError) as error:
        raise CheckpointError(f"{path} cannot be accepted: {error}") from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"{path} cannot be accepted, since it is no JSON object")
    return plain


def _has_files(path: Path, content: bytes) -> bool:
    """Whether a record of a folder lists files, and so has a checksum; version 0.1.0 wrote some without."""
    if path.name != RECORD:
        return False
    try:
        plain = decode_json(content, where=str(path))
    except PolysemeError:
        return True
    return isinstance(plain, dict) and ("files" in plain or "checksum" in plain)


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, without what is being written."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep the process away that writes into the folder, if it is of a kind that has one."""
    if not (folder / ".lock").exists() or not os.access(folder / ".lock", os.W_OK):
        yield
        return
    with held(folder, purpose="at work"):
        yield
