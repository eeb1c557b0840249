"""A step in less memory with the same gradient: a batch in parts, and layers computed a second time."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from polyseme.models.batch import IGNORED, Batch
from polyseme.tasks.task import Row


def in_parts(
    rows: Sequence[Row], size: int, collated: Callable[[Sequence[Row]], Batch], *, weights: Tensor | None
) -> list[tuple[Batch, float]]:
    """A batch of rows as batches of at most `size` of them, each with its share of the whole loss.

    A loss is a mean over what is to be answered, so a part's share is how much of that it holds: tokens with
    a label where tokens have labels, else rows, or with `weights` the weights of their classes. The parts'
    gradients then sum up to the whole batch's; where a loss is a sum of means over different things, only
    nearly so.
    """
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    amounts = [amount(part, weights) for part in parts]
    total = sum(amounts)
    if len(parts) == 1 or not total:
        return [(collated(rows), 1.0)]
    return [(collated(part), each / total) for part, each in zip(parts, amounts, strict=True) if each]


def amount(rows: Sequence[Row], weights: Tensor | None = None) -> float:
    """How much there is to answer in the rows."""
    return sum(_amount(row, weights) for row in rows)


def _amount(row: Row, weights: Tensor | None) -> float:
    if row.token_labels is None and (weights is None or row.label is None or row.label.ndim):
        return 1.0
    labels = np.atleast_1d(row.label if row.token_labels is None else row.token_labels)  # type: ignore[arg-type]
    answered = labels[labels != IGNORED]
    return float(len(answered)) if weights is None else float(weights.numpy()[answered].sum())


def compute_twice(backbone: nn.Module) -> None:
    """Let each layer keep its input only, and compute the rest again on the way back.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; dropout draws the same numbers twice.
    """
    for layer in _layers(backbone):
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def can_compute_twice(backbone: nn.Module) -> bool:
    """Whether the network is a stack of layers."""
    return bool(_layers(backbone))


def _layers(backbone: nn.Module) -> list[nn.Module]:
    layers = getattr(backbone, "layers", None)
    return list(layers) if isinstance(layers, nn.ModuleList) else []
