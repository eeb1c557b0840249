"""One vector for each packed row, from the states of its tokens."""

import torch
from torch import Tensor

from polyseme.runtime.native.library import TYPES
from polyseme.runtime.states import kernels


def pool_rows(states: Tensor, starts: Tensor, how: str) -> Tensor:
    """`[rows, size]` in float32, or twice as wide for `mean-max`; a row of 0 tokens gives zeros.

    The ways are those of `models.pooling`, without padding.
    """
    if how not in PACKED:
        raise ValueError(f"there is no pooling {how!r}; choose one of {', '.join(PACKED)}")
    return PACKED[how](states, starts)


def _first(states: Tensor, starts: Tensor) -> Tensor:
    return _token(states, starts, starts[:-1])


def _last(states: Tensor, starts: Tensor) -> Tensor:
    return _token(states, starts, starts[1:] - 1)


def _token(states: Tensor, starts: Tensor, places: Tensor) -> Tensor:
    empty = starts.diff() == 0
    chosen = (
        states[places.masked_fill(empty, 0)] if len(states) else states.new_zeros(len(places), states.size(1))
    )
    return chosen.float().masked_fill(empty[:, None], 0.0)


def _mean(states: Tensor, starts: Tensor) -> Tensor:
    native = kernels(states.device)
    if native is None or states.dtype not in (torch.float32, torch.bfloat16):
        return _portable_mean(states, starts)
    states, starts = states.contiguous(), starts.contiguous()
    rows, size = len(starts) - 1, states.size(1)
    means = torch.empty((rows, size))
    native.call("native_mean", rows, starts[:-1], starts[1:], size, states, TYPES[states.dtype], means)
    return means


def _portable_mean(states: Tensor, starts: Tensor) -> Tensor:
    lengths = starts.diff()
    total = states.new_zeros((len(lengths), states.size(1)), dtype=torch.float32)
    row = torch.repeat_interleave(lengths, output_size=len(states))
    total.index_add_(0, row, states.float())
    return total / lengths.clamp(min=1)[:, None]


def _max(states: Tensor, starts: Tensor) -> Tensor:
    lengths = starts.diff()
    highest = states.new_full((len(lengths), states.size(1)), float("-inf"), dtype=torch.float32)
    row = torch.repeat_interleave(lengths, output_size=len(states))
    highest.scatter_reduce_(0, row[:, None].expand_as(states), states.float(), "amax")
    return highest.masked_fill((lengths == 0)[:, None], 0.0)


def _mean_max(states: Tensor, starts: Tensor) -> Tensor:
    return torch.cat((_mean(states, starts), _max(states, starts)), dim=-1)


PACKED = {"first": _first, "last": _last, "mean": _mean, "max": _max, "mean-max": _mean_max}
"""By name: the same names as those of padded rows, which a test holds."""
