"""The network's calls for a few tokens, recorded at first use and from then on made again by a single call.

Of the time that a small network takes for ten tokens half lies between its calls: in Python, in finding
memory for results, in threads that have gone to sleep meanwhile, and on a graphics card in starting some
hundred small kernels. Who records decides what is recorded: tapes of our own kernels on the processor
(`tapes.py`), captured graphs on a card (`graphs.py`).
"""

from typing import Any, Protocol

from torch import Tensor

from polyseme.runtime.forking import ForkSafeLock

Told = list[Tensor | None]
"""Ids, places and segments of packed tokens, int64, `[tokens]` each."""


class Read(Protocol):
    """The usual way."""

    def __call__(self, told: Told, starts: Tensor, numbers: tuple[int, ...], /) -> list[Tensor]:
        """What is told, the rows' starts and the numbers of layers to the layers' states."""


class Recording(Protocol):
    """Calls that can be made again for other tokens, with the memory that they read and write."""

    def play(self, told: Told, starts: Tensor) -> list[Tensor]:
        """The states of the tokens that are told, `[tokens, hidden_size]` each, copied out."""


class Recorder(Protocol):
    """How a network's calls are recorded on a device."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of tokens for which memory is kept, the lowest first: each serves all below it."""

    def record(self, read: Read, told: Told, numbers: tuple[int, ...], size: int) -> Recording | None:
        """A recording for up to `size` tokens of which as much is told; None where it cannot be made."""


class Replays:
    """`read` for a few tokens, by recordings; safe to call from several threads."""

    def __init__(self, read: Read, recorder: Recorder) -> None:
        self._read, self._recorder = read, recorder
        self._recordings: dict[Any, Recording | None] = {}
        self._one_at_a_time = ForkSafeLock()

    def __call__(self, told: Told, starts: Tensor, numbers: tuple[int, ...]) -> list[Tensor] | None:
        """The states, `[tokens, hidden_size]` each.

        None where they have to be read in the usual way: for more tokens, for a network whose calls cannot be
        recorded, or while another thread plays.
        """
        tokens = len(told[0]) if told[0] is not None else 0
        size = next((size for size in self._recorder.sizes if size >= tokens), None)
        if not tokens or size is None or not self._one_at_a_time.acquire(blocking=False):
            return None
        try:
            key = (size, numbers, *(one is None for one in told))
            if key not in self._recordings:
                self._recordings[key] = self._recorder.record(self._read, told, numbers, size)
            recording = self._recordings[key]
            return None if recording is None else recording.play(told, starts)
        finally:
            self._one_at_a_time.release()
