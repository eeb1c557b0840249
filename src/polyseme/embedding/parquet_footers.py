"""The footer of a Parquet file put together from those of its row groups, so that a file can grow by blocks.

A Parquet file ends in a record of where everything lies, and a library that writes one keeps that record in
memory until the end: a writer that is killed leaves bytes that nobody can read. Here each row group becomes a
small file of its own, its data goes into the large file, and its record waits in a journal. Records are
Thrift in the compact protocol (thrift-compact-protocol.md of Apache Thrift); the numbers of the fields are
those of parquet.thrift in Apache's parquet-format.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

MAGIC = b"PAR1"

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    12,
)
_NUM_ROWS, _ROW_GROUPS = 3, 4
_COLUMNS, _ROWS_OF_GROUP, _GROUP_OFFSET, _ORDINAL = 1, 3, 5, 7
_CHUNK_OFFSET, _CHUNK_META = 2, 3
_PAGE_OFFSETS = (9, 10, 11)
"""Of a column: data page, index page, dictionary page."""


class Value(NamedTuple):
    """A value with its Thrift type: a struct is a dictionary by field number, a list is (type, values)."""

    kind: int
    value: Any


Struct = dict[int, Value]


class RowGroup(NamedTuple):
    """A row group of the file in the making."""

    start: int
    """Where its data begins in the file."""
    record: bytes
    """What `split` gave as its record."""


def split(small: bytes) -> tuple[bytes, bytes]:
    """The data of a Parquet file of one row group, and the record of that row group as it stands there."""
    length = int.from_bytes(small[-8:-4], "little")
    data, footer = small[len(MAGIC) : -8 - length], small[-8 - length : -8]
    (group,) = _Reader(footer).struct()[_ROW_GROUPS].value[1]
    return data, _written(group)


def joined(template: bytes, groups: Iterable[RowGroup]) -> bytes:
    """What follows the last row group: the footer of `template`, a file without rows, with all `groups`."""
    length = int.from_bytes(template[-8:-4], "little")
    footer = _Reader(template[-8 - length : -8]).struct()
    moved = [_moved(_Reader(group.record).struct(), group.start - len(MAGIC)) for group in groups]
    footer[_ROW_GROUPS] = Value(_LIST, (_STRUCT, moved))
    footer[_NUM_ROWS] = Value(_I64, sum(group[_ROWS_OF_GROUP].value for group in moved))
    record = _written(footer)
    return record + len(record).to_bytes(4, "little") + MAGIC


def _moved(group: Struct, by: int) -> Struct:
    """The record with all its places moved; 0 stands for a place that is not told.

    The number of a row group among the others is left out: only encryption asks for it, and it has 16 bits.
    """
    columns = []
    for column in group[_COLUMNS].value[1]:
        meta = _shifted(column[_CHUNK_META].value, _PAGE_OFFSETS, by)
        columns.append(_shifted(column, (_CHUNK_OFFSET,), by) | {_CHUNK_META: Value(_STRUCT, meta)})
    moved = _shifted(group, (_GROUP_OFFSET,), by) | {_COLUMNS: Value(_LIST, (_STRUCT, columns))}
    moved.pop(_ORDINAL, None)
    return moved


def _shifted(record: Struct, fields: tuple[int, ...], by: int) -> Struct:
    told = {field: record[field] for field in fields if field in record and record[field].value}
    return record | {field: Value(kind, value + by) for field, (kind, value) in told.items()}


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            number = number + step if step else self._signed()
            fields[number] = Value(kind, self._field(kind))
        return fields

    def _field(self, kind: int) -> Any:
        # In a struct the type itself is the truth value; in a list it is a byte.
        return kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)

    def _value(self, kind: int) -> Any:
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return self._signed()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind in (_LIST, _SET):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._unsigned()
            return head & 15, [self._value(head & 15) for _ in range(size)]
        assert kind == _STRUCT, f"a Parquet footer holds no Thrift type {kind}"
        return self.struct()

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, count: int) -> bytes:
        self._place += count
        return self._data[self._place - count : self._place]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _signed(self) -> int:
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)


def _written(fields: Struct) -> bytes:
    parts = []
    before = 0
    for number, (kind, value) in sorted(fields.items()):
        step = number - before
        parts.append(bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _signed(number))
        parts.append(b"" if kind in (_TRUE, _FALSE) else _value(kind, value))
        before = number
    return b"".join(parts) + b"\0"


def _value(kind: int, value: Any) -> bytes:
    if kind in (_TRUE, _FALSE, _BYTE):
        return bytes([value])
    if kind in (_I16, _I32, _I64):
        return _signed(value)
    if kind == _DOUBLE:
        return bytes(value)
    if kind == _BINARY:
        return _unsigned(len(value)) + bytes(value)
    if kind in (_LIST, _SET):
        inner, values = value
        size = len(values)
        head = bytes([size << 4 | inner]) if size < 15 else bytes([0xF0 | inner]) + _unsigned(size)
        return head + b"".join(_value(inner, one) for one in values)
    return _written(value)


def _signed(value: int) -> bytes:
    return _unsigned(value << 1 ^ value >> 63)


def _unsigned(value: int) -> bytes:
    value &= (1 << 64) - 1
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
