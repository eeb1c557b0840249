"""Sum, norm and quantising by the compiled kernels, a token at a time while it is in the nearest cache."""

from typing import Literal

import torch
from torch import Tensor

from polyseme.runtime.native.library import TYPES, Library
from polyseme.runtime.states import PLAIN, RESIDUAL, Normed, Precision, Quantised, Ready, empty_quantised

KINDS = {"none": 0, "layer": 1, "rms": 2}
"""The norms as the kernels count them."""


class NativeNorm:
    """What is kept and what is ready are one tensor where they are the same numbers of the same type."""

    def __init__(
        self,
        native: Library,
        kind: str,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        eps: float,
        position: Literal["after", "before"],
        precision: Precision,
    ) -> None:
        self.native, self.kind, self.eps = native, KINDS[kind], eps
        self.keeps_norm = position == "after"
        self.weight = None if weight is None else weight.detach().float().contiguous()
        self.bias = None if bias is None else bias.detach().float().contiguous()
        self.kept = RESIDUAL[position][precision]
        self.makes = torch.uint8 if precision == "int8" else PLAIN[precision]
        self.is_one = self.makes == self.kept and (self.keeps_norm or kind == "none")

    def __call__(self, residual: Tensor, added: Tensor | None) -> Normed:
        residual = residual.contiguous()
        added = None if added is None else added.contiguous()
        return self.run(
            "native_norm",
            *residual.shape,
            *(residual, TYPES[residual.dtype]),
            *(added, TYPES[residual.dtype if added is None else added.dtype]),
        )

    def run(self, name: str, tokens: int, size: int, *arguments: int | Tensor | None) -> Normed:
        """The kernel `name` with its own arguments first and those of every norm behind them."""
        weight = torch.ones(size) if self.weight is None else self.weight
        bias = torch.zeros(size) if self.bias is None else self.bias
        kept = torch.empty((tokens, size), dtype=self.kept)
        ready: Ready | None = None
        if not self.is_one and self.makes == torch.uint8:
            ready = empty_quantised(tokens, size)
        elif not self.is_one:
            ready = torch.empty((tokens, size), dtype=self.makes)
        values, scales, zeros = ready if isinstance(ready, Quantised) else (ready, None, None)
        self.native.call(
            name,
            *(tokens, size, *arguments),
            *(self.kind, weight, bias, self.eps, int(self.keeps_norm)),
            *(kept, TYPES[self.kept], values, TYPES[self.makes], scales, zeros),
        )
        return Normed(kept, kept if ready is None else ready)
