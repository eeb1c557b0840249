"""The two halves of every objective: what the loader does, and what the device does."""

from typing import Protocol

import torch.nn as nn

from polyseme.models.batch import Batch, Loss, States
from polyseme.objectives.rows import Arrays, Rows
from polyseme.objectives.samples import Integers, Samples
from polyseme.seeding import RowGenerator
from polyseme.text.store import Store


class Corruption(Protocol):
    """The loader's half: frozen, picklable, NumPy only."""

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """The epoch's samples, made of the given documents of the store."""

    def chance_epoch(self, epoch: int) -> int:
        """The epoch whose chance is drawn in `epoch`: another one where corruption is static and repeats."""

    def __call__(self, rows: Rows, rng: RowGenerator) -> Arrays:
        """What the model reads and what it is to predict; chance comes from `rng`, a stream a row."""


class Objective(nn.Module):
    """The device's half: heads and loss. Owns its heads; borrows the backbone."""

    stored: tuple[str, ...] | None = None
    """Heads of a model folder that it can go on with. None: the one of the objective's own name."""
    corruption: Corruption
    heads: nn.ModuleDict
    """By the names under which checkpoints know them."""
    vocabulary: str | None = None
    """The part of the loss that is a cross-entropy over the vocabulary, where there is one: what word
    frequencies alone would score can be said of it."""

    def forward(self, backbone: nn.Module, batch: Batch) -> Loss:
        """The loss of one pass of the backbone over the batch."""
        return self.loss(backbone, backbone(batch), batch)

    def loss(self, backbone: nn.Module, states: States, batch: Batch) -> Loss:
        """The loss from states that are already there, so that objectives can share a pass."""
        raise NotImplementedError
