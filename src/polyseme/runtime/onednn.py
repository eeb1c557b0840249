"""Linear maps by oneDNN with weights prepared once, for machines without a compiler.

The operators behind them are torch's private ones and may change with any version. Each is tried once on a
small product; where one is missing or answers wrongly, that is said once and torch's public calls are used.
oneDNN makes a kernel for each number of tokens that it meets, and keeps the last thousand or so.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from polyseme import progress
from polyseme.devices import processor
from polyseme.runtime.choice import kernel_choice
from polyseme.runtime.states import (
    PLAIN,
    Precision,
    Quantised,
    Ready,
    as_plain,
    making_ready,
    quantise,
    quantise_rows,
)

BENDS: dict[str, tuple[str, str]] = {
    "none": ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "tanh": ("tanh", ""),
}
"""The activations as oneDNN's operators name them: kind and algorithm."""


class FloatLinear:
    """The activation in the same pass over the result."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, precision: Precision, *, activation: str = "none"
    ) -> None:
        self.dtype = PLAIN[precision]
        self.weight = torch.ops.mkldnn._reorder_linear_weight(
            weight.detach().to(self.dtype).contiguous(), None
        )
        self.bias = None if bias is None else bias.detach().to(self.dtype)
        self.kind, self.algorithm = BENDS[activation]

    def __call__(self, states: Ready) -> Tensor:
        assert isinstance(states, Tensor)
        states = states.to(self.dtype).contiguous()
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self.weight, self.bias, self.kind, [], self.algorithm
        )
        return result


class ByteLinear:
    """oneDNN knows one scale for all tokens, so it only adds up; scales, bias and activation come after."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        bend: Any,
        *,
        makes_ready: bool = False,
    ) -> None:
        numbers, self.scales = quantise_rows(weight)
        self.sums = numbers.sum(dim=1)
        self.weight = torch.ops.onednn.qlinear_prepack(numbers.to(torch.int8), None)
        self.ones = torch.ones(len(numbers))
        self.zeros = torch.zeros(len(numbers), dtype=torch.int64)
        self.bias = None if bias is None else bias.detach().float()
        self.bend, self.dtype = bend, PLAIN["int8"]
        self.ready = making_ready("int8", weight.device) if makes_ready else as_plain

    def __call__(self, states: Ready) -> Ready:
        ready = quantise(states) if isinstance(states, Tensor) else states
        sums = self._added_up(ready)
        product = sums.sub_(ready.zeros[:, None] * self.sums).mul_(ready.scales[:, None]).mul_(self.scales)
        if self.bias is not None:
            product += self.bias
        return self.ready(self.bend(product).to(self.dtype))

    def _added_up(self, ready: Quantised) -> Tensor:
        weight = (self.weight, self.ones, self.zeros)
        sums: Tensor = torch.ops.onednn.qlinear_pointwise(
            ready.values, 1.0, 0, *weight, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return sums


@functools.cache
def works(precision: Precision) -> bool:
    """Whether the operators of this precision are there and multiply a small matrix rightly."""
    if kernel_choice() == "torch":
        return False
    if precision == "int8" and not processor().has_byte_dot:
        return False  # Its sums of full bytes overflow.
    weight = torch.arange(-64.0, 64.0).view(4, 32) / 64
    states = torch.linspace(-1, 1, 3 * 32).view(3, 32)
    try:
        if precision == "int8":
            result = ByteLinear(weight, None, F.gelu)(states)
        else:
            result = FloatLinear(weight, None, precision, activation="gelu")(states)
    except (AttributeError, RuntimeError, TypeError) as error:
        progress.warn(f"oneDNN's {precision} products are not to be had here ({_first_line(error)})")
        return False
    assert isinstance(result, Tensor)
    apart = float((result.float() - F.gelu(states @ weight.T)).abs().max())
    if apart > {"fp32": 1e-4, "bf16": 0.1, "int8": 0.2}[precision]:
        progress.warn(f"oneDNN's {precision} products are wrong by {apart:.2g} here and are not used")
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
