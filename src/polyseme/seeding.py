"""Chance as a pure function of names and numbers: nothing to save, nothing to skip over."""

import hashlib

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def derived(seed: int, *path: int | str) -> int:
    """A 64-bit seed for one purpose: the same `seed` and `path` give the same number everywhere."""
    text = "\0".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, *path: int | str) -> np.random.Generator:
    """NumPy's generator for one purpose."""
    return np.random.Generator(np.random.Philox(derived(seed, *path)))


class RowGenerator:
    """One independent stream of chance for each row of a batch, drawn for all rows at once.

    A row's stream depends on (seed, path, its sample number) and not on its neighbours, so a sample is
    corrupted alike in any batch, on any number of workers, and after any restart. Each call begins a
    series of its own, so it does not matter either how many numbers the calls before it drew (rows are
    padded to different lengths in different company). The bits come from SplitMix64 (Steele, Lea and Flood
    2014, section 5): a counter through a mixing function, which NumPy computes for a whole batch.
    """

    def __init__(self, samples: npt.NDArray[np.int64], seed: int, *path: int | str) -> None:
        start = np.uint64(derived(seed, *path))
        self._keys = _mix(samples.astype(np.uint64) * _GOLDEN + start)  # [batch]
        self._calls = 0

    def __len__(self) -> int:
        return len(self._keys)

    def bits(self, count: int) -> npt.NDArray[np.uint64]:
        """The first `count` 64-bit numbers of each row's next series: `[batch, count]`."""
        self._calls += 1
        counter = np.arange(count, dtype=np.uint64) + np.uint64(self._calls << 32)
        return _mix(self._keys[:, None] + counter * _GOLDEN)

    def random(self, count: int) -> npt.NDArray[np.float64]:
        """Uniform numbers in [0, 1): `[batch, count]`."""
        return (self.bits(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, high: int, count: int) -> npt.NDArray[np.int64]:
        """Uniform integers in [0, high): `[batch, count]`; the bias is below high / 2⁵³."""
        return (self.random(count) * high).astype(np.int64)


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))
