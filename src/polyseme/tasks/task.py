"""What a task is to the rest of the house: from a file of examples to answers and scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from polyseme.errors import SettingsError
from polyseme.records import Record, flat_names, from_plain, nearest
from polyseme.tasks import TASKS, TaskEntry
from polyseme.tasks.skipping import parsed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from polyseme.checkpoints.formats import Format
    from polyseme.models.batch import Batch, Loss, States
    from polyseme.models.transformer.config import TransformerConfig
    from polyseme.models.transformer.model import Transformer
    from polyseme.tasks.predictions import Prediction
    from polyseme.text.tokenizer import Tokenizer

E = TypeVar("E")
A = TypeVar("A")


class Inventory(Record, frozen=True):
    """What a task learns from its training examples before any weight is trained; saved with the model.

    A task that learns more than labels has a record of its own below this one and names it in
    `Task.inventory_kind`.
    """

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
    token_labels: NDArray[np.int64] | None = None
    """What to answer at each token, `IGNORED` where nothing is asked."""
    token_hints: NDArray[np.int64] | None = None
    """What is known of each token besides its id, as a number; 0 where nothing is."""
    asked: NDArray[np.int64] | None = None
    """The positions whose outputs are answers, such as the first token of each word; None where the row
    is answered as a whole. Rows of one example ask for its words one after the other, each word once."""
    places: NDArray[Any] | None = None
    """What `decode` must know of each position that is asked for, such as where it stands in the text:
    `[asked, …]`."""
    beside: tuple[Row, ...] = ()
    """Rows of the same example that must stand in the same batch, such as the other choices of a question."""


class ByToken(NamedTuple):
    """Outputs of which some are one a token; of these a row keeps the ones that it asks for."""

    tokens: Any
    """`[batch, length, …]` of a batch, `[words, …]` of an example."""
    text: Any = None
    """`[batch, …]` of a batch, `[rows, …]` of an example; None where nothing is said of a row as a whole."""
    places: Any = None
    """What the rows know of their words: `[words, …]` of an example."""


Outputs = NDArray[np.float32] | ByToken
"""Of an example: `[rows, …]`, or what is said of its words."""


class TaskModule(Protocol):
    """A backbone with the task's head on it, which reads the backbone's states and nothing else of it.

    Heads that share a backbone share its states too: `loss` and `outputs` are told them.
    """

    backbone: Transformer
    head: nn.Module
    """What `Task.head_name` calls it in a folder."""

    def __call__(self, batch: Batch) -> Loss:
        """The loss, states computed first."""

    def loss(self, states: States, batch: Batch) -> Loss:
        """The mean loss of the batch."""

    def outputs(self, states: States, batch: Batch) -> Tensor | ByToken:
        """One output a row, in float32: `[batch, …]`; or one a token."""

    def settled(self, outputs: list[Outputs]) -> list[Outputs]:
        """What is said of examples once the outputs of their rows are together: what goes to `decode`."""

    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def to(self, device: Any) -> Any: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, tensors: dict[str, Tensor], *, assign: bool = False) -> Any: ...


class Task(Protocol[E, A]):
    """One supervised use, from a file to answers; made from a record of settings."""

    settings_kind: type[Record]
    settings: Any

    name: str
    """In the table of tasks."""
    head_name: str
    """Of the module's `head` in a model folder; empty where no published layout has such a head. What the
    module holds beside backbone and published head is kept in a file of its own."""
    inventory_kind: type[Inventory]
    """The record that `fit` gives."""
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

    def reading(self, config: TransformerConfig, format: Format) -> dict[str, Any]:
        """How the head reads a network of this family, among what its folder can say: what `build` is told.

        `pooling` "pooler" gives the backbone a pooler where it has none; all else leaves it without one.
        """

    def build(
        self,
        backbone: Transformer,
        inventory: Inventory,
        *,
        reading: Mapping[str, Any],
        head: nn.Module | None = None,
    ) -> TaskModule:
        """The network of the task, with the given head or a fresh one that is told `reading`."""

    def decode(self, outputs: Sequence[Any], examples: Sequence[E], inventory: Inventory) -> list[A]:
        """One answer an example from its `Outputs`."""

    def score(self, answers: Sequence[A], examples: Sequence[E]) -> dict[str, float]:
        """The scores that `metrics` names."""

    def report(self, answers: Sequence[A], examples: Sequence[E], inventory: Inventory) -> dict[str, Any]:
        """The scores and what explains them, as plain data."""

    def write(self, answer: A) -> dict[str, Any]:
        """The answer as plain data, for a line of JSON."""

    def example(self, given: Any, *, where: str) -> E:
        """The example that a program gives as plain objects, without a label; else a `DataError`."""

    def prediction(self, answer: A) -> Prediction:
        """The answer as the public record of the task."""

    def inputs(self, example: E) -> Mapping[str, Any]:
        """The columns that an example to answer has in its file, or else its texts by their names."""


@runtime_checkable
class Teaching(Protocol[E]):
    """A task some of whose labelled examples can be scored, and yet not be learned from."""

    def lesson(self, example: E) -> E:
        """The example, or a `DataError` that says why nothing can be learned from it."""


@runtime_checkable
class Tuning(Protocol):
    """A task whose network holds something that is chosen on dev instead of being trained."""

    def tune(self, module: Any, outputs: list[Any], examples: Sequence[E], inventory: Inventory) -> list[Any]:
        """Choose it by the `Outputs` of dev, and give these as they are with it."""


@runtime_checkable
class InColumns(Protocol):
    """A task whose answers can also be written as lines of columns, as CoNLL has them."""

    def columns(self, answer: Any) -> str:
        """A word and what is said of it a line, and a blank line."""


@runtime_checkable
class Completing(Protocol[E]):
    """A task whose examples, given by a program, need another model before they can be answered."""

    def completed(self, examples: list[E]) -> list[E]:
        """The same examples with what that model finds in them."""


@runtime_checkable
class InPairs(Protocol):
    """A task whose examples are made of several rows of a table each."""

    def rows(self, answer: Any, example: Any) -> list[tuple[int, Mapping[str, Any], dict[str, Any]]]:
        """For each row its number in the file, its columns, and what is said of it."""


def lessons(task: Any, examples: Iterable[E]) -> Iterable[E]:
    """The examples that can be learned from; one that cannot is `bad`."""
    return parsed(examples, task.lesson) if isinstance(task, Teaching) else examples


def task_kind(name: str) -> type[Any]:
    """The class of a task by its name in the table."""
    return _found(_entry(name).kind)


def settings_kind(name: str) -> type[Record]:
    """The record of a task's settings, without loading torch."""
    return _found(_entry(name).settings)


def _entry(name: str) -> TaskEntry:
    if name not in TASKS:
        raise SettingsError(
            f"there is no task {name!r}{nearest(name, list(TASKS))}; choose {', '.join(TASKS)}"
        )
    return TASKS[name]


def _found(path: str) -> type[Any]:
    module, _, kind = path.partition(":")
    found: type[Any] = getattr(import_module(module), kind)
    return found


def make_task(name: str, options: Mapping[str, Any]) -> Task[Any, Any]:
    """The task with these settings; a `SettingsError` names a wrong one."""
    kind = task_kind(name)
    task: Task[Any, Any] = kind(from_plain(dict(options), kind.settings_kind, where=name))
    return task


def settings_from_training(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of its task that a model keeps, without those that were of the training files only."""
    return {name: value for name, value in settings.items() if name not in ("encoding", "errors")}


def divided(
    options: Mapping[str, Any], kind: type[Record], task: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that are fields of `kind`, or of the records in it, and those that are the task's."""
    own, of_task = flat_names(kind), settings_kind(task).__struct_fields__
    for name in options:
        if name not in own and name not in of_task:
            raise SettingsError(f"{name} is not a setting here{nearest(name, [*own, *of_task])}")
    return (
        {name: value for name, value in options.items() if name in own},
        {name: value for name, value in options.items() if name in of_task},
    )
