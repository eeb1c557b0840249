"""Vectors made smaller for a file: fewer dimensions, fewer bits a number, and how to read them again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyseme.embedding.settings import OutputPrecision
from polyseme.errors import DataError

Vectors = NDArray[np.float32]

_STEPS = 255
"""Steps of an int8 number from the lower to the upper end of its range."""


def shortened(vectors: Vectors, dimensions: int, *, normalize: bool) -> Vectors:
    """The first `dimensions` numbers of each vector, at length 1 where the whole vectors have it.

    Matryoshka representation learning (Kusupati et al. 2022, section 3) trains each such beginning to be a
    vector of its own.
    """
    short = vectors[:, :dimensions]
    if not normalize or dimensions == vectors.shape[1]:
        return short
    scaled: Vectors = short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)
    return scaled


def ranges_of(vectors: Vectors) -> Vectors:
    """The smallest and the largest number of each dimension: `[2, dimensions]`."""
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


@dataclass(frozen=True)
class Packing:
    """How the numbers of a vector lie in a file.

    >>> packing = Packing("binary", 3)
    >>> packing.pack(np.array([[0.5, -2.0, 0.1]], np.float32))
    array([[160]], dtype=uint8)
    >>> packing.unpack(np.array([[160]], np.uint8))
    array([[ 1., -1.,  1.]], dtype=float32)
    """

    precision: OutputPrecision
    dimensions: int
    ranges: Vectors | None = None
    """Of int8, as `ranges_of` gives them."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of one stored number, little-endian."""
        return np.dtype(_DTYPES[self.precision])

    @property
    def columns(self) -> int:
        """Stored numbers of one vector."""
        return -(-self.dimensions // 8) if self.precision == "binary" else self.dimensions

    def pack(self, vectors: Vectors) -> NDArray[Any]:
        """Vectors `[rows, dimensions]` as they are stored: `[rows, columns]`."""
        return np.ascontiguousarray(_PACK[self.precision](vectors, self), dtype=self.dtype)

    def unpack(self, stored: NDArray[Any]) -> Vectors:
        """The vectors again, as near as what was stored tells: of binary 1 and -1."""
        return _UNPACK[self.precision](stored, self).astype(np.float32, copy=False)

    def _scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Start and step of each dimension; where all numbers were the same, any step will do."""
        assert self.ranges is not None, "int8 needs ranges"
        low, high = self.ranges.astype(np.float64)
        step = (high - low) / _STEPS
        return low, np.where(step > 0, step, 1.0)


def _halves(vectors: Vectors, packing: Packing) -> NDArray[Any]:
    largest = float(np.abs(vectors).max(initial=0))
    if largest > float(np.finfo(np.float16).max):
        raise DataError(
            f"a vector holds {largest:g}, and fp16 ends at 65504; choose fp32, or normalize the vectors"
        )
    return vectors.astype(np.float16)


def _codes(vectors: Vectors, packing: Packing) -> NDArray[Any]:
    """-128 at the lower end of a dimension's range to 127 at the upper; what lies outside gets the end."""
    low, step = packing._scale()
    return np.clip(np.rint((vectors - low) / step), 0, _STEPS) - 128


def _from_codes(stored: NDArray[Any], packing: Packing) -> NDArray[Any]:
    low, step = packing._scale()
    return low + (stored.astype(np.float64) + 128) * step


def _signs(vectors: Vectors, packing: Packing) -> NDArray[Any]:
    return np.packbits(vectors > 0, axis=1)


def _from_signs(stored: NDArray[Any], packing: Packing) -> NDArray[Any]:
    return np.unpackbits(stored, axis=1, count=packing.dimensions) * 2.0 - 1.0


def _as_it_is(values: NDArray[Any], packing: Packing) -> NDArray[Any]:
    return values


_DTYPES: dict[str, str] = {"fp32": "<f4", "fp16": "<f2", "int8": "|i1", "binary": "|u1"}
_PACK: dict[str, Callable[[Vectors, Packing], NDArray[Any]]] = {
    "fp32": _as_it_is,
    "fp16": _halves,
    "int8": _codes,
    "binary": _signs,
}
_UNPACK: dict[str, Callable[[NDArray[Any], Packing], NDArray[Any]]] = {
    "fp32": _as_it_is,
    "fp16": _as_it_is,
    "int8": _from_codes,
    "binary": _from_signs,
}
