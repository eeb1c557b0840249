"""Files and folders that appear whole or not at all, whatever stops the program.

Everything that must survive a power cut goes write → fsync → rename → fsync of the folder, through
the few functions of `os` used here, so that a test can drop whatever was not yet synced.
"""

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from polyseme.errors import DataError, PolysemeError

try:
    import fcntl
except ImportError as error:
    raise PolysemeError(
        "polyseme runs on Linux and macOS, not on this system; on Windows, use it inside WSL"
    ) from error

_BLOCK = 1 << 22
_LARGEST_LFS_POINTER = 1024
"""Bytes; what its specification allows."""


class WholeFile:
    """A binary file under a temporary name; `whole_file` gives it its own name at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of `data`; the operating system may take it in several strokes."""
        view = memoryview(data).cast("B")
        total = len(view)
        while view:
            view = view[os.write(self._descriptor, view[:_BLOCK]) :]
        return total

    def close(self) -> None:
        """Close after a sync: from here on the content survives."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    def abandon(self) -> None:
        """Close and remove what was written."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        with contextlib.suppress(OSError):
            os.unlink(self.path)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[WholeFile]:
    """A file that replaces `path` at once when the block ends well, and leaves no trace otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path):
        file = WholeFile(path.with_name(f".{path.name}.{os.getpid()}.part"))
        try:
            yield file
            file.close()
            os.replace(file.path, path)
        except BaseException:
            file.abandon()
            raise
        sync_folder(path.parent)


def write_whole(path: Path, data: bytes | str) -> None:
    """Replace the file `path` by `data`, at once."""
    with whole_file(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextlib.contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder that appears under `path` when the block ends well, and leaves no trace otherwise.

    Yields the folder to fill. An existing `path` is refused unless it is empty or `replace` is given;
    then the old one goes only after the new one is complete.
    """
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file; name a folder that does not exist yet")
    if not replace and path.exists() and any(path.iterdir()):
        raise DataError(f"{path} exists and is not empty; name another folder, or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(building, ignore_errors=True)
    with disk_errors(path):
        os.mkdir(building)
        try:
            yield building
            _sync_below(building)
            _put_in_place(building, path)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise


def _put_in_place(building: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(building, path)
    except BaseException:
        if old.exists():
            os.replace(old, path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_below(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(root))


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals (disk full, no permission) into one clear line."""
    try:
        yield
    except OSError as error:
        if isinstance(error, PolysemeError) or error.errno is None:
            raise
        raise DataError(
            f"{path} cannot be written: {os.strerror(error.errno)}; nothing half-written was left"
        ) from error


@contextlib.contextmanager
def held(folder: Path, *, purpose: str, instead: str = "folder") -> Iterator[None]:
    """Keep a second process out of `folder` until the block ends; it gets a `DataError` at once."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"another process is {purpose} in {folder}; wait for it, or name another {instead}"
            ) from error
        yield
    finally:
        os.close(descriptor)


def refuse_lfs_pointer(path: Path, error: type[PolysemeError]) -> None:
    """Raise `error` where Git LFS left its pointer in place of the file, as a clone without git-lfs does."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_LFS_POINTER:
            return
        content = path.read_bytes()
    except OSError:
        return  # whoever reads the file says what is wrong with it
    if content.startswith(b"version https://git-lfs.github.com/spec/"):
        raise error(
            f"{path} is a Git LFS pointer, not the file itself; "
            f"run `git lfs pull` in {path.absolute().parent}"
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
