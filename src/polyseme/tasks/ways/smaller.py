"""A step in less memory with the same gradient: a batch in parts, and layers computed a second time."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from polyseme.models.batch import IGNORED, Batch

Split = Callable[[Batch], Sequence[tuple[Batch, float]]]


def whole(batch: Batch) -> Sequence[tuple[Batch, float]]:
    """The batch as it is."""
    return ((batch, 1.0),)


def parts_of(rows: int, *, together: int = 1, weights: Tensor | None = None) -> Split:
    """Cut a batch into parts of at most `rows` rows, `together` of which belong to each other.

    A loss is a mean over what is to be answered, so a part's share is how much of that it holds: rows,
    tokens with a label, or, with `weights`, the weights of their classes. The parts' gradients then sum up to
    the whole batch's.
    """
    size = max(1, rows // together) * together

    def split(batch: Batch) -> Sequence[tuple[Batch, float]]:
        count = len(batch.input_ids)
        if count <= size:
            return whole(batch)
        parts = [_rows(batch, slice(start, start + size)) for start in range(0, count, size)]
        amounts = [amount(part, weights) for part in parts]
        total = sum(amounts)
        return [(part, each / total) for part, each in zip(parts, amounts, strict=True) if each]

    return split


def amount(batch: Batch, weights: Tensor | None = None) -> float:
    """How much there is to answer in a batch."""
    labels = batch.token_labels if batch.token_labels is not None else batch.labels
    if labels is None or labels.is_floating_point():
        return float(len(batch.input_ids))
    answered = labels[labels != IGNORED]
    return float(len(answered)) if weights is None else float(weights.cpu()[answered].sum())


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


def _rows(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch, of every tensor that has one line a row."""
    count = len(batch.input_ids)
    cut: dict[str, Tensor] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == count:
            cut[field.name] = value[rows]
    return replace(batch, **cut)
