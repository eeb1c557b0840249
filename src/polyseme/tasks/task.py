"""What a task is to the rest of the house: from a file of examples to answers and scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from polyseme.errors import SettingsError
from polyseme.records import Record, flat_names, from_plain, nearest
from polyseme.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from polyseme.models.batch import Batch, Loss
    from polyseme.models.transformer.config import TransformerConfig
    from polyseme.models.transformer.model import Transformer
    from polyseme.text.tokenizer import Tokenizer

E = TypeVar("E")
A = TypeVar("A")


class Inventory(Record, frozen=True):
    """What a task learns from its training examples before any weight is trained; saved with the model."""

    labels: tuple[str, ...]
    """In the order of the network's scores."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the network reads at once of an example, special tokens included."""

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int32] | None = None
    """0 for the first text of a pair, 1 for the second; None without a pair."""
    label: NDArray[Any] | None = None
    """What to answer: a number, or one number a class; None where nobody knows."""
    cut: int = 0
    """Tokens of the example that no row holds."""


class TaskModule(Protocol):
    """A backbone with the task's head on it."""

    backbone: Transformer
    head: nn.Module

    def __call__(self, batch: Batch) -> Loss: ...

    def predict(self, batch: Batch) -> Tensor:
        """One output a row, in float32: `[batch, …]`."""

    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def to(self, device: Any) -> Any: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, tensors: dict[str, Tensor]) -> Any: ...


class Task(Protocol[E, A]):
    """One supervised use, from a file to answers; made from a record of settings."""

    settings_kind: type[Record]
    settings: Any

    name: str
    """In the table of tasks."""
    head_name: str
    """Of its head in a model folder."""
    metrics: tuple[str, ...]
    """The names of its scores; the first one chooses the best epoch."""
    problem: Any
    """What `Card.problem` of a saved model says."""

    def read(self, path: Path, *, labelled: bool) -> Iterator[E]:
        """The examples of a file, in order; with `labelled`, one without a label is a `DataError`."""

    def fit(self, examples: Iterable[E]) -> Inventory:
        """Labels and the like."""

    def stratum(self, example: E) -> object:
        """What a fair subset of the examples has in equal shares."""

    def encode(self, example: E, tokenizer: Tokenizer, inventory: Inventory, *, max_length: int) -> list[Row]:
        """One row, or several where a text needs windows; an unknown label is a `DataError`."""

    def pooling(self, config: TransformerConfig, poolings: Iterable[str]) -> str:
        """How the head reads a network, among what its folder can say."""

    def build(
        self,
        backbone: Transformer,
        inventory: Inventory,
        *,
        reading: Mapping[str, Any],
        head: nn.Module | None = None,
    ) -> TaskModule:
        """The network of the task, with the given head or a fresh one that is told `reading`."""

    def decode(
        self, outputs: Sequence[NDArray[np.float32]], examples: Sequence[E], inventory: Inventory
    ) -> list[A]:
        """One answer an example from the outputs of its rows, `[rows, …]`."""

    def score(self, answers: Sequence[A], examples: Sequence[E]) -> dict[str, float]:
        """The scores that `metrics` names."""

    def report(self, answers: Sequence[A], examples: Sequence[E], inventory: Inventory) -> dict[str, Any]:
        """The scores and what explains them, as plain data."""

    def write(self, answer: A) -> dict[str, Any]:
        """The answer as plain data, for a line of JSON."""


def task_kind(name: str) -> type[Any]:
    """The class of a task by its name in the table."""
    if name not in TASKS:
        raise SettingsError(
            f"there is no task {name!r}{nearest(name, list(TASKS))}; choose {', '.join(TASKS)}"
        )
    module, _, kind = TASKS[name].partition(":")
    found: type[Any] = getattr(import_module(module), kind)
    return found


def make_task(name: str, options: Mapping[str, Any]) -> Task[Any, Any]:
    """The task with these settings; a `SettingsError` names a wrong one."""
    kind = task_kind(name)
    task: Task[Any, Any] = kind(from_plain(dict(options), kind.settings_kind, where=name))
    return task


def divided(
    options: Mapping[str, Any], kind: type[Record], task: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that are fields of `kind`, or of the records in it, and those that are the task's."""
    own, of_task = flat_names(kind), task_kind(task).settings_kind.__struct_fields__
    for name in options:
        if name not in own and name not in of_task:
            raise SettingsError(f"{name} is not a setting here{nearest(name, [*own, *of_task])}")
    return (
        {name: value for name, value in options.items() if name in own},
        {name: value for name, value in options.items() if name in of_task},
    )
