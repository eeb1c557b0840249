"""Rows that are compared with each other: a batch's scores as one line a question."""

import torch
from torch import Tensor


def side_by_side_scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """A score a row to `[questions, choices]` of the best one of each choice, and how right each choice is.

    `labels` tells of each row whether a question begins with it, the number of its choice, and how right
    that is: `[rows, 3]`. Where a question has fewer choices than another one, scores are minus infinity.
    """
    question, choice = labels[:, 0].long().cumsum(dim=0) - 1, labels[:, 1].long()
    width = int(choice.max()) + 1
    shape = (int(question[-1]) + 1, width)
    place = question * width + choice
    scores = logits.new_full((shape[0] * width,), float("-inf"))
    scores = scores.scatter_reduce(0, place, logits, "amax", include_self=False)
    right = torch.zeros_like(scores).scatter(0, place, labels[:, 2].to(scores.dtype))
    return scores.view(shape), right.view(shape)
