"""The compiled table of a SentencePiece normaliser, looked through before it is handed to a library.

It is a trie in a double array (Darts-clone's layout: units of 32 bits) over the bytes of what is replaced,
followed by the replacements, each ended by a zero byte. The library that walks it trusts every number in it.
"""

import numpy as np
from numpy.typing import NDArray

from polyseme.protobuf import Damaged

_LABEL = (1 << 31) | 0xFF
_VALUE = (1 << 31) - 1
_DEEPEST = 64
"""Bytes of a replaced sequence: the longest of Unicode's are far below."""
_LONGEST = 256
"""Bytes of a replacement: Unicode's longest has 33."""


def check_character_map(table: bytes) -> None:
    """Raises `Damaged` where a walk through the table would leave it, or find no text there."""
    size = int.from_bytes(table[:4], "little")
    if len(table) < 4 or size % 4 or not 4 <= size <= len(table) - 4:
        raise Damaged("its table of characters claims a size that it does not have")
    units = np.frombuffer(table, dtype="<u4", count=size // 4, offset=4).astype(np.int64)
    texts = np.frombuffer(table, dtype=np.uint8, offset=4 + size)
    values = _values(units)
    if len(values) and int(values.max()) >= len(texts):
        raise Damaged("its table of characters points behind its end")
    if len(texts) and texts[-1]:
        raise Damaged("its table of characters does not end in a zero byte")
    starts = np.concatenate([[0], np.flatnonzero(texts == 0) + 1])
    if not np.isin(values, starts).all():
        raise Damaged("its table of characters points into the middle of a text")
    if len(starts) > 1 and int(np.diff(starts).max()) > _LONGEST:
        raise Damaged(f"its table of characters replaces one by more than {_LONGEST} bytes")
    texts.tobytes().decode()


def _values(units: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each replacement begins, by a walk over all branches, level by level."""
    found: list[NDArray[np.int64]] = []
    nodes = np.zeros(1, dtype=np.int64)  # places of units
    labels = np.arange(1, 256)
    for _ in range(_DEEPEST):
        below = nodes ^ _offset(units[nodes])  # where the children's places are counted from
        if int((below | 0xFF).max()) >= len(units):
            raise Damaged("its table of characters leads out of itself")
        ends = (units[nodes] >> 8) & 1 == 1
        found.append(units[below[ends]] & _VALUE)
        places = below[:, None] ^ labels  # [nodes, 255]
        nodes = np.unique(places[units[places] & _LABEL == labels])  # equal endings share their units
        if not len(nodes):
            return np.concatenate(found)
    raise Damaged("its table of characters runs in circles")


def _offset(units: NDArray[np.int64]) -> NDArray[np.int64]:
    return (units >> 10) << ((units & (1 << 9)) >> 6)
