"""A look through text before long work on it: how many lines, and which bytes exactly."""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from polyseme import progress
from polyseme.text.sources import expand, read_blocks

_SLOW = 1 << 28
"""Bytes from which the look takes long enough for a bar."""
_QUIET = contextlib.nullcontext[None]()


@dataclass(frozen=True)
class Survey:
    """What a source held when it was looked through."""

    files: tuple[Path, ...]
    lines: int
    """Ends of lines and the last line without one; of UTF-16, about so many."""
    bytes: int
    """Unpacked."""
    sha256: str
    """Over the unpacked bytes of each file, in order; names and packing do not matter."""
    stamps: tuple[tuple[int, int], ...]

    @property
    def unchanged(self) -> bool:
        """Whether no file has another size or time than before the look."""
        return _stamps(self.files) == self.stamps


def survey(source: str | Path) -> Survey | None:
    """Look through a file, folder or pattern; None where a part of it (a pipe) can be read only once.

    Raises `DataError` where a file cannot be read: early, not after hours.
    """
    files = tuple(expand([source]))
    if not all(file.is_file() for file in files):
        return None
    stamps = _stamps(files)
    stored = sum(size for size, _ in stamps)
    whole = hashlib.sha256()
    lines = length = 0
    with progress.bar("look through", total=stored, unit="B") if stored >= _SLOW else _QUIET as work:
        for file in files:
            content, last = hashlib.sha256(), b""
            for block in read_blocks(file, advance=work.advance if work else None):
                content.update(block)
                lines += block.count(b"\n")
                length += len(block)
                last = block[-1:]
            lines += last not in (b"", b"\n")
            whole.update(content.digest())
    return Survey(files, lines, length, whole.hexdigest(), stamps)


def _stamps(files: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
    found = (file.stat() for file in files)
    return tuple((status.st_size, status.st_mtime_ns) for status in found)
