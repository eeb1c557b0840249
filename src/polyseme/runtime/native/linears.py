"""Linear maps by the compiled kernels, which are made for no shape: any number of tokens goes alike."""

import torch
from torch import Tensor
from torch.nn import functional as F

from polyseme.runtime.native.library import TYPES, Library
from polyseme.runtime.states import (
    PLAIN,
    Precision,
    Quantised,
    Ready,
    empty_quantised,
    making_ready,
    quantise_rows,
)

BENDS = {"none": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "silu": 4, "tanh": 5}
"""The activations as the kernels count them."""
GROUPS = {"fp32": 1, "bf16": 2, "int8": 4}
"""Numbers of the depth that one instruction multiplies at once."""


class NativeLinear:
    """The weight lies in panels of so many columns as a tile has, filled up with zeros."""

    def __init__(
        self,
        native: Library,
        weight: Tensor,
        bias: Tensor | None,
        precision: Precision,
        *,
        activation: str = "none",
        makes_ready: bool = False,
    ) -> None:
        self.native, self.bend = native, BENDS[activation]
        self.columns, self.depth = weight.shape
        self.plain = PLAIN[precision]
        self.reads = torch.uint8 if precision == "int8" else self.plain
        self.ready = making_ready(precision, weight.device)
        self.makes_quantised = makes_ready and precision == "int8"
        numbers, scales = weight.detach(), None
        if precision == "int8":
            numbers, scales = quantise_rows(weight, native.pair_limit)
        fill = -self.columns % native.columns
        self.scales = None if scales is None else F.pad(scales, (0, fill))
        self.sums = None if scales is None else F.pad(numbers.sum(dim=1), (0, fill))
        self.bias = F.pad(
            numbers.new_zeros(self.columns) if bias is None else bias.detach(), (0, fill)
        ).float()
        stored = torch.int8 if precision == "int8" else self.plain
        self.panels = panels(F.pad(numbers.to(stored), (0, 0, 0, fill)), native.columns, GROUPS[precision])

    @staticmethod
    def can(native: Library, weight: Tensor, precision: Precision) -> bool:
        """Whether the kernels multiply in this precision, and matrices of this depth."""
        return weight.size(1) % GROUPS[precision] == 0 and multiplies(native, precision)

    def __call__(self, states: Ready) -> Ready:
        if self.reads == torch.uint8 and isinstance(states, Tensor):
            states = self.ready(states)
        if isinstance(states, Quantised):
            values, scales, zeros = states
        else:
            plain = states if states.dtype == self.reads else states.to(self.reads)
            values, scales, zeros = plain.contiguous(), None, None
        tokens = values.shape[0]
        out, out_scales, out_zeros = (
            empty_quantised(tokens, self.columns)
            if self.makes_quantised
            else (torch.empty((tokens, self.columns), dtype=self.plain), None, None)
        )
        self.native.call(
            "native_linear",
            *(TYPES[self.reads], tokens, self.depth, self.columns),
            *(values, scales, zeros),
            *(self.panels, self.scales, self.sums, self.bias, self.bend),
            *(out, TYPES[out.dtype], out_scales, out_zeros),
        )
        return out if out_scales is None or out_zeros is None else Quantised(out, out_scales, out_zeros)


class NativeGate:
    """Two states multiplied and, where asked, quantised, a token at a time."""

    def __init__(self, native: Library, *, makes_quantised: bool) -> None:
        self.native, self.makes_quantised = native, makes_quantised

    def __call__(self, states: Tensor, gates: Tensor) -> Ready:
        states, gates = states.contiguous(), gates.contiguous()
        out, scales, zeros = (
            empty_quantised(*states.shape) if self.makes_quantised else (torch.empty_like(states), None, None)
        )
        self.native.call(
            "native_gate",
            *states.shape,
            *(states, gates, TYPES[states.dtype]),
            *(out, TYPES[out.dtype], scales, zeros),
        )
        return out if scales is None or zeros is None else Quantised(out, scales, zeros)


def multiplies(native: Library | None, precision: Precision) -> bool:
    """Whether the kernels multiply in this precision: bfloat16 only where its dot products are quick."""
    return native is not None and (precision != "bf16" or native.has_bf16)


def panels(weight: Tensor, columns: int, group: int) -> Tensor:
    """`[out, in]` to `[out / columns, in / group, columns, group]`."""
    split = weight.view(len(weight) // columns, columns, weight.size(1) // group, group)
    return split.permute(0, 2, 1, 3).contiguous()
