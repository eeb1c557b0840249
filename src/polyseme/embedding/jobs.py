"""A file of vectors in the making: it grows beside its place by blocks, and any stop leaves what was done.

The folder `.NAME.embedding` beside the file NAME holds

- `job.json`: what decides the result: model, text and settings by their fingerprints and values;
- `vectors`: the file as far as it is;
- `journal`: a line for each block, JSON behind a checksum: its rows, its length and its checksum;
- `.lock`: held by the process at work.

A block counts when its line is whole and its bytes have the checksum; going on begins behind the last that
counts. So neither a killed process nor a power cut can leave a torn block unnoticed, and a sync need not
follow each block. The file gets its name when it is whole.
"""

import contextlib
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from polyseme import progress
from polyseme.embedding.files import (
    TELLING,
    Laid,
    Made,
    Maker,
    Rows,
    beside,
    format_of,
    made,
    packing_of,
)
from polyseme.embedding.quantising import Vectors
from polyseme.errors import CheckpointError, DataError, SettingsError
from polyseme.files import held, sync_folder, write_whole
from polyseme.integrity import read_checked, read_checked_record, with_checksum, write_checked
from polyseme.records import Record, decode_json, from_plain, to_json

_SYNC_AFTER = 5.0
"""Seconds of work that a power cut may cost; a killed process loses the block it is at."""


_NAMES = ("job.json", "whole.json", "journal", "vectors")
_FINGERPRINTS = ("text", "model", "calibration")


class _About(Record, frozen=True):
    """The file job.json."""

    how: dict[str, Any]
    ranges: list[list[float]] | None
    environment: dict[str, Any]


class _Line(msgspec.Struct, frozen=True):
    """A line of the journal."""

    rows: int
    length: int
    crc: int
    note: bytes = b""

    def __post_init__(self) -> None:
        if not 0 < self.rows < 1 << 40 or not 0 <= self.length < 1 << 40:
            raise ValueError(f"rows and length must be counts, got {self.rows} and {self.length}")


class Job:
    """The growing file. `rows` texts are done; the next block begins behind them."""

    def __init__(self, path: Path, folder: Path, maker: Maker, about: _About) -> None:
        self.path, self.folder, self.about = path, folder, about
        self.packing = packing_of(_told(about), where=str(folder / "job.json"))
        self._format = maker(self.packing, _told(about))
        self._vectors, self._journal = folder / "vectors", folder / "journal"
        self.rows = 0
        self._size = len(self._format.head(0))
        self._synced = time.monotonic()
        self._open: list[int] = []

    def add(self, texts: list[str], rows: Rows) -> None:
        """Append one block."""
        data, note = self._format.block(texts, rows)
        line = _Line(rows=len(rows), length=len(data), crc=zlib.crc32(data), note=note)
        with self._keeping():
            vectors, journal = self._open or self._opened()
            _write(vectors, data)
            _write(journal, _encoded(line))
            self.rows += len(rows)
            self._size += len(data)
            if time.monotonic() - self._synced > _SYNC_AFTER:
                os.fsync(vectors)
                os.fsync(journal)
                self._synced = time.monotonic()

    def finish(self) -> int:
        """Give the file its name, and return the number of its rows."""
        with self._keeping():
            vectors, _ = self._open or self._opened()
            tail = self._format.tail(self._blocks())
            _write(vectors, tail)
            os.pwrite(vectors, self._format.head(self.rows), 0)
            os.fsync(vectors)
            self.close()
            told = Made(rows=self.rows, bytes=self._size + len(tail), how=_told(self.about))
            write_checked(self.folder / "whole.json", to_json(told))
            # From here on, what stands beside the place would speak of another file.
            beside(self.path).unlink(missing_ok=True)
            os.replace(self._vectors, self.path)
            sync_folder(self.path.parent)
            mend(self.path, self.folder)
        return self.rows

    def close(self) -> None:
        """Close what is open; whatever was done stays."""
        for descriptor in self._open:
            os.close(descriptor)
        self._open = []

    def recover(self) -> None:
        """Count the blocks that are whole, and cut off what lies behind them."""
        with self._keeping():
            kept, torn = self._count()
            os.truncate(self._journal, kept)
            os.truncate(self._vectors, self._size)
        if not torn:
            progress.warn(
                f"{self.folder} is damaged behind its first {self.rows:,} vectors; the rest is computed again"
            )

    def check(self) -> str:
        """What is wrong with the blocks that are done; empty where nothing is."""
        head = self._format.head(0)
        with self._vectors.open("rb") as vectors:
            if vectors.read(len(head)) != head:
                return "damaged at its beginning"
        _, torn = self._count()
        return "" if torn else f"damaged behind its first {self.rows:,} vectors"

    def _count(self) -> tuple[int, bool]:
        """The length of the journal's whole lines, and whether at most one torn line follows."""
        kept = 0
        with self._journal.open("rb") as journal, self._vectors.open("rb") as vectors:
            left = vectors.seek(0, os.SEEK_END) - vectors.seek(self._size)
            for text in journal:
                line = _decoded(text)
                block = vectors.read(line.length) if line and line.length <= left else b""
                left -= len(block)
                if line is None or (len(block), zlib.crc32(block)) != (line.length, line.crc):
                    # A changed line end makes a line look torn; without it, this one is whole.
                    torn = not text.endswith(b"\n") and _decoded(text[:-1] + b"\n") is None
                    return kept, torn
                kept += len(text)
                self._size += line.length
                self.rows += line.rows
        return kept, True

    def create(self) -> None:
        """Write down what the job is, after everything that an earlier one left is gone."""
        with self._keeping():
            # What the job is goes first and comes last: without it the rest counts for nothing.
            for name in _NAMES:
                (self.folder / name).unlink(missing_ok=True)
            self._vectors.write_bytes(self._format.head(0))
            self._journal.touch()
            write_checked(self.folder / "job.json", to_json(self.about))

    def _opened(self) -> list[int]:
        self._open = [os.open(self._vectors, os.O_RDWR), os.open(self._journal, os.O_RDWR)]
        for descriptor in self._open:
            os.lseek(descriptor, 0, os.SEEK_END)
        return self._open

    def _blocks(self) -> Iterator[Laid]:
        start = len(self._format.head(0))
        with self._journal.open("rb") as journal:
            for text in journal:
                line = _decoded(text)
                assert line is not None, "recover leaves whole lines only"
                yield Laid(start, line.note)
                start += line.length

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        """Turn the operating system's refusals into one line that says what is left."""
        try:
            yield
        except (OSError, DataError) as error:
            refusal = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(refusal, OSError) or refusal.errno is None:
                raise
            kept = f"the {self.rows:,} vectors done are kept: mend that and repeat the command to go on"
            if self.about.how["text"] is None:
                kept = "nothing is kept, since the text can be read only once"
            raise DataError(f"{self.path} cannot be written: {os.strerror(refusal.errno)}; {kept}") from error


@contextlib.contextmanager
def working(path: Path) -> Iterator[Path]:
    """The folder where the file `path` is made, held against other processes.

    Left behind by an error or a signal, it stays for the next run if that can go on from it.
    """
    folder = path.with_name(f".{path.name}.embedding")
    with held(folder, purpose="embedding", instead="file"):
        try:
            yield folder
        finally:
            about = _about(folder)
            if folder.exists() and (about is None or about.how.get("text") is None):
                shutil.rmtree(folder)


def finished(path: Path, how: dict[str, Any]) -> Made | None:
    """What the file `path` says of itself, if it is whole and was made exactly so."""
    told = made(path)
    if told is None or how["text"] is None or _difference(told.how, how) is not None:
        return None
    return told


def mend(path: Path, folder: Path) -> None:
    """Clear away a job whose file has its name already; before that, write what tells how it was made."""
    if not (folder / "whole.json").exists() or (folder / "vectors").exists():
        return
    if path.suffix not in TELLING:
        try:
            write_whole(beside(path), with_checksum(read_checked(folder / "whole.json")))
        except CheckpointError:
            progress.warn(
                f"{path} is complete, but the record of how it was made is damaged; it is computed again"
            )
    for name in _NAMES:
        (folder / name).unlink(missing_ok=True)


def resumed(path: Path, folder: Path, maker: Maker, how: dict[str, Any]) -> Job | None:
    """The job that was begun for `path`, or None; a `SettingsError` if it was begun with anything else."""
    about = _about(folder)
    if about is None or about.how.get("text") is None or not (folder / "vectors").exists():
        return None
    if (key := _difference(about.how, how)) is not None:
        then, now = about.how.get(key), how[key]
        shown = "" if key in _FINGERPRINTS else f" ({then} then, {now} now)"
        raise SettingsError(
            f"{path} was begun with another {key}{shown}; repeat the first command to go on, "
            "or begin anew with --replace"
        )
    job = Job(path, folder, maker, about)
    job.recover()
    return job


def check_job(folder: Path) -> str:
    """What is wrong with the vectors of an unfinished job; empty where nothing is."""
    about = _about(folder)
    path = folder.with_name(folder.name.removeprefix(".").removesuffix(".embedding"))
    if about is None or not (folder / "vectors").is_file():
        return ""
    return Job(path, folder, format_of(path), about).check()


def begun(
    path: Path,
    folder: Path,
    maker: Maker,
    how: dict[str, Any],
    *,
    ranges: Vectors | None,
    environment: dict[str, Any],
) -> Job:
    """A new job; what an earlier one left in its folder is gone."""
    job = Job(path, folder, maker, _About(how, None if ranges is None else ranges.tolist(), environment))
    job.create()
    return job


def _difference(then: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first word whose value is another one."""
    return next((key for key, value in now.items() if then.get(key) != value), None)


def _told(about: _About) -> dict[str, Any]:
    return about.how | {"ranges": about.ranges}


def _about(folder: Path) -> _About | None:
    path = folder / "job.json"
    try:
        return read_checked_record(path, _About)
    except FileNotFoundError:
        return None
    except CheckpointError:
        progress.warn(
            f"{path} is damaged, or was written by another version of polyseme; the job starts again"
        )
        return None


def _encoded(line: _Line) -> bytes:
    """A line of the journal, behind its checksum."""
    content = msgspec.json.encode(line)
    return f"{zlib.crc32(content):08x} ".encode() + content + b"\n"


def _decoded(text: bytes) -> _Line | None:
    """The opposite of `_encoded`; None where the line is torn or damaged."""
    checksum, _, content = text.removesuffix(b"\n").partition(b" ")
    if not text.endswith(b"\n") or checksum != f"{zlib.crc32(content):08x}".encode():
        return None
    try:
        return from_plain(decode_json(content, where="line"), _Line, where="line")
    except SettingsError:
        return None


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
