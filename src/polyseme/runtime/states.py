"""What passes between the parts of a compiled network: plain states, and states quantised for int8 products.

Rows stand one behind the other without padding: `[tokens, size]`, and `starts` `[rows + 1]` (int64) says
where each begins; the last number is the count of tokens.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from polyseme.runtime.native.library import TYPES, Library, library

Precision = Literal["fp32", "bf16", "int8"]

PLAIN: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.bfloat16,
}
"""The type of plain states: what linears return and attention reads."""
RESIDUAL: dict[Literal["after", "before"], dict[Precision, torch.dtype]] = {
    "after": PLAIN,
    "before": dict.fromkeys(PLAIN, torch.float32),
}
"""The type of the sum that runs through all layers, by where the norms stand: where none of them brings it
back to its size, a short float would lose what the last layers add."""
LEVELS = 255
"""Steps between a token's lowest and highest number."""


class Quantised(NamedTuple):
    """A token's number is `(values − zeros) · scales`: eight bits, with a scale and a zero for each token."""

    values: Tensor
    """uint8, `[tokens, size]`."""
    scales: Tensor
    """float32, `[tokens]`."""
    zeros: Tensor
    """int32, `[tokens]`: which value means 0, so that padding and true zeros stay exact."""

    def plain(self) -> Tensor:
        """The numbers that the eight bits stand for, in float32."""
        return (self.values.float() - self.zeros[:, None]) * self.scales[:, None]


Ready = Tensor | Quantised
"""What a linear of the same precision takes: opaque to everything between the parts of this room."""


class Normed(NamedTuple):
    """What one sublayer leaves for the next."""

    residual: Tensor
    """What the next sublayer's output is added to, `[tokens, hidden_size]`."""
    ready: Ready
    """What the next linear takes."""


def quantise(states: Tensor) -> Quantised:
    """Each token by itself to eight bits, between its lowest and highest number; 0 stays exactly 0."""
    states = states.float()
    lowest = states.amin(dim=-1).clamp(max=0.0)
    highest = states.amax(dim=-1).clamp(min=0.0)
    # The smallest normal number instead of 0, for tokens that are zero everywhere.
    scales = ((highest - lowest) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    zeros = torch.round(-lowest / scales)
    values = torch.round(states / scales[:, None]).add_(zeros[:, None]).clamp_(0, LEVELS)
    return Quantised(values.to(torch.uint8), scales, zeros.to(torch.int32))


def quantise_rows(weight: Tensor, pair_limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Each row of a weight `[out, in]` to whole numbers of at most 127 (float32), and a scale for each row.

    With `pair_limit`, for processors that add two products before they widen the sum, numbers 2i and 2i + 1
    of a row come to at most that together where their signs are equal; a row's scale is larger only where
    its own pairs ask for it. `in` must be even then.
    """
    weight = weight.detach().float()
    steps = weight.abs().amax(dim=1) / 127
    if pair_limit is not None:
        # Of one sign together, or the larger alone: neither product may leave the sixteen bits.
        pairs = weight.reshape(len(weight), -1, 2)
        together = torch.maximum(pairs.clamp(min=0).sum(dim=-1), -pairs.clamp(max=0).sum(dim=-1)).amax(dim=1)
        # A hair less than the limit: two halves that are both rounded up would else pass it.
        steps = torch.maximum(steps, together / (pair_limit - 2**-8))
    scales = steps.clamp(min=torch.finfo(torch.float32).tiny)
    return torch.round(weight / scales[:, None]), scales


def as_plain(states: Tensor) -> Ready:
    """Plain states are ready as they are."""
    return states


def plain(states: Ready) -> Tensor:
    """States that are known not to be quantised."""
    assert isinstance(states, Tensor)
    return states


def kernels(device: torch.device) -> Library | None:
    """The compiled kernels where they can work for tensors of this device."""
    return library() if device.type == "cpu" else None


class NativeQuantise:
    """`quantise` by the compiled kernels."""

    def __init__(self, native: Library) -> None:
        self.native = native

    def __call__(self, states: Tensor) -> Quantised:
        states = (states if states.dtype in (torch.float32, torch.bfloat16) else states.float()).contiguous()
        ready = empty_quantised(*states.shape)
        self.native.call("native_quantise", *states.shape, states, TYPES[states.dtype], *ready)
        return ready


def empty_quantised(tokens: int, size: int) -> Quantised:
    """Room for quantised states in the processor's memory."""
    return Quantised(
        torch.empty((tokens, size), dtype=torch.uint8),
        torch.empty(tokens, dtype=torch.float32),
        torch.empty(tokens, dtype=torch.int32),
    )


def making_ready(precision: Precision, device: torch.device) -> Callable[[Tensor], Ready]:
    """What makes plain states of any float type ready for linears of this precision on this device."""
    native = kernels(device)
    if precision != "int8":
        return as_plain
    return quantise if native is None else NativeQuantise(native)
