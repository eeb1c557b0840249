"""The first states of packed tokens: token, place and segment, summed and normalised in one pass."""

from collections.abc import Callable

from torch import Tensor, int64

from polyseme.runtime.native.norms import NativeNorm
from polyseme.runtime.norms import Norm
from polyseme.runtime.states import Normed

FirstStates = Callable[[Tensor, Tensor | None, Tensor | None], Normed]
"""Ids, places and segments of the packed tokens, `[tokens]` each (int64), to the first states."""


def first_states(
    tokens: Tensor,
    places: Tensor | None,
    segments: Tensor | None,
    *,
    scale: float = 1.0,
    norm: Norm,
) -> FirstStates:
    """`norm(tokens[id] · scale + places[place] + segments[segment])` from tables `[rows, embedding_size]`.

    A table of None adds nothing. Where a table is given and its numbers are None, segments are all 0; places
    must be told.
    """
    if isinstance(norm, NativeNorm):
        return NativeFirstStates(tokens, places, segments, scale=scale, norm=norm)
    return PortableFirstStates(tokens, places, segments, scale=scale, norm=norm)


class PortableFirstStates:
    """By torch's own calls, on any device."""

    def __init__(
        self, tokens: Tensor, places: Tensor | None, segments: Tensor | None, *, scale: float, norm: Norm
    ) -> None:
        self.tokens = tokens.detach().float() * scale
        self.places = None if places is None else places.detach().float()
        self.segments = None if segments is None else segments.detach().float()
        self.norm = norm

    def __call__(self, ids: Tensor, places: Tensor | None, segments: Tensor | None) -> Normed:
        total = self.tokens[ids]
        if self.places is not None:
            assert places is not None
            total = total + self.places[places]
        if self.segments is not None:
            total = total + (self.segments[0] if segments is None else self.segments[segments])
        return self.norm(total, None)


class NativeFirstStates(PortableFirstStates):
    """By the compiled kernels, each token's rows summed where its norm is computed."""

    norm: NativeNorm

    def __call__(self, ids: Tensor, places: Tensor | None, segments: Tensor | None) -> Normed:
        numbers = [None if one is None else one.to(int64).contiguous() for one in (ids, places, segments)]
        return self.norm.run(
            "native_first_states",
            *(len(ids), self.tokens.size(1)),
            *(numbers[0], self.tokens, numbers[1], self.places, numbers[2], self.segments),
        )
