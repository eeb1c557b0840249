"""What the networks of all tasks are: a backbone, a head on its states, and the loss of both."""

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor, nn

from polyseme.models.batch import Batch, Loss, States
from polyseme.models.heads import ClassificationHead
from polyseme.models.transformer.first_token import first_states, has_first_states
from polyseme.models.transformer.model import Transformer
from polyseme.tasks.task import ByToken, Outputs

FIRST = ("pooler", "first")
"""Poolings that read the first token only; rows are padded behind their tokens."""


class OnBackbone(nn.Module, ABC):
    """A `TaskModule`: the heads of other tasks may be put on the same states.

    What it holds beside `backbone` and `head` is saved under its own names.
    """

    only_head_reads = False
    """Whether the loss takes nothing of the states but by a `ClassificationHead`."""

    def __init__(self, backbone: Transformer, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, batch: Batch) -> Loss:
        """The mean loss of the batch, and what is learned beside it."""
        states = first_states(self.backbone, batch) if self._reads_first() else self.backbone(batch)
        return self.loss(states, batch)

    @abstractmethod
    def loss(self, states: States, batch: Batch) -> Loss:
        """The same from states that are there already."""

    @abstractmethod
    def outputs(self, states: States, batch: Batch) -> Tensor | ByToken:
        """One output a row, in float32, or one a token."""

    def borrowing(self) -> Self:
        """The same, but the backbone belongs to somebody else, who trains and saves it."""
        backbone = self._modules.pop("backbone")
        self.__dict__["backbone"] = backbone
        return self

    def settled(self, outputs: list[Outputs]) -> list[Outputs]:
        """The outputs as they are; a task whose answers depend on each other settles them here."""
        return outputs

    def _reads_first(self) -> bool:
        pooling = self.head.pooling if isinstance(self.head, ClassificationHead) else None
        return self.only_head_reads and pooling in FIRST and has_first_states(self.backbone)
