"""Every weight learns from the first step on (Devlin et al. 2018, section 3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyseme.checkpoints.formats import format_of
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.task import Task, TaskModule
from polyseme.tasks.ways.phases import Phase, depths, joint_rates

if TYPE_CHECKING:
    from polyseme.tasks.preparation import Data, Preparation


class Full:
    """The task's own network, of which all learns at once; other ways change what they need to."""

    heads: tuple[str, ...] = ()
    """What is read of the model beside its backbone."""

    def __init__(self, settings: FinetuneSettings) -> None:
        self.settings = settings

    def task(self, task: Task[Any, Any], base: Model) -> Task[Any, Any]:
        """The task as this way sees it."""
        return task

    def reading(self, task: Task[Any, Any], base: Model) -> dict[str, Any]:
        """What a fresh head is told: how it reads the network, as the family's folders say it."""
        format = format_of(base.card.family)
        reading = {"pooling": task.pooling(base.backbone.config, format.poolings), **format.classifier}
        return reading if self.settings.dropout is None else reading | {"dropout": self.settings.dropout}

    def ready(self, shared: Preparation, data: dict[str, Data], folder: Path | None) -> None:
        """Compute what all runs need; `folder` keeps it for a run that goes on."""

    def module(self, shared: Preparation) -> TaskModule:
        """The network to train: the model's weights, and a fresh head."""
        return shared.task.build(shared.backbone(), shared.inventory, reading=shared.reading)

    def phases(self, shared: Preparation, module: TaskModule) -> list[Phase]:
        """One after the other."""
        rates = joint_rates(self.depths(shared, module), self.settings)
        return [Phase("joint", rates, self.settings.epochs, self.settings.patience)]

    def save(self, shared: Preparation, module: TaskModule, card: Card, folder: Path) -> None:
        """The folder, as transformers would write it where it has the class."""
        save(Model(module.backbone, card, {shared.task.head_name: module.head}, shared.tokenizer), folder)

    def depths(self, shared: Preparation, module: TaskModule) -> dict[str, int]:
        """How high each parameter stands."""
        return depths((name for name, _ in module.named_parameters()), fresh=shared.fresh_names)
