"""The kernels for one short text, recorded at first use and called again by a single call.

Of the time that a small network takes for ten tokens half lies between its kernels: in Python, in finding
memory for results, in threads that have gone to sleep meanwhile. Graphics cards have captured graphs for
that; this is the same for the processor. The kernels and their numbers are those of every other tile, so the
bytes are the same too.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from polyseme.runtime.native.library import Library, Tape

MOST = 64
"""Tokens for which memory is kept: all results of all layers, for all-MiniLM-L6-v2 in float32 7 MB."""

Told = list[Tensor | None]
"""Ids, places and segments of packed tokens, int64, `[tokens]` each."""
Read = Callable[[Told, Tensor, tuple[int, ...]], list[Tensor]]
"""What is told, the rows' starts and the numbers of layers to the layers' states."""


class Replays:
    """`read` for at most `MOST` tokens, by a recording of its kernels; safe to call from several threads."""

    def __init__(self, native: Library, read: Read) -> None:
        self._native, self._read = native, read
        self._recordings: dict[Any, _Recording | None] = {}
        self._one_at_a_time = threading.Lock()

    def __call__(self, told: Told, starts: Tensor, numbers: tuple[int, ...]) -> list[Tensor] | None:
        """The states, `[tokens, hidden_size]` each.

        None where they have to be read in the usual way: for more tokens, for a network that needs more than
        kernels, or while another thread plays.
        """
        tokens = len(told[0]) if told[0] is not None else 0
        if not 0 < tokens <= MOST or not self._one_at_a_time.acquire(blocking=False):
            return None
        try:
            key = (numbers, *(one is None for one in told))
            if key not in self._recordings:
                self._recordings[key] = self._recorded(told, numbers)
            recording = self._recordings[key]
            return None if recording is None else recording.play(told, starts)
        finally:
            self._one_at_a_time.release()

    def _recorded(self, told: Told, numbers: tuple[int, ...]) -> "_Recording | None":
        """Read rows of one token, which every network can; None if anything but kernels computed."""
        room = [None if one is None else torch.zeros(MOST, dtype=torch.int64) for one in told]
        starts = torch.arange(MOST + 1)
        tape, watch = Tape(), _Watch()
        with self._native.recording(tape), watch:
            states = self._read(room, starts, numbers)
        return None if watch.others else _Recording(self._native, tape, room, starts, states)


class _Recording:
    """A tape with the places at which it reads its input and leaves its results."""

    def __init__(self, native: Library, tape: Tape, room: Told, starts: Tensor, states: list[Tensor]) -> None:
        self.native, self.tape, self.states = native, tape, states
        self.words: NDArray[np.int64] = np.stack(tape.words)
        self.room = [(place, one) for place, one in enumerate(room) if one is not None]
        self.starts = starts

    def play(self, told: Told, starts: Tensor) -> list[Tensor]:
        """The states for other tokens, copied out."""
        tokens = 0
        for place, one in self.room:
            given = told[place]
            assert given is not None
            tokens = len(given)
            one[:tokens] = given
        self.starts[: len(starts)] = starts
        self.native.replay(self.words, tokens=tokens, rows=len(starts) - 1)
        return [states[:tokens].clone() for states in self.states]


class _Watch(TorchFunctionMode):
    """Notes whether torch computes anything itself: a recording would miss it."""

    def __init__(self) -> None:
        super().__init__()
        self.others: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_view = func in VIEWS and _memory(result) == _memory(args[0])
        if isinstance(result, Tensor) and func not in MEMORY and not is_view:
            self.others.add(str(func))
        return result


MEMORY = {torch.empty, torch.empty_like, Tensor.new_empty, torch.ones, torch.zeros}
"""torch's calls that find memory, or fill it with what never changes."""
VIEWS = {Tensor.to, Tensor.contiguous, Tensor.__getitem__}
"""Those that compute nothing where their result is the memory that they were given, or a part of it."""


def _memory(of: Tensor) -> int:
    return of.untyped_storage().data_ptr()
