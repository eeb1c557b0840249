"""AdamW, with the corrections of its averages as the published systems have them."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch

_add_group: Callable[..., None] = inspect.unwrap(torch.optim.Optimizer.add_param_group)
_update: Callable[..., Any] = inspect.unwrap(torch.optim.Adam.step)
"""Torch's own code without the wrappers that keep its compiler away, and load it for that: a second or two
at the start of every run."""

Correction = bool | Literal["rate"]


class AdamW(torch.optim.AdamW):
    """Torch's AdamW (Loshchilov and Hutter 2019, algorithm 2), with two more ways to correct.

    With c₁ = 1 − β₁ᵗ and c₂ = 1 − β₂ᵗ, `bias_correction` says what a step takes off a weight w:

    - True: rate · (m/c₁ / (√(v/c₂) + ε) + decay · w), as torch has it;
    - "rate": rate · √c₂/c₁ · (m / (√v + ε) + decay · w), the short form of Kingma and Ba 2015 (end of
      section 2), as in GPT's published code, where the correction takes the decay along;
    - False: rate · (m / (√v + ε) + decay · w), as in BERT's published code.

    Torch always does the first, so rate, ε and decay are set for each step such that it comes to the others.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, bias_correction: Correction = True, **options: Any
    ) -> None:
        super().__init__(groups, **options)
        self.bias_correction = bias_correction

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """One more group of parameters, with options of its own."""
        _add_group(self, param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update of all groups."""
        if self.bias_correction is True:
            return _update(self, closure)
        wanted = [(group["lr"], group["eps"], group["weight_decay"]) for group in self.param_groups]
        for group in self.param_groups:
            first, second = group["betas"]
            done = next((int(s["step"]) for p in group["params"] if (s := self.state.get(p))), 0) + 1
            root = (1 - second**done) ** 0.5
            factor = (1 - first**done) / root
            group["eps"] /= root
            group["weight_decay"] /= factor
            if not self.bias_correction:
                group["lr"] *= factor
        try:
            return _update(self, closure)
        finally:
            for group, (rate, epsilon, decay) in zip(self.param_groups, wanted, strict=True):
                group.update(lr=rate, eps=epsilon, weight_decay=decay)
