"""Cross-entropy over a whole vocabulary in one low-precision table of scores, which becomes its gradient."""

from typing import Any

import torch
from torch import Tensor

from polyseme.models.batch import IGNORED
from polyseme.models.precision import lowered

BLOCK = 2**19
"""Scores that are widened to float32 at a time: few enough to stay in a processor's cache."""


def sparse_cross_entropy(
    hidden: Tensor, table: Tensor, bias: Tensor | None, labels: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """The mean over the rows whose label is not `IGNORED` of -log softmax(hidden · tableᵀ + bias)[label].

    `hidden` is `[predictions, hidden_size]`, `table` `[vocab_size, hidden_size]`. Equal to
    `F.cross_entropy(F.linear(hidden, table, bias), labels)`, under autocast too, where the products are in
    the low precision and the exponentials in float32; without any label to predict it is 0. With label
    smoothing (Szegedy et al. 2016, section 7) that share of the truth is spread evenly over all tokens.
    """
    low, low_table = lowered(hidden), lowered(table)
    loss: Tensor = _CrossEntropy.apply(low, low_table, bias, labels, label_smoothing)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float
    ) -> Tensor:
        scores = hidden @ table.t()  # [predictions, vocab_size]
        wide = torch.promote_types(scores.dtype, torch.float32)
        counted = labels != IGNORED
        weights = counted.to(wide) / counted.sum().clamp(min=1)  # [predictions]
        losses = []
        rows = max(1, BLOCK // scores.size(1))
        blocks = torch.split(scores, rows), torch.split(labels.clamp(min=0), rows)
        for block, targets in zip(*blocks, strict=True):
            exact = block.to(wide) if bias is None else block.to(wide) + bias
            probabilities = exact.softmax(dim=-1)
            # The highest probability is 1 / Σ exp(score - highest), which is never far from 1.
            normaliser = exact.amax(dim=-1) - probabilities.amax(dim=-1).log()
            true = exact.gather(1, targets[:, None])[:, 0] * (1 - smoothing)
            if smoothing:
                true += exact.mean(dim=-1) * smoothing
                probabilities -= smoothing / exact.size(1)
            losses.append(normaliser - true)
            truth = torch.full_like(normaliser, smoothing - 1)
            block.copy_(probabilities.scatter_add_(1, targets[:, None], truth[:, None]))
        ctx.save_for_backward(hidden, table, bias, scores, weights)
        return torch.dot(torch.cat(losses), weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # `scores` now holds probabilities minus the truth; each row's weight goes to the smaller side.
        hidden, table, bias, scores, weights = ctx.saved_tensors
        weights = (weights * gradient)[:, None]
        of_hidden = (scores @ table) * weights
        of_table = scores.t() @ (hidden * weights).to(scores.dtype)
        of_bias = None
        if bias is not None:
            of_bias = (scores.t() @ weights.to(scores.dtype))[:, 0].to(bias.dtype)
        return of_hidden.to(hidden.dtype), of_table, of_bias, None, None
