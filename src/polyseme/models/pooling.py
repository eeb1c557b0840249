"""One vector for a text from the states of its tokens."""

from collections.abc import Callable

import torch
from torch import Tensor


def pool(hidden_states: Tensor, attention_mask: Tensor | None, how: str) -> Tensor:
    """`[batch, hidden_size]`, or twice as wide for `mean-max`; padding never counts, on either side.

    `first` and `last` are the first and last real token. A row without any real token gives zeros.
    """
    if how not in POOLINGS:
        raise ValueError(f"there is no pooling {how!r}; choose one of {', '.join(POOLINGS)}")
    if attention_mask is None:
        attention_mask = hidden_states.new_ones(hidden_states.shape[:2], dtype=torch.bool)
    return POOLINGS[how](hidden_states, attention_mask.bool())


def _first(hidden_states: Tensor, real: Tensor) -> Tensor:
    return _token(hidden_states, real, real.int().argmax(dim=1))


def _last(hidden_states: Tensor, real: Tensor) -> Tensor:
    return _token(hidden_states, real, real.size(1) - 1 - real.int().flip(1).argmax(dim=1))


def _mean(hidden_states: Tensor, real: Tensor) -> Tensor:
    total = hidden_states.masked_fill(~real[..., None], 0.0).sum(dim=1)
    return total / real.sum(dim=1, keepdim=True).clamp(min=1)


def _max(hidden_states: Tensor, real: Tensor) -> Tensor:
    highest = hidden_states.masked_fill(~real[..., None], float("-inf")).amax(dim=1)
    return highest.masked_fill(~real.any(dim=1, keepdim=True), 0.0)


def _mean_max(hidden_states: Tensor, real: Tensor) -> Tensor:
    return torch.cat((_mean(hidden_states, real), _max(hidden_states, real)), dim=-1)


def _token(hidden_states: Tensor, real: Tensor, index: Tensor) -> Tensor:
    chosen = hidden_states[torch.arange(len(index), device=index.device), index]
    return chosen.masked_fill(~real.any(dim=1, keepdim=True), 0.0)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "first": _first,
    "last": _last,
    "mean": _mean,
    "max": _max,
    "mean-max": _mean_max,
}
