"""The two halves of every objective: what the loader does, and what the device does."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch.nn as nn

from polyseme.models.batch import Batch, Loss, States
from polyseme.models.transformer.model import Transformer
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


@dataclass(frozen=True)
class Companion:
    """A network beside the backbone, with its heads by the names under which checkpoints know them."""

    backbone: Transformer
    heads: dict[str, nn.Module]


@dataclass(frozen=True)
class Place:
    """Where a companion comes from."""

    folder: str | None
    """A folder or hub name. None: the sub-folder of its name in the model that a run goes on from, or else
    the objective draws it afresh."""
    heads: tuple[str, ...]
    """The heads that are read with it."""
    setting: str
    """The objective's setting that names the folder."""
    required: bool = False
    """Whether nothing can be learned without it."""


class Objective(nn.Module):
    """The device's half: heads and loss. Owns its heads; borrows the backbone.

    An objective may need networks beside the backbone. It says in `places` where each comes from; whoever
    builds it reads them and hands them over by `adopt`, since an objective knows no folders.
    """

    alone: bool = False
    """Whether it passes the batch through the backbone in its own way, so that it can share no pass."""
    corruption: Corruption
    heads: nn.ModuleDict
    """By the names under which checkpoints know them."""
    vocabulary: str | None = None
    """The part of the loss that is a cross-entropy over the vocabulary, where there is one: what word
    frequencies alone would score can be said of it."""
    answers: tuple[str, str] | None = None
    """What labels 0 and 1 of a row say of its texts, where rows have labels."""

    @classmethod
    def head_names(cls, settings: Any) -> tuple[str, ...]:
        """The names of its heads in a model folder, known before there is a network."""
        return (cls.vocabulary,) if cls.vocabulary else ()

    def places(self) -> dict[str, Place]:
        """Where its networks beside the backbone come from, by their names."""
        return {}

    def adopt(self, name: str, companion: Companion) -> None:
        """Take a network that was read from its place."""
        raise NotImplementedError

    def join(self, backbone: Transformer, *, fresh: bool) -> None:
        """Share with the backbone, or compare, what must be one or fit; once, when all have their weights.

        `fresh` says whether the backbone's are random ones.
        """

    def companions(self) -> dict[str, Companion]:
        """The networks that are trained with the backbone, by the names of their folders below its own."""
        return {}

    def forward(self, backbone: nn.Module, batch: Batch) -> Loss:
        """The loss of one pass of the backbone over the batch."""
        return self.loss(backbone, backbone(batch), batch)

    def loss(self, backbone: nn.Module, states: States, batch: Batch) -> Loss:
        """The loss from states that are already there, so that objectives can share a pass."""
        raise NotImplementedError
