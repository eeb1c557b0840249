"""Muon where the processor multiplies bfloat16 no faster than float32."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SCALE = 0.2
"""Of AdamW's updates, their usual root mean square (Liu et al. 2025, section 2.2)."""


class Float32Muon(torch.optim.Muon):
    """Torch's Muon with `adjust_lr_fn="match_rms_adamw"`, its products in float32 instead of bfloat16.

    Without instructions for bfloat16, torch multiplies it number by number: a step took ten times as long
    as all that came before it. The saved states of both are the same.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update of all matrices that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices: list[Tensor] = []
            gradients: list[Tensor] = []
            averages: list[Tensor] = []
            self._init_group(group, matrices, gradients, averages)
            for matrix, gradient, average in zip(matrices, gradients, averages, strict=True):
                average.lerp_(gradient, 1 - group["momentum"])
                update = orthogonalized(
                    gradient.lerp(average, group["momentum"]) if group["nesterov"] else average,
                    coefficients=group["ns_coefficients"],
                    steps=group["ns_steps"],
                    eps=group["eps"],
                )
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * SCALE * math.sqrt(max(matrix.shape)))
        return loss


def orthogonalized(
    matrix: Tensor, *, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """The matrix with its singular values brought near 1, by Newton and Schulz's iteration of degree five."""
    is_tall = matrix.size(0) > matrix.size(1)
    result = matrix.T if is_tall else matrix
    result = result / result.norm().clamp(min=eps)
    a, b, c = coefficients
    for _ in range(steps):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result.T if is_tall else result
