"""LAMB: Adam's update, scaled to the size of the weights that it changes."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Lamb(torch.optim.Optimizer):
    """You et al. 2020, "Large Batch Optimization for Deep Learning", algorithm 2, with φ the identity.

    Per parameter w: update = m / (√v + ε) + decay · w, and w loses rate · ‖w‖/‖update‖ · update. A group
    with `adapts` False takes its update as it is, which is how BERT-wwm and ALBERT treat norms and biases;
    so does a parameter whose norm, or whose update's, is 0. The averages m and v are corrected as in the
    paper with `bias_correction`, and left alone without it as in ALBERT's published code.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        bias_correction: bool,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "adapts": True})
        self.bias_correction = bias_correction

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all groups."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if (gradient := parameter.grad) is not None:
                    update = self._adam(parameter, gradient, group)
                    update.add_(parameter, alpha=group["weight_decay"])
                    if group["adapts"]:
                        update.mul_(trust_ratio(parameter, update))
                    parameter.sub_(update, alpha=group["lr"])

    def _adam(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """m / (√v + ε), its averages brought up to date."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["first"] = torch.zeros_like(parameter)
            state["second"] = torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        first: Tensor = state["first"].lerp_(gradient, 1 - beta1)
        second: Tensor = state["second"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if not self.bias_correction:
            return first.div(second.sqrt().add_(group["eps"]))
        done = int(state["step"])
        root = second.sqrt().div_((1 - beta2**done) ** 0.5).add_(group["eps"])
        return first.div(root).div_(1 - beta1**done)


def trust_ratio(parameter: Tensor, update: Tensor) -> Tensor:
    """‖parameter‖ / ‖update‖, and 1 where one of them is 0."""
    weight, change = parameter.norm(), update.norm()
    return torch.where((weight > 0) & (change > 0), weight / change, torch.ones_like(weight))
