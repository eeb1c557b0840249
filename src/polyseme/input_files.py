"""Files of settings and models that come from anywhere: only regular files are opened, and small ones read.

A named pipe, a device or a folder in the place of a file would block the reader, never end, or fail deep
inside a library.
"""

import os
import stat
from pathlib import Path

from polyseme.errors import CheckpointError

MAX_SETTINGS_BYTES = 1 << 26
MAX_LIST_BYTES = 1 << 30
_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def irregular(path: Path) -> str | None:
    """What `path` is where it is no regular file: "a folder", "a named pipe" …; None for files.

    Symbolic links are followed. Raises `OSError` where there is nothing.
    """
    mode = path.stat().st_mode
    return next((name for is_kind, name in _KINDS if is_kind(mode)), None)


def require_regular(path: Path) -> None:
    """Raise `CheckpointError` where `path` is no regular file; what is missing is left to the reader."""
    try:
        kind = irregular(path)
    except (OSError, ValueError):
        return
    if kind is not None:
        raise CheckpointError(f"{path} is {kind}, not a file")


def require_regular_entries(folder: Path) -> None:
    """Raise `CheckpointError` where a model's folder holds a pipe, a device, or a folder named like a file.

    Whatever reads the folder's files may then open them by name.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            kind = irregular(path)
        except OSError:  # a link to nothing is missing, which its reader says
            continue
        if kind is not None and (kind != "a folder" or path.suffix in _FILES):
            raise CheckpointError(f"{path} is {kind}, not a file")


def read_small(path: Path, *, max_bytes: int = MAX_SETTINGS_BYTES) -> bytes:
    """The bytes of a regular file; a `CheckpointError` where it is larger than `max_bytes` or cannot be read.

    Raises `FileNotFoundError` where there is no such file.
    """
    try:
        require_regular(path)
        if path.stat().st_size > max_bytes:
            raise CheckpointError(f"{path} is larger than {max_bytes >> 20} MB, which no file of its kind is")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r} is no name of a file: {error}") from error
