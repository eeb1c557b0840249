"""Linear maps of packed states, weights prepared once, the activation in the same pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from polyseme.runtime import onednn
from polyseme.runtime.native.linears import NativeGate, NativeLinear
from polyseme.runtime.states import (
    PLAIN,
    Precision,
    Quantised,
    Ready,
    as_plain,
    kernels,
    making_ready,
    plain,
    quantise,
    quantise_rows,
)

Linear = Callable[[Ready], Ready]
Gate = Callable[[Tensor, Tensor], Ready]
"""Two plain states `[tokens, size]` multiplied, ready for the next linear where that was asked for."""

BENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda states: states,
    "gelu": F.gelu,
    "gelu_tanh": lambda states: F.gelu(states, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
"""The activations that a linear may end with."""


def linear(
    weight: Tensor,
    bias: Tensor | None,
    *,
    precision: Precision,
    activation: str = "none",
    makes_ready: bool = False,
) -> Linear:
    """`activation(states · weightᵀ + bias)`: ready states `[tokens, in]` to plain ones `[tokens, out]`.

    Plain states are float32 in `fp32` and bfloat16 in the other precisions. `makes_ready` says that the
    result goes straight into another linear of the same precision, as between the two halves of a
    feed-forward part: then it comes out ready for it. Safe to call from several threads.
    """
    native = kernels(weight.device)
    if native is not None and NativeLinear.can(native, weight, precision):
        return NativeLinear(native, weight, bias, precision, activation=activation, makes_ready=makes_ready)
    # Fixed and not measured: two engines differ in the last digits, and the same text has to give the same
    # bits in every run on a machine.
    if weight.device.type == "cpu" and onednn.works(precision):
        if precision == "int8":
            return onednn.ByteLinear(weight, bias, BENDS[activation], makes_ready=makes_ready)
        return onednn.FloatLinear(weight, bias, precision, activation=activation)
    return PortableLinear(weight, bias, precision=precision, activation=activation, makes_ready=makes_ready)


def gated_linear(
    weight: Tensor,
    bias: Tensor | None,
    gate_weight: Tensor,
    gate_bias: Tensor | None,
    *,
    precision: Precision,
    activation: str,
    makes_ready: bool = False,
) -> Linear:
    """`activation(states · weightᵀ + bias) · (states · gate_weightᵀ + gate_bias)`, of the same states."""
    native = kernels(weight.device)
    if native is None:
        ready = making_ready(precision, weight.device) if makes_ready else as_plain
        multiply: Gate = PortableGate(ready)
    else:
        multiply = NativeGate(native, makes_quantised=makes_ready and precision == "int8")
    return GatedLinear(
        linear(weight, bias, precision=precision, activation=activation),
        linear(gate_weight, gate_bias, precision=precision),
        multiply,
    )


class PortableLinear:
    """By torch's own calls, on any device; eight bits are multiplied as the whole numbers that they are."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        precision: Precision,
        activation: str = "none",
        makes_ready: bool = False,
    ) -> None:
        self.dtype = PLAIN[precision]
        self.bend = BENDS[activation]
        self.ready = making_ready(precision, weight.device) if makes_ready else as_plain
        self.is_int8 = precision == "int8"
        self.scales = torch.ones(1)
        if self.is_int8:
            weight, self.scales = quantise_rows(weight)
        self.weight = weight.detach().to(torch.float32 if self.is_int8 else self.dtype)
        self.bias = None if bias is None else bias.detach().to(self.weight.dtype)
        self.multiply = self._whole_numbers if self.is_int8 else self._floats

    def __call__(self, states: Ready) -> Ready:
        return self.ready(self.bend(self.multiply(states)))

    def _floats(self, states: Ready) -> Tensor:
        assert isinstance(states, Tensor)
        return F.linear(states.to(self.dtype), self.weight, self.bias)

    def _whole_numbers(self, states: Ready) -> Tensor:
        ready = quantise(states) if isinstance(states, Tensor) else states
        assert isinstance(ready, Quantised)
        sums = (ready.values.float() - ready.zeros[:, None]) @ self.weight.T
        product = sums * ready.scales[:, None] * self.scales
        return (product if self.bias is None else product + self.bias).to(self.dtype)


class GatedLinear:
    """Two linears of the same states, multiplied number by number."""

    def __init__(self, widen: Linear, gate: Linear, multiply: Gate) -> None:
        self.widen, self.gate, self.multiply = widen, gate, multiply

    def __call__(self, states: Ready) -> Ready:
        return self.multiply(plain(self.widen(states)), plain(self.gate(states)))


class PortableGate:
    """By torch's own calls, on any device."""

    def __init__(self, ready: Callable[[Tensor], Ready]) -> None:
        self.ready = ready

    def __call__(self, states: Tensor, gates: Tensor) -> Ready:
        return self.ready(states * gates)
