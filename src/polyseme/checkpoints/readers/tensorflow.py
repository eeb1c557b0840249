"""TensorFlow's checkpoints (version 2, `.index` and `.data`), read and written without TensorFlow.

The index is a sorted table: under the empty key a header, and under the name of each tensor a record of its
kind, shape, shard, place and checksum. The shards hold nothing but the tensors' bytes.
"""

import math
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from polyseme.checkpoints.readers.crc32c import crc32c, masked
from polyseme.checkpoints.readers.sorted_tables import read_table, write_table
from polyseme.checkpoints.weights import Stored
from polyseme.errors import CheckpointError
from polyseme.files import refuse_lfs_pointer
from polyseme.protobuf import (
    Damaged,
    bytes_field,
    fields,
    fixed_field,
    number_field,
)

DTYPES = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    19: torch.float16,
}
"""The numbers that TensorFlow gives to its kinds of tensors; others, such as texts, hold no weights."""

_LARGEST_INDEX = 1 << 28
_MOST_TENSORS = 100_000
_MOST_SHARDS = 99_999
_MOST_DIMENSIONS = 254
_MOST_NUMBERS = 1 << 48


class _Entry(NamedTuple):
    """What the index says of one tensor."""

    kind: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def open_checkpoint(index: Path) -> dict[str, Stored]:
    """The tensors of a checkpoint by their names in it, each read and checked when it is asked for.

    Raises `CheckpointError` for an index that is damaged, names bytes that are not there, or has a tensor in
    slices.
    """
    prefix = index.name.removesuffix(".index")
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise CheckpointError(f"{index} is larger than {_LARGEST_INDEX >> 20} MB, which no index is")
        shards, entries = _read_index(index.read_bytes())
    except Damaged as error:
        raise CheckpointError(f"{index} is damaged or no TensorFlow checkpoint: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error.strerror}") from error
    opened: dict[int, _Shard] = {}
    stored: dict[str, Stored] = {}
    for name, entry in entries.items():
        if entry.shard not in opened:
            if not 0 <= entry.shard < shards:
                raise CheckpointError(f"{index} places {name} in shard {entry.shard} of {shards}")
            opened[entry.shard] = _Shard(
                index.with_name(f"{prefix}.data-{entry.shard:05}-of-{shards:05}"), index
            )
        shard = opened[entry.shard]
        _check_place(name, entry, shard, index)
        stored[name] = Stored(name, shard.path, entry.shape, _reader(name, entry, shard))
    return stored


def refuse_old_checkpoint(path: Path) -> dict[str, Stored]:
    """Say how a checkpoint of version 1, one file without an index, can be read, or one of PyTorch."""
    with path.open("rb") as file:
        if file.read(2) in (b"PK", b"\x80\x02"):
            raise CheckpointError(
                f"{path} is a checkpoint of PyTorch (Lightning's have this ending); "
                "rename it to pytorch_model.bin to have it read"
            )
    raise CheckpointError(
        f"{path} has no {path.name}.index beside it: a TensorFlow checkpoint of version 1, or cut off; "
        "save it again with tf.compat.v1.train.Saver, which writes version 2"
    )


def checkpoint_files(
    tensors: Mapping[str, Tensor], prefix: str, *, shards: int = 1, block_size: int = 1 << 18
) -> dict[str, bytes]:
    """A checkpoint's files by name; with several `shards` the tensors are dealt out in turn."""
    numbers = {dtype: number for number, dtype in DTYPES.items()}
    data = [bytearray() for _ in range(shards)]
    records = {b"": number_field(1, shards) + bytes_field(3, number_field(1, 1))}
    for place, name in enumerate(sorted(tensors, key=lambda name: name.encode())):
        tensor = tensors[name].detach().cpu().contiguous()
        content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        shard = place % shards
        shape = b"".join(bytes_field(2, number_field(1, size)) for size in tensor.shape)
        records[name.encode()] = b"".join(
            [
                number_field(1, numbers[tensor.dtype]),
                bytes_field(2, shape),
                number_field(3, shard),
                number_field(4, len(data[shard])),
                number_field(5, len(content)),
                fixed_field(6, masked(crc32c(content))),
            ]
        )
        data[shard] += content
    files = {f"{prefix}.data-{number:05}-of-{shards:05}": bytes(part) for number, part in enumerate(data)}
    return {f"{prefix}.index": write_table(records, block_size=block_size)} | files


class _Shard:
    """A file of tensors' bytes, mapped into memory when the first of them is read."""

    def __init__(self, path: Path, index: Path) -> None:
        self.path = path
        self._mapped: mmap.mmap | None = None
        refuse_lfs_pointer(path, CheckpointError)
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise CheckpointError(
                f"{index} needs the file {path.name}, which is missing; fetch it too"
            ) from error

    def read(self, offset: int, size: int) -> bytes:
        try:
            if self._mapped is None:
                with self.path.open("rb") as file:
                    self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return self._mapped[offset : offset + size]
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path} cannot be read: {error}") from error


def _reader(name: str, entry: _Entry, shard: _Shard) -> Callable[[], Tensor]:
    def read() -> Tensor:
        dtype = DTYPES.get(entry.kind)
        if dtype is None:
            raise CheckpointError(
                f"{shard.path}: {name} is of TensorFlow's kind {entry.kind}, not of numbers"
            )
        content = shard.read(entry.offset, entry.size) if entry.size else b""
        if len(content) != entry.size or masked(crc32c(content)) != entry.checksum:
            raise CheckpointError(f"{shard.path}: {name} is damaged, its checksum is wrong; fetch it again")
        if not content:
            return torch.empty(entry.shape, dtype=dtype)
        return torch.frombuffer(bytearray(content), dtype=dtype).reshape(entry.shape)

    return read


def _read_index(data: bytes) -> tuple[int, dict[str, _Entry]]:
    """The number of shards, and what is said of each tensor by its name."""
    shards = 0
    entries: dict[str, _Entry] = {}
    for number, (key, value) in enumerate(read_table(data)):
        if number == 0:
            if key:
                raise Damaged("its header is missing")
            shards = _read_header(value)
        elif number > _MOST_TENSORS:
            raise Damaged(f"it names more than {_MOST_TENSORS} tensors")
        else:
            name = _name(key)
            try:
                entries[name] = _read_entry(value)
            except Damaged as error:
                raise Damaged(f"{name}: {error}") from error
    if not shards:
        raise Damaged("its header is missing")
    return shards, entries


def _name(key: bytes) -> str:
    try:
        name = key.decode()
    except UnicodeDecodeError as error:
        raise Damaged("a tensor's name is no text") from error
    if not name.isprintable():
        raise Damaged(f"a tensor's name holds control characters: {name!r}")
    return name


def _read_header(message: bytes) -> int:
    shards = 0
    for field in fields(message):
        if field.number == 1:
            shards = field.integer()
        elif field.number == 2 and field.integer() != 0:
            raise Damaged("it was written by a machine of the other byte order")
    if not 0 < shards <= _MOST_SHARDS:
        raise Damaged(f"it claims {shards} shards")
    return shards


def _read_entry(message: bytes) -> _Entry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    shape: tuple[int, ...] = ()
    for field in fields(message):
        if field.number in numbers:
            numbers[field.number] = field.integer()
        elif field.number == 2:
            shape = _read_shape(field.content())
        elif field.number == 7:
            raise Damaged("the tensor is stored in slices, which polyseme does not put together")
    kind, shard, offset, size, checksum = numbers.values()
    return _Entry(kind, shape, shard, offset, size, checksum)


def _read_shape(message: bytes) -> tuple[int, ...]:
    shape = []
    for field in fields(message):
        if field.number == 2:
            sizes = [inner.integer() for inner in fields(field.content()) if inner.number == 1]
            shape.append(sizes[-1] if sizes else 0)
        elif field.number == 3 and field.integer():
            raise Damaged("the tensor's shape is unknown")
    possible = len(shape) <= _MOST_DIMENSIONS and all(size >= 0 for size in shape)
    if not possible or math.prod(max(size, 1) for size in shape) > _MOST_NUMBERS:
        raise Damaged(f"the tensor has an impossible shape of {len(shape)} dimensions")
    return tuple(shape)


def _check_place(name: str, entry: _Entry, shard: _Shard, index: Path) -> None:
    """Refuse a tensor that would lie beyond its file, or has another size than its shape asks for."""
    if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > shard.size:
        raise CheckpointError(
            f"{index} places {name} at the bytes {entry.offset} to {entry.offset + entry.size} of "
            f"{shard.path.name}, which has {shard.size}; the file is cut off, fetch it again"
        )
    dtype = DTYPES.get(entry.kind)
    if dtype is not None and math.prod(entry.shape) * dtype.itemsize != entry.size:
        raise CheckpointError(
            f"{index} gives {name} the shape {list(entry.shape)} of {str(dtype).removeprefix('torch.')} and "
            f"{entry.size} bytes, which do not fit together"
        )
