"""Phases of a run: which weights learn at which rates, and which rest."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyseme.errors import SettingsError
from polyseme.models.transformer.used_rows import UsedRows
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.task import TaskModule
from polyseme.training.adamw import AdamW
from polyseme.training.optimizers import Optimizers, decays

HEAD_RATE = 1e-3
"""Of what is new while the rest of the network rests."""
_LAYER = re.compile(r"backbone\.layers\.(\d+)\.")
_BOTTOM = ("backbone.embeddings.", "backbone.projection.")


@dataclass(frozen=True)
class Phase:
    """A part of a run with an optimizer and a schedule of its own."""

    name: str
    """As the journal says it."""
    rates: dict[str, float]
    """Of each parameter by its name; what has the rate 0 rests."""
    epochs: int
    patience: int | None = None
    """End it after so many epochs without a better score on dev."""
    restores: bool = False
    """Whether the next phase begins with the best weights so far instead of the last ones."""


def depths(names: Iterable[str], *, fresh: Collection[str] = ()) -> dict[str, int]:
    """How high each parameter stands: 0 the embeddings, then the layers, last the head and all that is new.

    What belongs to no layer (a last norm, a pooler) counts to the highest one.
    """
    names = list(names)
    layers = [int(found.group(1)) for name in names if (found := _LAYER.match(name))]
    top = max(layers, default=-1) + 2

    def depth(name: str) -> int:
        if name in fresh or not name.startswith("backbone."):
            return top
        if name.startswith(_BOTTOM):
            return 0
        found = _LAYER.match(name)
        return int(found.group(1)) + 1 if found else top - 1

    return {name: depth(name) for name in names}


def joint_rates(depth_of: dict[str, int], settings: FinetuneSettings) -> dict[str, float]:
    """Every parameter's rate where all learn together.

    With `layer_decay` d the rate is η dⁿ, n layers below the head: discriminative fine-tuning with
    d = 1/2.6 (Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification",
    section 3.2); layer-wise decay with d = 0.8 (Clark et al. 2020, ELECTRA, appendix B, whose code has one
    power more below the head).
    """
    rates, top = settings.rates, max(depth_of.values())
    own = {0: rates.embedding_learning_rate, top: rates.head_learning_rate}
    found: dict[str, float] = {}
    for name, depth in depth_of.items():
        rate = own.get(depth)
        found[name] = settings.learning_rate * rates.layer_decay ** (top - depth) if rate is None else rate
    return found


def from_depth(rates: dict[str, float], depth_of: dict[str, int], lowest: int) -> dict[str, float]:
    """The same rates, but what stands below `lowest` rests."""
    return {name: rate if depth_of[name] >= lowest else 0.0 for name, rate in rates.items()}


def optimizers(module: TaskModule, phase: Phase, settings: FinetuneSettings) -> Optimizers:
    """AdamW for what learns in this phase; the rest takes no gradient from now on."""
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        rate = phase.rates[name]
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            groups.setdefault((rate, decays(parameter)), []).append(parameter)
    if not groups:
        raise SettingsError("all learning rates are 0, so nothing would be trained; raise one")
    adamw = AdamW(
        [
            {"params": members, "lr": rate, "weight_decay": settings.weight_decay if decayed else 0.0}
            for (rate, decayed), members in groups.items()
        ],
        lr=settings.learning_rate,
        fused=True,
    )
    for part in cast(nn.Module, module).modules():
        if isinstance(part, UsedRows) and part.weight.requires_grad:
            adamw.register_step_post_hook(_shrinking_others(part))
    return Optimizers([adamw])


def _shrinking_others(table: UsedRows) -> Callable[..., None]:
    """What is done after each step for the rows that the optimizer does not see."""

    def shrink(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            if any(parameter is table.weight for parameter in group["params"]):
                table.shrink_others(rate=group["lr"], weight_decay=group["weight_decay"])

    return shrink


def set_mode(module: TaskModule) -> None:
    """Training mode, but for the parts of the backbone that rest as a whole: they drop nothing."""
    module.train()
    backbone = module.backbone
    if _rests(backbone):
        backbone.eval()
    for part in _parts(backbone):
        if _rests(part):
            part.eval()


def _parts(backbone: nn.Module) -> list[nn.Module]:
    children = dict(backbone.named_children())
    layers = children.pop("layers", nn.ModuleList())
    return [part for part in (*children.values(), *layers.children()) if any(True for _ in part.parameters())]


def _rests(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())
