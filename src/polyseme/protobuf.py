"""The wire format of protocol buffers: numbered fields of messages, read and written by hand."""

from collections.abc import Iterator
from typing import NamedTuple

_MOST_BITS = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Damaged(ValueError):
    """Bytes that are not what they should be; a reader of files says which file it was."""


class Field(NamedTuple):
    """One field of a message: a number for the numeric kinds, bytes for texts and messages inside."""

    number: int
    value: int | bytes

    def integer(self) -> int:
        """The value as a signed number of 64 bits."""
        if not isinstance(self.value, int):
            raise Damaged(f"field {self.number} holds bytes where a number belongs")
        return self.value - (1 << 64) if self.value >> 63 else self.value

    def content(self) -> bytes:
        """The bytes of a text or of a message inside."""
        if isinstance(self.value, int):
            raise Damaged(f"field {self.number} holds a number where bytes belong")
        return self.value


def fields(message: bytes) -> Iterator[Field]:
    """The fields of a message in their order; raises `Damaged` where the bytes are no message."""
    place = 0
    while place < len(message):
        key, place = read_varint(message, place)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise Damaged("a field has the number 0")
        value: int | bytes
        if kind == _VARINT:
            value, place = read_varint(message, place)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
            value, place = int.from_bytes(_slice(message, place, size), "little"), place + size
        elif kind == _BYTES:
            size, place = read_varint(message, place)
            value, place = _slice(message, place, size), place + size
        else:
            raise Damaged(f"field {number} is of the unknown kind {kind}")
        yield Field(number, value)


def read_varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of variable length, and the place behind it."""
    value = shift = 0
    while True:
        if place >= len(data):
            raise Damaged("a number is cut off")
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            break
        if shift >= _MOST_BITS:
            raise Damaged("a number is longer than 64 bits")
    if value >> _MOST_BITS:
        raise Damaged("a number is longer than 64 bits")
    return value, place


def varint(value: int) -> bytes:
    """A number in as few bytes as it needs."""
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def number_field(number: int, value: int) -> bytes:
    """A field with a number; like every writer of version 3, nothing for 0."""
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def fixed_field(number: int, value: int) -> bytes:
    """A field with a number of always 32 bits."""
    return varint(number << 3 | _FIXED32) + value.to_bytes(4, "little")


def bytes_field(number: int, content: bytes) -> bytes:
    """A field with a text or with a message inside."""
    return varint(number << 3 | _BYTES) + varint(len(content)) + content


def _slice(data: bytes, place: int, size: int) -> bytes:
    if size > len(data) - place:
        raise Damaged(f"a field claims {size} bytes, of which {len(data) - place} are there")
    return data[place : place + size]
