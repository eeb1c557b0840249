"""The calls for a few tokens on a graphics card, captured as a graph and started again by a single call.

A graph has fixed shapes, so tokens are filled up to one of few numbers by rows of one token each, and rows by
empty ones.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from polyseme import progress
from polyseme.runtime.replays import Read, Told

SIZES = (16, 32, 64, 128, 256, 512)
"""Numbers of tokens; with more, a card computes for longer than its kernels take to be started."""
_WARM = 3
"""Readings before the capture, in which libraries find their memory and choose their kernels."""
_APART = 0.02
"""How far a graph's states may be from those of the usual way, in parts of the largest."""


class Graphs:
    """Records by capturing what a network starts on the card; one at a time is captured or played."""

    sizes = SIZES

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._refused: set[tuple[int, ...]] = set()
        self._done: torch.cuda.Event | None = None

    def record(self, read: Read, told: Told, numbers: tuple[int, ...], size: int) -> "_GraphRecording | None":
        """Read rows of one token, which every network can. None for a network that waits for the card between
        its calls, which one size shows for all, and where the capture fails or gives other states; said."""
        if numbers in self._refused:
            return None
        here: dict[str, Any] = {"dtype": torch.int64, "device": self._device}
        room = [None if one is None else torch.zeros(size, **here) for one in told]
        starts = torch.arange(size + 1, **here)

        def run() -> list[Tensor]:
            return read(room, starts, numbers)

        with _WaitingCalls() as waiting:
            expected = run()
        if waiting.names:
            self._refused.add(numbers)
            return None
        try:
            graph, states = self._captured(run)
            graph.replay()
            apart = max(_apart(*pair) for pair in zip(states, expected, strict=True))
            problem = "" if apart <= _APART else f"are wrong by {apart:.2g} and not used"
        except RuntimeError as error:
            problem = f"cannot be captured ({(str(error).splitlines() or [type(error).__name__])[0]})"
        if problem:
            self._refused.add(numbers)
            progress.warn(f"graphs for short texts {problem} on {self._device}: they are read call by call")
            return None
        self._done = self._done or _event()
        return _GraphRecording(graph, room, starts, states, self._done)

    def _captured(self, run: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
        current, aside = torch.cuda.current_stream(self._device), _stream(self._device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(_WARM):
                run()
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on with the card meanwhile.
        way: dict[str, Any] = {"pool": self._pool, "stream": aside, "capture_error_mode": "thread_local"}
        with torch.cuda.device(self._device), torch.cuda.graph(graph, **way):
            states = run()
        self._pool = graph.pool()
        return graph, states


class _GraphRecording:
    """A graph with the places at which it reads its input and leaves its results.

    All graphs of a network share their memory, so `done` holds up whoever plays next, perhaps in another
    stream, until the results of the last one are copied out.
    """

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        room: Told,
        starts: Tensor,
        states: list[Tensor],
        done: torch.cuda.Event,
    ) -> None:
        self.graph, self.starts, self.states, self.done = graph, starts, states, done
        self.room = [(place, one) for place, one in enumerate(room) if one is not None]

    def play(self, told: Told, starts: Tensor) -> list[Tensor]:
        """The states for other tokens, copied out."""
        stream, tokens = torch.cuda.current_stream(self.starts.device), 0
        stream.wait_event(self.done)
        for place, one in self.room:
            given = told[place]
            assert given is not None
            tokens = len(given)
            one[:tokens] = given
        self.starts.copy_(filled_up(starts, len(self.starts) - 1))
        self.graph.replay()
        found = [states[:tokens].clone() for states in self.states]
        self.done.record(stream)
        return found


def filled_up(starts: Tensor, size: int) -> Tensor:
    """Starts of as many rows as `size` tokens can have: rows of one token behind those that are given, until
    all tokens have one, and then empty ones.

    >>> filled_up(torch.tensor([0, 2, 3]), 5).tolist()
    [0, 2, 3, 4, 5, 5]
    """
    behind = torch.arange(1, size + 2 - len(starts)) + starts[-1]
    return torch.cat((starts, behind.clamp(max=size)))


# torch gives these two no types.
_event: Callable[[], torch.cuda.Event] = torch.cuda.Event
_stream: Callable[[torch.device], torch.cuda.Stream] = torch.cuda.Stream


class _WaitingCalls(TorchFunctionMode):
    """Notes the calls that wait for the card to tell a number: what follows would depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _TELLING:
            self.names.add(str(func))
        return func(*args, **(kwargs or {}))


_TELLING = {
    *(Tensor.tolist, Tensor.item, Tensor.__int__, Tensor.__bool__, Tensor.__float__, Tensor.__index__),
    *(Tensor.cpu, Tensor.numpy, Tensor.nonzero, torch.nonzero, torch.unique_consecutive),
}
"""Calls whose result, or its shape, is known only when the card has computed it."""


def _apart(found: Tensor, expected: Tensor) -> float:
    difference = (found.float() - expected.float()).abs().max()
    return float(difference / expected.float().abs().max().clamp(min=1e-6))
