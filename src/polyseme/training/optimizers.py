"""Optimizers, built from settings: which parameters get which rule, rate and decay."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
import torch.nn as nn
from torch import Tensor


class OptimizerSettings(Protocol):
    """The fields of `TrainingSettings` that an optimizer reads."""

    @property
    def optimizer(self) -> str: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def matrix_learning_rate(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def epsilon(self) -> float: ...
    @property
    def bias_correction(self) -> bool: ...
    @property
    def weight_decay(self) -> float: ...


class AdamW(torch.optim.AdamW):
    """Torch's AdamW, with the bias correction made optional.

    Without it (as in BERT's published code) the update is lr·(m / (√v + ε) + decay·w). Torch always
    corrects, so the rate, ε and decay are set for each step such that the corrections cancel.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, bias_correction: bool = True, **options: Any
    ) -> None:
        super().__init__(groups, **options)
        self.bias_correction = bias_correction

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update of all groups."""
        if self.bias_correction:
            return super().step(closure)
        wanted = [(group["lr"], group["eps"], group["weight_decay"]) for group in self.param_groups]
        for group in self.param_groups:
            first, second = group["betas"]
            done = next((int(s["step"]) for p in group["params"] if (s := self.state.get(p))), 0) + 1
            root = (1 - second**done) ** 0.5
            factor = (1 - first**done) / root
            group["lr"] *= factor
            group["eps"] /= root
            group["weight_decay"] /= factor
        try:
            return super().step(closure)
        finally:
            for group, (rate, epsilon, decay) in zip(self.param_groups, wanted, strict=True):
                group.update(lr=rate, eps=epsilon, weight_decay=decay)


class Optimizers:
    """One or several optimizers that step together; rates are their base rate times a factor."""

    def __init__(self, members: list[torch.optim.Optimizer]) -> None:
        self.members = members
        for member in members:
            for group in member.param_groups:
                group["base_lr"] = float(group["lr"])

    @property
    def parameters(self) -> list[Tensor]:
        return [p for member in self.members for group in member.param_groups for p in group["params"]]

    def step(self, *, factor: float) -> None:
        """Step all members with their rates times `factor`."""
        for member in self.members:
            for group in member.param_groups:
                group["lr"] = group["base_lr"] * factor
            member.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for member in self.members:
            member.zero_grad(set_to_none=True)


def decays(parameter: Tensor) -> bool:
    """Weight decay is for matrices and tables; biases and norms are left out."""
    return parameter.ndim >= 2


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Muon's share: matrices inside layers, not tables of embeddings nor the heads' output."""
    return parameter.ndim == 2 and ".layers." in f".{name}"


def build_optimizers(module: nn.Module, settings: OptimizerSettings) -> Optimizers:
    """The optimizers of all trainable parameters of `module`, as the settings say."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    return OPTIMIZERS[settings.optimizer](named, settings)


def _adamw(named: list[tuple[str, nn.Parameter]], settings: OptimizerSettings) -> Optimizers:
    groups = [
        {"params": [p for _, p in named if decays(p)], "weight_decay": settings.weight_decay},
        {"params": [p for _, p in named if not decays(p)], "weight_decay": 0.0},
    ]
    return Optimizers(
        [
            AdamW(
                [group for group in groups if group["params"]],
                bias_correction=settings.bias_correction,
                lr=settings.learning_rate,
                betas=settings.betas,
                eps=settings.epsilon,
                fused=True,
            )
        ]
    )


def _muon(named: list[tuple[str, nn.Parameter]], settings: OptimizerSettings) -> Optimizers:
    """Jordan et al. 2024, "Muon"; the update is scaled to AdamW's root mean square (Liu et al. 2025,
    "Muon is Scalable for LLM Training"), so that one weight decay fits both."""
    matrices = [p for name, p in named if is_matrix(name, p)]
    rest = [(name, p) for name, p in named if not is_matrix(name, p)]
    if not matrices:
        return _adamw(named, settings)
    muon = torch.optim.Muon(
        matrices,
        lr=settings.matrix_learning_rate,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return Optimizers([muon, *_adamw(rest, settings).members])


OPTIMIZERS: dict[str, Callable[[list[tuple[str, nn.Parameter]], OptimizerSettings], Optimizers]] = {
    "adamw": _adamw,
    "muon": _muon,
}
