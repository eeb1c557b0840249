"""The kernels for one short text, recorded on a tape and called again by a single call.

The kernels and their numbers are those of every other tile, so the bytes are the same too.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from polyseme.runtime.native.library import Library, Tape
from polyseme.runtime.replays import Read, Told

MOST = 64
"""Tokens for which memory is kept: all results of all layers, for all-MiniLM-L6-v2 in float32 7 MB."""


class Tapes:
    """Records the compiled kernels; tokens and rows are the only numbers of a call that change."""

    sizes = (MOST,)

    def __init__(self, native: Library) -> None:
        self._native = native

    def record(self, read: Read, told: Told, numbers: tuple[int, ...], size: int) -> "_TapeRecording | None":
        """Read rows of one token, which every network can; None if anything but kernels computed."""
        room = [None if one is None else torch.zeros(size, dtype=torch.int64) for one in told]
        starts = torch.arange(size + 1)
        tape, watch = Tape(), _Watch()
        with self._native.recording(tape), watch:
            states = read(room, starts, numbers)
        return None if watch.others else _TapeRecording(self._native, tape, room, starts, states)


class _TapeRecording:
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
