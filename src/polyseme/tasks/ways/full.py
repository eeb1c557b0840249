"""Every weight learns from the first step on (Devlin et al. 2018, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from polyseme.checkpoints.formats import format_of
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.checkpoints.task_tensors import TASK_TENSORS
from polyseme.errors import CheckpointError
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.task import Inventory, Task, TaskModule
from polyseme.tasks.ways.phases import Phase, depths, joint_rates

if TYPE_CHECKING:
    from polyseme.tasks.preparation import Data, Preparation


class Full:
    """The task's own network, of which all learns at once; other ways change what they need to."""

    heads: tuple[str, ...] = ()
    """What is read of the model beside its backbone."""
    trains_backbone = True
    """Whether the network itself learns at any time."""
    may_rest = True
    """Whether frozen features of it are the same task with less memory."""

    def __init__(self, settings: FinetuneSettings) -> None:
        self.settings = settings

    def load(self, model: str | Path) -> Model:
        """The model to start from, with the heads that this way reads."""
        return load(model, heads=self.heads)

    def task(self, task: Task[Any, Any], base: Model) -> Task[Any, Any]:
        """The task as this way sees it."""
        return task

    def reading(self, task: Task[Any, Any], base: Model) -> dict[str, Any]:
        """What a fresh head is told: how it reads the network, as the family's folders say it."""
        reading = task.reading(base.backbone.config, format_of(base.card.family))
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

    def save(
        self,
        shared: Preparation,
        module: TaskModule,
        tensors: dict[str, Tensor],
        card: Card,
        folder: Path,
        *,
        more: Mapping[str, bytes],
    ) -> None:
        """The folder, as transformers would write it where it has the class."""
        head = shared.task.head_name
        published = ("backbone.", "head.") if head else ("backbone.",)
        own = {name: value for name, value in tensors.items() if not name.startswith(published)}
        heads = {head: module.head} if head else {}
        save(Model(module.backbone, card, heads, shared.tokenizer, own), folder, more=more)

    def stored_heads(self, head_name: str) -> list[str]:
        """The heads that `save` writes for a task whose head has this name."""
        return [head_name] if head_name else []

    def restored(
        self, task: Task[Any, Any], model: Model, inventory: Inventory, reading: dict[str, Any]
    ) -> TaskModule:
        """The network of a folder that `save` wrote."""
        head = task.head_name
        module = task.build(model.backbone, inventory, reading=reading, head=model.heads.get(head))
        fill(module, model.task_tensors, elsewhere=("backbone.", "head.") if head else ("backbone.",))
        return module

    def depths(self, shared: Preparation, module: TaskModule) -> dict[str, int]:
        """How high each parameter stands."""
        return depths((name for name, _ in module.named_parameters()), fresh=shared.fresh_names)


def fill(module: TaskModule, tensors: dict[str, Tensor], *, elsewhere: tuple[str, ...]) -> None:
    """Put a task's own tensors into its network, each into its place, or refuse the folder.

    What begins with one of `elsewhere` comes from the model's own file.
    """
    drawn = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(elsewhere)}
    shapes = [{name: tuple(tensor.shape) for name, tensor in some.items()} for some in (drawn, tensors)]
    if shapes[0] != shapes[1]:
        wrong = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
        raise CheckpointError(f"{TASK_TENSORS} does not fit its task: {wrong[0][0]}; fetch the folder again")
    module.load_state_dict({**module.state_dict(), **tensors})
