"""Files and folders that appear whole or not at all, whatever stops the program.

Everything that must survive a power cut goes write → fsync → rename → fsync of the folder, through
the few functions of `os` used here, so that a test can drop whatever was not yet synced.

What is being written has a temporary name, the same at every try, and a lock that ends with its process:
the next writer of the same file or folder takes over what a killed one left, and one that finds the lock
held is refused at once.
"""

import contextlib
import errno
import hashlib
import os
import re
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
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems without locks say; there two writers at once are not told apart."""
_OPEN_FILE = re.compile(r"/proc/(self|thread-self|\d+)(?:/task/\d+)?/fd/(\d+)")
_KINDS = {
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


class WholeFile:
    """A binary file under a temporary name; `whole_file` gives it its own name at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = _locked_file(path)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of `data`; the operating system may take it in several strokes."""
        return _write_all(self._descriptor, data)

    def sync(self) -> None:
        """From here on the content survives."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close after a sync."""
        self.sync()
        os.close(self._descriptor)

    def abandon(self) -> None:
        """Close and remove what was written."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


class Stream:
    """An output that cannot be replaced (device, pipe, terminal): what is written is gone at once."""

    def __init__(self, path: Path) -> None:
        process, number = _open_file(path) or (None, -1)
        # A duplicate shares the position with what else writes there; opening the name again would not.
        own = process in ("self", "thread-self", str(os.getpid()))
        self._descriptor = os.dup(number) if own else os.open(path, os.O_WRONLY)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of `data`."""
        return _write_all(self._descriptor, data)

    def close(self) -> None:
        os.close(self._descriptor)


def _write_all(descriptor: int, data: bytes | bytearray | memoryview) -> int:
    view = memoryview(data).cast("B")
    total = len(view)
    while view:
        view = view[os.write(descriptor, view[:_BLOCK]) :]
    return total


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[WholeFile | Stream]:
    """A file that replaces `path` at once when the block ends well, and leaves no trace otherwise.

    Where `path` is a symbolic link, the file that it leads to is replaced. A device, a pipe or a socket is
    written to as it is. Another process that writes the same file is a `DataError`.
    """
    if special(path) is not None:
        with _stream_errors(path):
            stream = Stream(path)
            try:
                yield stream
            finally:
                stream.close()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path):
        target = followed(path)
        if target.is_dir():
            raise DataError(f"{path} is a folder; name a file")
        file = WholeFile(target.with_name(f".{target.name}.part"))
        try:
            yield file
            file.sync()
            os.replace(file.path, target)
        except BaseException:
            file.abandon()
            raise
        os.close(file._descriptor)
        sync_folder(target.parent)


def write_whole(path: Path, data: bytes | str) -> None:
    """Replace the file `path` by `data`, at once."""
    with whole_file(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


def special(path: Path) -> str | None:
    """What `path` is ("a character device" …) where it is no file that can be replaced; else None."""
    if _open_file(path) is not None:
        return "an open file of a process"
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    except OSError:
        return None


def followed(path: Path) -> Path:
    """Where a path leads through symbolic links, to something that exists or not; others stay as they are."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def regular_output(path: Path, *, command: str) -> Path:
    """The path of a file that can be replaced, links followed; a `DataError` for devices and pipes."""
    if (kind := special(path)) is not None:
        raise DataError(f"{path} is {kind}, and {command} writes into a file at several places; name a file")
    if followed(path).is_dir():
        raise DataError(f"{path} is a folder; name a file")
    return followed(path)


def _open_file(path: Path) -> tuple[str, int] | None:
    """Process and number of the open file that a path (/dev/stdout, /dev/fd/1, a link there) stands for."""
    place = os.path.abspath(path)
    for _ in range(40):
        folder, name = os.path.split(place)
        place = os.path.join(os.path.realpath(folder), name)
        if found := _OPEN_FILE.fullmatch(place):
            return found[1], int(found[2])
        if not os.path.islink(place):
            return None
        place = os.path.normpath(os.path.join(os.path.dirname(place), os.readlink(place)))
    return None


@contextlib.contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder that appears under `path` when the block ends well, and leaves no trace otherwise.

    Yields the folder to fill. An existing `path` is refused unless it is empty or `replace` is given;
    then the old one goes only after the new one is complete. Another process that writes the same folder is
    a `DataError`.
    """
    given, path = path, followed(path)
    check_free(given, replace=replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_name(f".{path.name}.part")
    with disk_errors(path):
        lock = _locked_folder(building)
        try:
            _recover(path)
            check_free(given, replace=replace)
            yield building
            _sync_below(building)
            _put_in_place(building, path)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        finally:
            os.close(lock)


def check_free(path: Path, *, replace: bool = False) -> None:
    """Refuse to write a folder where a file or a folder with something in it is; before an hour is spent."""
    if os.path.lexists(path) and not path.is_dir() and not (path.is_symlink() and not path.exists()):
        raise DataError(f"{path} is a file; name a folder that does not exist yet")
    if not replace and path.exists() and any(path.iterdir()):
        raise DataError(f"{path} exists and is not empty; name another folder, or remove it first")


def _put_in_place(building: Path, path: Path) -> None:
    old = _old(path)
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


def _recover(path: Path) -> None:
    """What was set aside for a new folder comes back if that one never came; else it is no longer needed."""
    old = _old(path)
    if not old.exists():
        return
    if path.exists():
        shutil.rmtree(old)
    else:
        os.replace(old, path)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


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
def _stream_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # the reader has seen enough, as with a closed standard output
    except OSError as error:
        if isinstance(error, PolysemeError) or error.errno is None:
            raise
        raise DataError(f"{path} cannot be written: {os.strerror(error.errno)}") from error


@contextlib.contextmanager
def held(folder: Path, *, purpose: str, instead: str = "folder") -> Iterator[None]:
    """Keep a second process out of `folder` until the block ends; it gets a `DataError` at once."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _lock(descriptor):
            raise DataError(
                f"another process is {purpose} in {folder}; wait for it, or name another {instead}"
            )
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


def require_readable(path: Path, error: type[PolysemeError]) -> None:
    """Raise `error` with the system's reason where a file cannot be opened, for readers that hide it."""
    try:
        path.open("rb").close()
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}") from reason


def _lock(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed or its process ends; False where another one has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _locked_file(path: Path) -> int:
    """An empty file of that name, open and locked; what a killed process left under it is overwritten."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        if not _lock(descriptor):
            os.close(descriptor)
            raise _taken(path)
        if _is_at(descriptor, path):
            os.ftruncate(descriptor, 0)
            return descriptor
        os.close(descriptor)  # its writer gave it its own name, or gave it up, in this moment


def _locked_folder(path: Path) -> int:
    """An empty folder of that name, open and locked; what a killed process left in it is removed."""
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        if not _lock(descriptor):
            os.close(descriptor)
            raise _taken(path)
        if _is_at(descriptor, path):
            for entry in path.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file or folder still has the name by which it was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _taken(part: Path) -> DataError:
    target = part.with_name(part.name.removeprefix(".").removesuffix(".part"))
    return DataError(f"another process is writing {target}; wait for it, or write to another path")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
