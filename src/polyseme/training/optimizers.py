"""Optimizers, built from settings: which parameters get which rule, rate and decay."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from polyseme.devices import has_bf16
from polyseme.training.adafactor import Adafactor
from polyseme.training.adamw import AdamW
from polyseme.training.lamb import Lamb
from polyseme.training.muon import Float32Muon
from polyseme.training.settings import TrainingSettings

Named = list[tuple[str, nn.Parameter]]


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
        for parameter in self.parameters:  # the members' own call would load torch's compiler
            parameter.grad = None


def decays(parameter: Tensor) -> bool:
    """Weight decay is for matrices and tables; biases and norms are left out."""
    return parameter.ndim >= 2


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Muon's share: matrices inside layers, not tables of embeddings, biases, nor the heads' output."""
    return parameter.ndim == 2 and ".layers." in f".{name}" and ".biases." not in name


def build_optimizers(module: nn.Module, settings: TrainingSettings) -> Optimizers:
    """The optimizers of all trainable parameters of `module`, as the settings say."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    return Optimizers(OPTIMIZERS[settings.optimizer](named, settings))


def _groups(named: Named, settings: TrainingSettings) -> list[dict[str, Any]]:
    """What decays, and what does not."""
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in named if decays(p)], "weight_decay": settings.weight_decay},
        {"params": [p for _, p in named if not decays(p)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adamw(named: Named, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    return [
        AdamW(
            _groups(named, settings),
            bias_correction=settings.bias_correction,
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
            fused=True,
        )
    ]


def _muon(named: Named, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """Jordan et al. 2024, "Muon"; the update is scaled to AdamW's root mean square (Liu et al. 2025,
    "Muon is Scalable for LLM Training"), so that one weight decay fits both."""
    matrices = [p for name, p in named if is_matrix(name, p)]
    rest = [(name, p) for name, p in named if not is_matrix(name, p)]
    if not matrices:
        return _adamw(named, settings)
    lr, decay = settings.matrix_learning_rate, settings.weight_decay
    if has_bf16(matrices[0].device):
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    else:
        muon = Float32Muon(matrices, lr=lr, weight_decay=decay)
    return [muon, *_adamw(rest, settings)]


def _lamb(named: Named, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """What does not decay is not scaled to its weights' size either."""
    groups = [{**group, "adapts": decays(group["params"][0])} for group in _groups(named, settings)]
    return [
        Lamb(
            groups,
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
            bias_correction=settings.bias_correction is True,
        )
    ]


def _adafactor(named: Named, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    return [Adafactor(_groups(named, settings), lr=settings.learning_rate, settings=settings.adafactor)]


def _adagrad(named: Named, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """Duchi et al. 2011; with its accumulator begun above 0 as TensorFlow has it."""
    return [
        torch.optim.Adagrad(
            _groups(named, settings),
            lr=settings.learning_rate,
            eps=settings.epsilon,
            initial_accumulator_value=settings.initial_accumulator,
        )
    ]


def _sgd(named: Named, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(_groups(named, settings), lr=settings.learning_rate)]


OPTIMIZERS: dict[str, Callable[[Named, TrainingSettings], list[torch.optim.Optimizer]]] = {
    "adafactor": _adafactor,
    "adagrad": _adagrad,
    "adamw": _adamw,
    "lamb": _lamb,
    "muon": _muon,
    "sgd": _sgd,
}
