"""Checksums: what is read is what was written, or an error names the file.

Every folder that we write has a record with the size and two hashes of each file: SHA-256, by which anybody
can check it, and XXH3 (128 bits), which costs a tenth of that and is compared whenever a file is read. The
record is JSON whose last field, `checksum`, is the SHA-256 of all before it, so a changed byte of the record
itself is noticed too. Folders without a record (other libraries' models) are read as they are.

What is checked when: docs/integrity.md. `POLYSEME_VERIFY=0` in the environment, or `verify=False`
where a function has it, leaves models and stores unchecked.
"""

import contextlib
import hashlib
import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec
import xxhash

from polyseme import progress
from polyseme.errors import CheckpointError, SettingsError
from polyseme.files import refuse_lfs_pointer, write_whole
from polyseme.input_files import read_small
from polyseme.records import decode_json, from_plain, read_json_object

RECORD = "polyseme.json"
"""The record of a model or tokenizer folder; it holds what else there is to know of the folder, too."""
FIELDS = ("files", "checksum")
"""The fields of a record that are about its files and itself."""

R = TypeVar("R", bound=msgspec.Struct)
_BLOCK = 1 << 24
_CHECKSUM = re.compile(rb'(?:,\n  "checksum": "([0-9a-f]{64})"\n\}\n|,"checksum":"([0-9a-f]{64})"\})\Z')
_INSIDE = r"(?:\d+_\w+/)?"
_TOKENIZER = re.compile(
    _INSIDE + r"(?:tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    r"|[^/]*vocab[^/]*\.(?:txt|json|bpe)|[^/]*merges\.txt|encoder[^/]*\.json|[^/]*\.model)"
)
_WEIGHTS = re.compile(
    _INSIDE + r"(?:(?:model|task)[^/]*\.safetensors|pytorch_model[^/]*\.bin"
    r"|[^/]*(?:\.ckpt|\.index|\.data-\d+-of-\d+))"
)
_SETTINGS = re.compile(
    _INSIDE + r"(?:config\.json|[^/]*_config\.json|modules\.json|config_sentence_transformers\.json"
    r"|[^/]*\.(?:safetensors|bin)\.index\.json)"
)
_checking: ContextVar[bool] = ContextVar("checking", default=True)


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file, as a record lists it."""

    bytes: int
    sha256: str
    xxh3: str
    """XXH3 of 128 bits."""


def entry_of(content: bytes) -> FileEntry:
    """The entry of a file that is in memory."""
    return FileEntry(len(content), hashlib.sha256(content).hexdigest(), xxhash.xxh3_128_hexdigest(content))


def entry_of_file(path: Path) -> FileEntry:
    """The entry of a file on disk, read once."""
    slow, fast, size = hashlib.sha256(), xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            slow.update(block)
            fast.update(block)
            size += len(block)
    return FileEntry(size, slow.hexdigest(), fast.hexdigest())


def fast_hash(path: Path) -> str:
    """XXH3 of a file, through the page cache and without a copy; memory stays flat however large it is."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return xxhash.xxh3_128_hexdigest(b"")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            digest = xxhash.xxh3_128()
            with memoryview(mapped) as view:
                for start in range(0, len(view), _BLOCK):
                    digest.update(view[start : start + _BLOCK])
                    mapped.madvise(mmap.MADV_DONTNEED, start, min(_BLOCK, len(view) - start))
            return digest.hexdigest()


def same(path: Path, entry: FileEntry, *, thorough: bool = False) -> bool:
    """Whether a file is as it was: by size and XXH3, or with `thorough` by both hashes."""
    if path.stat().st_size != entry.bytes:
        return False
    return entry_of_file(path) == entry if thorough else fast_hash(path) == entry.xxh3


def checks_files() -> bool:
    """Whether models and stores are checked as they are read."""
    return _checking.get() and os.environ.get("POLYSEME_VERIFY", "1") not in ("0", "false", "no")


@contextlib.contextmanager
def checking(wanted: bool) -> Iterator[None]:
    """Leave models and stores unchecked inside the block, where `wanted` is false."""
    token = _checking.set(wanted and _checking.get())
    try:
        yield
    finally:
        _checking.reset(token)


def with_checksum(content: bytes) -> bytes:
    """A JSON object with the field `checksum` at its end: SHA-256 of the bytes before that field."""
    body = content.rstrip().removesuffix(b"}").rstrip()
    checksum = hashlib.sha256(body).hexdigest().encode()
    if b"\n" in body:
        return body + b',\n  "checksum": "' + checksum + b'"\n}\n'
    return body + b',"checksum":"' + checksum + b'"}'


def without_checksum(content: bytes, *, where: Path, otherwise: str = "") -> bytes:
    """The JSON object without its checksum; a `CheckpointError` where a byte of it has changed.

    `otherwise` is the way out that the error names.
    """
    found = _CHECKSUM.search(content)
    body = content[: found.start()] if found else b""
    if not found or hashlib.sha256(body).hexdigest().encode() != (found[1] or found[2]):
        raise CheckpointError(f"{where} is damaged: its checksum is not that of its content{otherwise}")
    return body + b"\n}"


def has_checksum(content: bytes) -> bool:
    """Whether a JSON object ends with a checksum, right or not, even if one byte of it has changed."""
    end = content[-100:]
    return b'"checksum"' in end or re.search(rb"[0-9a-f]{64}", end) is not None


def write_checked(path: Path, content: bytes) -> None:
    """Write a JSON object with a checksum, at once."""
    write_whole(path, with_checksum(content))


def read_checked(path: Path, *, otherwise: str = "") -> bytes:
    """What `write_checked` was given; a `CheckpointError` where the file is damaged."""
    return without_checksum(read_small(path), where=path, otherwise=otherwise)


def read_checked_object(path: Path, *, otherwise: str = "") -> dict[str, Any]:
    """The JSON object that `write_checked` was given; a `CheckpointError` where the file is damaged."""
    content = read_checked(path, otherwise=otherwise)
    try:
        value = decode_json(content, where=str(path))
    except SettingsError as error:
        raise CheckpointError(f"{error}{otherwise}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not a JSON object{otherwise}")
    return value


def read_checked_record(path: Path, kind: type[R], *, otherwise: str = "") -> R:
    """The record that `write_checked` was given; a `CheckpointError` where it is damaged or another one."""
    try:
        return from_plain(read_checked_object(path, otherwise=otherwise), kind, where=str(path))
    except SettingsError as error:
        raise CheckpointError(f"{error}{otherwise}") from error


def recorded(files: Mapping[str, bytes], record: bytes) -> dict[str, bytes]:
    """The files of a folder and, as the last, its record: the JSON object `record` with their hashes."""
    return {**files, RECORD: record_of({name: entry_of(data) for name, data in files.items()}, record)}


def record_of(entries: Mapping[str, FileEntry], record: bytes) -> bytes:
    """A folder's record: the JSON object `record` with the `entries` of its files."""
    return _encoded(msgspec.json.decode(record) | {"files": dict(entries)})


def _encoded(plain: Mapping[str, Any]) -> bytes:
    return with_checksum(msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n")


class Recorded:
    """A model or tokenizer folder of ours, and the files that its record lists."""

    def __init__(self, folder: Path, plain: Mapping[str, Any], files: Mapping[str, FileEntry]) -> None:
        self.folder, self.plain, self.files = folder, plain, files

    def check_weights(self) -> None:
        """Compare the files of weights; those of a network beside this one are compared when it is read."""
        self._check(_WEIGHTS.fullmatch)

    def check_tokenizer(self) -> None:
        """Compare what a tokenizer is read from."""
        self._check(_TOKENIZER.fullmatch)

    def check_small(self) -> None:
        """Compare all other files, and refuse one that would be read and is not listed, or is missing."""
        beside = {name.rpartition("/")[0] for name in self.files if name.endswith(f"/{RECORD}")}
        for name in self.files if checks_files() else ():
            if is_read(name) and not (self.folder / name).is_file():
                self._refuse(f"{self.folder / name} is missing, but {RECORD} lists it")
        self._check(
            lambda name: not _WEIGHTS.fullmatch(name) and not any(name.startswith(f"{b}/") for b in beside)
        )

    def check_all(self) -> None:
        """Compare every file, those included that no model is read from."""
        self._check(lambda name: True, all_are_needed=True)

    def _check(self, wanted: Callable[[str], object], *, all_are_needed: bool = False) -> None:
        if not checks_files():
            return
        for name, entry in self.files.items():
            path = self.folder / name
            if not wanted(name):
                continue
            if not path.is_file():
                if all_are_needed or is_read(name):
                    self._refuse(f"{path} is missing, but {RECORD} lists it")
            elif not same(path, entry):
                self._refuse(f"{path} has changed since it was written")
        for name in readable(self.folder):
            if wanted(name) and name not in self.files:
                raise CheckpointError(
                    f"{self.folder / name} would be read, but {RECORD} does not list it; remove it, or if it "
                    f"is intended: polyseme verify {self.folder} --accept"
                )

    def _refuse(self, what: str) -> NoReturn:
        raise CheckpointError(
            f"{what}; fetch or write the folder again, or if this is intended: "
            f"polyseme verify {self.folder} --accept"
        )


def open_record(folder: Path, *, warn: bool = False) -> Recorded | None:
    """The files that the record of `folder` lists; None where there is no record, or no hashes in it.

    Raises `CheckpointError` where the record itself has changed. With `warn` the user is told where a
    record has no hashes (version 0.1.0 wrote none).
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    refuse_lfs_pointer(path, CheckpointError)
    content = read_small(path)
    try:
        plain = decode_json(content, where=str(path))
    except SettingsError as error:
        raise CheckpointError(f"{error}; fetch it again") from error
    if not isinstance(plain, dict) or not any(field in plain for field in FIELDS):
        if warn:
            progress.warn(
                f"{folder} has no checksums, so damage to it would not be noticed; "
                f"polyseme verify {folder} --accept adds them"
            )
        return None
    otherwise = f"; fetch or write the folder again, or if it was edited: polyseme verify {folder} --accept"
    if checks_files():
        without_checksum(content, where=path, otherwise=otherwise)
    return Recorded(folder, plain, entries_in(plain, path))


def entries_in(plain: Mapping[str, Any], path: Path) -> dict[str, FileEntry]:
    """The files that a decoded record lists; all of them lie in its folder."""
    try:
        entries = msgspec.convert(plain.get("files", {}), dict[str, FileEntry])
    except (msgspec.ValidationError, OverflowError, ValueError) as error:
        raise CheckpointError(f"{path}: its list of files is damaged: {error}") from error
    for name in entries:
        if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{path} lists the file {name!r}, which lies outside of its folder")
    return entries


def is_read(name: str) -> bool:
    """Whether a file of this name, in a model's folder, is one that the model is read from."""
    return any(kind.fullmatch(name) for kind in (_TOKENIZER, _WEIGHTS, _SETTINGS))


def readable(folder: Path) -> list[str]:
    """The files of a folder that a model is read from, by their names in it."""
    found = [path.name for path in folder.iterdir() if path.is_file()]
    for inner in folder.iterdir():
        if re.fullmatch(r"\d+_\w+", inner.name) and inner.is_dir():
            found += [f"{inner.name}/{path.name}" for path in inner.iterdir() if path.is_file()]
    return sorted(name for name in found if is_read(name) and name != RECORD)


def accept_folder(folder: Path) -> None:
    """Take the files of a model or tokenizer folder as they are now for what its record lists."""
    path = folder / RECORD
    plain = read_json_object(path)
    names = {name for name in (*entries_in(plain, path), *readable(folder)) if (folder / name).is_file()}
    files = {name: entry_of_file(folder / name) for name in sorted(names)}
    rest = {name: value for name, value in plain.items() if name not in FIELDS}
    try:
        content = _encoded({**rest, "files": files})
    except OverflowError as error:
        raise CheckpointError(f"{path} cannot be accepted: a number in it lies beyond 64 bits") from error
    write_whole(path, content)
