"""Adafactor: Adam's second moments, of which a matrix keeps one average a row and one a column."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from polyseme.training.settings import AdafactorSettings

_SQUARE_FLOOR = 1e-30
"""ε₁ of the paper: keeps the square of a gradient above 0."""


class Adafactor(torch.optim.Optimizer):
    """Shazeer and Stern 2018, "Adafactor", algorithms 4 and 5, without a first moment; T5's optimizer.

    Per parameter w with gradient g, at step t: V ← β V + (1 − β)(g² + ε₁) with β = 1 − t^(−exponent), for a
    matrix as the outer product of its rows' and columns' averages; the update g/√V is scaled down where its
    root mean square exceeds the threshold; w loses it times rate · max(ε₂, rms(w)), and rate · decay · w.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, settings: AdafactorSettings) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.settings = settings

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all groups."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if (gradient := parameter.grad) is not None:
                    update = gradient * self._inverse_root(parameter, gradient)
                    if self.settings.clipping_threshold is not None:
                        update.div_((rms(update) / self.settings.clipping_threshold).clamp_(min=1.0))
                    if self.settings.parameter_scaling:
                        update.mul_(rms(parameter).clamp_(min=self.settings.least_scale))
                    update.add_(parameter, alpha=group["weight_decay"])
                    parameter.sub_(update, alpha=group["lr"])

    def _inverse_root(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """1/√V, its averages brought up to date."""
        state = self.state[parameter]
        factored = parameter.ndim == 2 and min(parameter.shape) >= self.settings.least_factored
        if not state:
            state["step"] = torch.zeros(())
            if factored:
                state["rows"], state["columns"] = (
                    torch.zeros_like(parameter[:, 0]),
                    torch.zeros_like(parameter[0]),
                )
            else:
                state["squares"] = torch.zeros_like(parameter)
        state["step"] += 1
        share = float(state["step"]) ** -self.settings.exponent  # 1 − β
        squares = gradient.square().add_(_SQUARE_FLOOR)
        if not factored:
            whole: Tensor = state["squares"].lerp_(squares, share)
            return whole.rsqrt()
        rows: Tensor = state["rows"].lerp_(squares.mean(dim=1), share)
        columns: Tensor = state["columns"].lerp_(squares.mean(dim=0), share)
        return torch.outer((rows / rows.mean()).rsqrt(), columns.rsqrt())


def rms(values: Tensor) -> Tensor:
    """The root of the mean square."""
    return values.square().mean().sqrt()
