"""Adversarial steps: the loss also counts where the tokens' vectors are moved to its disadvantage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from polyseme.errors import SettingsError
from polyseme.models.batch import Batch, Loss
from polyseme.tasks.task import TaskModule

_LEAST = 1e-12


class Adversarial(nn.Module):
    """The loss, and the loss at r = ε g / ‖g‖, where g is its gradient at the vectors of a text's tokens.

    Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised Text Classification", equations 5
    and 6: the fast gradient method, with a norm over each text's sequence of vectors and both losses with
    weight 1. The vectors are not normalised as there, for a pre-trained network knows them as they are. What
    is moved are the vectors on their way from the table, which itself is never touched.
    """

    def __init__(self, module: TaskModule, epsilon: float) -> None:
        super().__init__()
        self.module, self.epsilon = module, epsilon
        table = getattr(getattr(module.backbone, "embeddings", None), "tokens", None)
        if not isinstance(table, nn.Module):
            raise SettingsError(
                f"adversarial {epsilon} moves the tokens' vectors, and this network takes none from a table "
                "while it learns; set it to 0"
            )
        self.table = table

    def forward(self, batch: Batch) -> Loss:
        with self._watched() as seen:
            clean = self.module(batch)
        (gradient,) = torch.autograd.grad(clean.total, seen, retain_graph=True)
        norm = gradient.float().flatten(1).norm(dim=1).clamp(min=_LEAST)  # [batch]
        moves = (self.epsilon * gradient / norm.view(-1, 1, 1)).to(gradient.dtype)
        with self._moved(moves):
            attacked = self.module(batch)
        parts = {**clean.parts, "adversarial": attacked.total.detach()}
        return Loss(clean.total + attacked.total, parts, clean.predictions)

    @contextmanager
    def _watched(self) -> Iterator[list[Tensor]]:
        """The vectors that the table gives meanwhile, as places where a gradient arrives."""
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            seen.append(output if output.requires_grad else output.requires_grad_())
            return seen[-1]

        handle = self.table.register_forward_hook(keep)
        try:
            yield seen
        finally:
            handle.remove()

    @contextmanager
    def _moved(self, moves: Tensor) -> Iterator[None]:
        handle = self.table.register_forward_hook(lambda module, inputs, output: output + moves)
        try:
            yield
        finally:
            handle.remove()
