"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, over large arrays at once."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, with the lowest power in the highest bit.
_ONES = 0xFFFFFFFF
_LANES = 1 << 15
_MASK_DELTA = 0xA282EAD8


def crc32c(data: bytes | memoryview) -> int:
    """The checksum of `data`; that of b"123456789" is 0xe3069283.

    The register is a linear function of the bytes, so many columns of words go through it side by side and
    are put together at the end; a byte at a time would take minutes for a model.
    """
    size = len(data)
    # Zeros in front leave an empty register empty; the ones that it starts with are added at the end.
    rows = -(-size // 4)
    lanes = min(_LANES, 1 << max(rows - 1, 0).bit_length())
    first = size % (4 * lanes)
    register = np.zeros(lanes, dtype=np.uint32)
    if first:
        head = bytes(4 * lanes - first) + bytes(data[:first])
        register ^= np.frombuffer(head, dtype="<u4")
    step = _tables(4 * lanes)
    for row in np.frombuffer(data, dtype="<u4", offset=first, count=(size - first) // 4).reshape(-1, lanes):
        register = _apply(step, register) ^ row
    width = 4
    while len(register) > 1:
        register = _apply(_tables(width), register[0::2]) ^ register[1::2]
        width *= 2
    empty = np.array([_ONES], dtype=np.uint32)
    for bit in range(size.bit_length()):
        if size >> bit & 1:
            empty = _apply(_tables(1 << bit), empty)
    return int((_apply(_tables(4), register) ^ empty)[0]) ^ _ONES


def masked(checksum: int) -> int:
    """The checksum as it is stored beside data that may hold checksums itself."""
    return ((checksum >> 15 | checksum << 17) + _MASK_DELTA) & _ONES


def _apply(tables: Words, register: Words) -> Words:
    """The register after as many zero bytes as the tables stand for."""
    parts = np.ascontiguousarray(register).view(np.uint8).reshape(-1, 4)
    after: Words = tables[0][parts[:, 0]]
    for place in range(1, 4):
        after = after ^ tables[place][parts[:, place]]
    return after


@cache
def _tables(zeros: int) -> Words:
    """What each value of each of the register's four bytes becomes after `zeros` zero bytes: `[4, 256]`.

    `zeros` is a power of two, so that each table follows from the one before it.
    """
    if zeros == 1:
        values: Words = np.arange(256, dtype=np.uint32)
        for _ in range(8):
            values = values >> np.uint32(1) ^ (values & np.uint32(1)) * np.uint32(_POLYNOMIAL)
        others = [np.arange(256, dtype=np.uint32) << np.uint32(8 * place) for place in range(3)]
        return np.stack([values, *others])
    half = _tables(zeros // 2)
    return np.stack([_apply(half, table) for table in half])
