"""Where text comes from: files, folders, globs and standard input, compressed or not, as blocks of bytes."""

import bz2
import contextlib
import glob
import gzip
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from polyseme.errors import DataError
from polyseme.files import refuse_lfs_pointer
from polyseme.input_files import irregular
from polyseme.integrity import fast_hash
from polyseme.text.pipes import Pipe

STANDARD_INPUT = Path("-")
_BLOCK = 1 << 20

Advance = Callable[[int], object]
"""Told how many more bytes of a source (as stored, so compressed ones) were read."""

_COMPRESSED: dict[bytes, tuple[str, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": (".gz", lambda file: gzip.GzipFile(fileobj=file)),
    b"BZh": (".bz2", bz2.BZ2File),
    b"\xfd7zXZ\0": (".xz", lzma.LZMAFile),
}
_WORKBOOKS = (".xlsx", ".xlsm")
_OLD_WORKBOOK = b"\xd0\xcf\x11\xe0\xa1\xb1"
_FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"%PDF-": "a PDF",
    b"PAR1": "a Parquet file",
}


def expand(sources: Sequence[str | Path]) -> list[Path]:
    """The files behind `sources`, in order: a folder gives all files below it, sorted, without hidden ones.

    A name that does not exist is a pattern (`*`, `?`, `[…]`, `**`); "-" is standard input. What matches
    nothing is a `DataError`. One name need not stand in a list.
    """
    files: list[Path] = []
    for source in [sources] if isinstance(sources, str | Path) else sources:
        files += _expand(Path(source))
    if not files:
        raise DataError("no text was named; give files, folders, patterns, or - for standard input")
    return files


def size(sources: Sequence[str | Path]) -> int | None:
    """The bytes that reading all of `sources` will report to `advance`; None with standard input."""
    files = expand(sources)
    if any(not file.is_file() for file in files):
        return None
    return sum(file.stat().st_size for file in files)


def fingerprint(sources: Sequence[str | Path]) -> list[str] | None:
    """A hash of each file behind `sources`, packed as it is; None with a pipe, which is read only once."""
    files = expand(sources)
    if not all(file.is_file() for file in files):
        return None
    found = []
    for file in files:
        with _reading(file):
            found.append(fast_hash(file))
    return found


def read_blocks(path: Path, *, advance: Advance | None = None) -> Iterator[bytes]:
    """The bytes of a file, decompressed if its first bytes say that it is .gz, .bz2 or .xz."""
    refuse_lfs_pointer(path, DataError)
    with _reading(path), _open(path) as file:
        counted = _Counted(file, advance)
        workbook = path.suffix.lower() in _WORKBOOKS and counted.head.startswith(b"PK\x03\x04")
        if workbook or counted.head.startswith(_OLD_WORKBOOK):
            raise DataError(f"{shown(path)} is an Excel workbook; save it as CSV UTF-8 first")
        for magic, kind in _FOREIGN.items():
            if counted.head.startswith(magic):
                raise DataError(f"{shown(path)} is {kind}, not text; unpack or convert it first")
        buffered = io.BufferedReader(counted, _BLOCK)
        stream: Any = buffered
        for magic, (suffix, opener) in _COMPRESSED.items():
            if counted.head.startswith(magic) or (path.suffix == suffix and not counted.head):
                stream = opener(buffered)
        if stream is not buffered and not counted.head:
            raise EOFError
        while block := stream.read(_BLOCK):
            yield block


def shown(path: Path) -> str:
    """How messages name a source."""
    return "standard input" if path == STANDARD_INPUT else str(path)


def _expand(source: Path) -> list[Path]:
    if source == STANDARD_INPUT:
        return [source]
    if "\0" in str(source):
        raise DataError(f"{str(source)!r} is no name of a file")
    if source.exists() and not source.is_dir():
        _check_kind(source)
        return [source]
    if source.is_dir():
        found = (Path(folder, name) for folder, _, names in os.walk(source) for name in names)
        files = sorted(
            path
            for path in found
            if (path.is_file() or not path.exists())  # a link to nothing is named when it is read
            and not any(part.startswith(".") for part in path.relative_to(source).parts)
        )
        if not files:
            raise DataError(f"the folder {source} holds no files; name one with text")
        return files
    matches = [Path(name) for name in sorted(glob.glob(str(source), recursive=True))]
    files = [path for path in matches if path.is_file()]
    if not files:
        raise DataError(f"{source} is no file, no folder, and no pattern that matches a file")
    return files


def _check_kind(path: Path) -> None:
    """Text comes from files and pipes; a device may never end, and a folder or socket holds none."""
    if (kind := irregular(path)) not in (None, "a named pipe"):
        raise DataError(f"{shown(path)} is {kind}; name a file, a pipe, or - for standard input")


def _open(path: Path) -> contextlib.AbstractContextManager[Any]:
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise DataError("- is standard input, which is closed; name a file")
        return contextlib.nullcontext(sys.stdin.buffer)
    _check_kind(path)
    if path.is_fifo():
        return Pipe(path)
    return open(path, "rb", buffering=0)


class _Counted(io.RawIOBase):
    """A raw file that reports what is read from it, and shows its first bytes ahead."""

    def __init__(self, file: Any, advance: Advance | None) -> None:
        self._file = file
        self._advance = advance
        self.head = b""
        while len(self.head) < 6 and (more := file.read(6 - len(self.head))):
            self.head += more
        self._ahead = self.head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count: int
        if self._ahead:
            count = min(len(buffer), len(self._ahead))
            buffer[:count], self._ahead = self._ahead[:count], self._ahead[count:]
        else:
            count = self._file.readinto(buffer)
        if self._advance and count:
            self._advance(count)
        return count


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while `path` is read into one clear line."""
    try:
        yield
    except EOFError as error:
        raise DataError(
            f"{shown(path)} is cut off: its compressed data ends early; fetch it again"
        ) from error
    except MemoryError as error:
        raise DataError(f"{shown(path)} asks for more memory than there is to unpack it") from error
    except (OSError, zlib.error, lzma.LZMAError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{shown(path)} cannot be read: {os.strerror(error.errno)}") from error
        raise DataError(f"{shown(path)} is damaged: {error}; fetch it again") from error
