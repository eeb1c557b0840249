"""What passes between the parts of a compiled network: plain states, and states quantised for int8 products.

Rows stand one behind the other without padding: `[tokens, size]`, and `starts` `[rows + 1]` (int64) says
where each begins; the last number is the count of tokens.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16", "int8"]

PLAIN: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.bfloat16,
}
"""The type of plain states: what linears return and attention reads."""
RESIDUAL: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.bfloat16,
}
"""The type of the sum that runs through all layers."""
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


def as_plain(states: Tensor) -> Ready:
    """Plain states are ready as they are."""
    return states


READY = {"fp32": as_plain, "bf16": as_plain, "int8": quantise}
"""By precision, plain states of any type made ready for a linear."""
