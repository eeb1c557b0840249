"""Paddle's parameter files: one tensor a file, behind a header, read without Paddle.

A file is a version, the levels of detail (none for parameters), a version again, a description in protocol
buffers, and the numbers. The file's name is the tensor's.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from polyseme.checkpoints.weights import Stored
from polyseme.errors import CheckpointError
from polyseme.files import refuse_lfs_pointer
from polyseme.protobuf import Damaged, fields

DTYPES = {
    0: torch.bool,
    1: torch.int16,
    2: torch.int32,
    3: torch.int64,
    4: torch.float16,
    5: torch.float32,
    6: torch.float64,
    20: torch.uint8,
    21: torch.int8,
    22: torch.bfloat16,
}
"""The numbers that Paddle gives to its kinds of tensors."""

_OTHER_FILES = (".json", ".txt", ".md", ".vocab")
_MOST_FILES = 10_000
_LONGEST_DESCRIPTION = 4096
_MOST_LEVELS = 16


class _Header(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int


def open_parameters(one: Path) -> dict[str, Stored]:
    """The tensors of the folder in which the parameter file `one` lies, by the names of their files."""
    paths = sorted(
        path
        for path in one.parent.iterdir()
        if path.suffix not in _OTHER_FILES and path.is_file() and not path.name.startswith(".")
    )
    if len(paths) > _MOST_FILES:
        raise CheckpointError(f"{one.parent} holds {len(paths)} files, more than any model has parameters")
    stored = {}
    for path in paths:
        header = _open(path)
        stored[path.name] = Stored(path.name, path, header.shape, _reader(path, header))
    return stored


def _open(path: Path) -> _Header:
    refuse_lfs_pointer(path, CheckpointError)
    try:
        with path.open("rb") as file:
            return _read_header(file, path.stat().st_size)
    except Damaged as error:
        raise CheckpointError(f"{path} is damaged or no parameter file of Paddle: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _read_header(file: BinaryIO, size: int) -> _Header:
    if _number(file, 4) != 0:
        raise Damaged("its version is not 0")
    levels = _number(file, 8)
    if levels > _MOST_LEVELS:
        raise Damaged(f"it claims {levels} levels of detail")
    for _ in range(levels):
        skipped = _number(file, 8)
        if skipped > size - file.tell():
            raise Damaged("a level of detail goes beyond its end")
        file.seek(skipped, 1)
    if _number(file, 4) != 0:
        raise Damaged("its tensor's version is not 0")
    length = _number(file, 4)
    if length > _LONGEST_DESCRIPTION:
        raise Damaged(f"the description claims {length} bytes")
    description = file.read(length)
    if len(description) < length:
        raise Damaged("the description is cut off")
    kind, shape = _read_description(description)
    start = file.tell()
    expected = math.prod(shape) * DTYPES[kind].itemsize
    if expected != size - start:
        raise Damaged(f"the shape {list(shape)} asks for {expected} bytes, and {size - start} follow")
    return _Header(DTYPES[kind], shape, start)


def _read_description(message: bytes) -> tuple[int, tuple[int, ...]]:
    kind, shape = -1, []
    for field in fields(message):
        if field.number == 1:
            kind = field.integer()
        elif field.number == 2:
            shape.append(field.integer())
    if kind not in DTYPES:
        raise Damaged(f"its numbers are of Paddle's kind {kind}")
    if any(size < 1 for size in shape):
        raise Damaged(f"its shape is {shape}")
    return kind, tuple(shape)


def _number(file: BinaryIO, size: int) -> int:
    content = file.read(size)
    if len(content) < size:
        raise Damaged("it is cut off")
    return int.from_bytes(content, "little")


def _reader(path: Path, header: _Header) -> Callable[[], Tensor]:
    def read() -> Tensor:
        size = math.prod(header.shape) * header.dtype.itemsize
        try:
            with path.open("rb") as file:
                file.seek(header.start)
                content = file.read(size)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        if len(content) < size:
            raise CheckpointError(f"{path} was cut off while it was read")
        return torch.frombuffer(bytearray(content), dtype=header.dtype).reshape(header.shape)

    return read
