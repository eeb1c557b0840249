"""The residual sum and its norm in one pass over memory, and where needed the quantising after it."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from polyseme.runtime.native.norms import NativeNorm
from polyseme.runtime.states import PLAIN, RESIDUAL, Normed, Precision, kernels, making_ready

Norm = Callable[[Tensor, Tensor | None], Normed]
"""The residual and what is added to it (None: nothing), both plain or residual states."""


def norm(
    kind: Literal["layer", "rms", "none"],
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    position: Literal["after", "before"],
    precision: Precision,
    device: torch.device | None = None,
) -> Norm:
    """`norm(residual, added)` in one pass, for both places that a norm may have.

    `after`: the residual handed on is the norm of the sum, and so is what is ready. `before`: the residual
    handed on is the sum itself, and what is ready is its norm. Sums and norms are computed in float32
    whatever the precision. A weight of None is all ones, a bias of None all zeros. The device is the
    one given, or the weight's, or else the processor.
    """
    device = device or (torch.device("cpu") if weight is None else weight.device)
    native = kernels(device)
    if native is None:
        return PortableNorm(
            kind, weight, bias, eps=eps, position=position, precision=precision, device=device
        )
    return NativeNorm(native, kind, weight, bias, eps=eps, position=position, precision=precision)


class PortableNorm:
    """By torch's own calls, on any device."""

    def __init__(
        self,
        kind: Literal["layer", "rms", "none"],
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        eps: float,
        position: Literal["after", "before"],
        precision: Precision,
        device: torch.device,
    ) -> None:
        self.weight = None if weight is None else weight.detach().float()
        self.bias = None if bias is None else bias.detach().float()
        self.eps = eps
        self.normalise = {"layer": self._layer, "rms": self._rms, "none": self._none}[kind]
        self.keeps_norm = position == "after"
        self.plain, self.kept = PLAIN[precision], RESIDUAL[position][precision]
        self.ready = making_ready(precision, device)

    def __call__(self, residual: Tensor, added: Tensor | None) -> Normed:
        total = residual.float() if added is None else residual.float() + added.float()
        normed = self.normalise(total)
        kept = (normed if self.keeps_norm else total).to(self.kept)
        return Normed(kept, self.ready(normed.to(self.plain)))

    def _layer(self, total: Tensor) -> Tensor:
        return F.layer_norm(total, total.shape[-1:], self.weight, self.bias, self.eps)

    def _rms(self, total: Tensor) -> Tensor:
        scaled = total * torch.rsqrt(total.square().mean(dim=-1, keepdim=True) + self.eps)
        return scaled if self.weight is None else scaled * self.weight

    def _none(self, total: Tensor) -> Tensor:
        return total
