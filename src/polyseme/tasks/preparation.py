"""What the runs of a fine-tuning share: the task, the model to start from, and the rows of every file."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from polyseme.checkpoints.model import Card, Model
from polyseme.devices import environment, pick_device, pick_precision, usable_cores
from polyseme.errors import CheckpointError, SettingsError
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.records import to_plain
from polyseme.tasks.rows import count_cut, outputs_of, say_cut, side_by_side
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.skipping import parsed
from polyseme.tasks.subsets import subset
from polyseme.tasks.task import Outputs, Row, Task, TaskModule, Tuning, lessons
from polyseme.tasks.ways.class_weights import class_weights, weigh
from polyseme.tasks.ways.way import make_way
from polyseme.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from polyseme.tasks.ways.memory import Fit


class Data(NamedTuple):
    """Examples, and the rows of each."""

    examples: list[Any]
    rows: list[list[Row]]


class Preparation:
    """Everything that the seeds share."""

    def __init__(self, task: Task[Any, Any], model: str | Path | Model, settings: FinetuneSettings) -> None:
        self.settings, self.way = settings, make_way(settings)
        machine = settings.machine
        torch.set_num_threads(machine.threads or usable_cores())
        self.device = pick_device(machine.device)
        self.precision = pick_precision(machine.precision, self.device)
        self.source = "memory" if isinstance(model, Model) else str(model)
        self.base = model if isinstance(model, Model) else self.way.load(model)
        if self.base.tokenizer is None:
            raise CheckpointError(f"{self.source} has no tokenizer, so it cannot read text")
        self.tokenizer: Tokenizer = self.base.tokenizer
        self.task = task = self.way.task(task, self.base)
        self.metric = settings.metric or task.metrics[0]
        if self.metric not in task.metrics:
            raise SettingsError(f"{task.name} has no score {self.metric!r}; choose {', '.join(task.metrics)}")
        self.reading = self.way.reading(task, self.base)
        pooler = self.reading.get("pooling") == "pooler"
        self.config = _changed(self.base.backbone.config, settings, pooler=pooler)
        self.max_length = min(settings.max_length or 2**31, self.config.max_position_embeddings)
        self.fresh_names: frozenset[str] = frozenset()
        self.weights: Tensor | None = None
        self.batch_tokens = machine.batch_tokens

    def read(self, train: Path, dev: Path, test: Path | None) -> dict[str, Data]:
        """The examples of each file and their rows; labels are known before a subset is taken."""
        examples = list(lessons(self.task, self.task.read(train, labelled=True)))
        self.inventory = self.task.fit(examples)
        files = {"train": self._chosen(examples), "dev": list(self.task.read(dev, labelled=True))}
        files["test"] = list(self.task.read(test, labelled=True)) if test is not None else []
        data = {name: self._encoded(of_file, name) for name, of_file in files.items()}
        rows = side_by_side(row for of_example in data["train"].rows for row in of_example)
        self.weights = class_weights(self.settings.class_weights, self.inventory.labels, rows)
        return data

    def module(self) -> TaskModule:
        """The network of the task, on its device."""
        module = self.way.module(self)
        weigh(module, self.weights, task=self.task.name)
        module.to(self.device)
        return module

    def backbone(self) -> Transformer:
        """A copy of the model's network to train; with `fresh`, the same network with fresh weights."""
        backbone = build(self.config)
        if not self.settings.fresh:
            # A pooler that the model lacks stays as it was drawn; a decoder that it has is left out.
            drawn, learned = backbone.state_dict(), self.base.backbone.state_dict()
            backbone.load_state_dict({name: learned.get(name, tensor) for name, tensor in drawn.items()})
            self.fresh_names = frozenset(f"backbone.{name}" for name in drawn if name not in learned)
        return backbone

    def fitted(self, fit: "Fit") -> "Preparation":
        """The same for a way that fits into less memory: fewer tokens at once, or only features."""
        other = copy.copy(self)
        other.batch_tokens = min(self.batch_tokens, fit.rows * self.max_length)
        if fit.frozen:
            other.settings = msgspec.structs.replace(self.settings, way="frozen")
            other.way = make_way(other.settings)
            other.task = other.way.task(self.task, self.base)
            other.reading = other.way.reading(other.task, self.base)
            other.config = _changed(self.base.backbone.config, other.settings, pooler=False)
        return other

    def outputs(self, module: TaskModule, data: Data) -> list[Outputs]:
        """What a network says of each example's rows."""
        return outputs_of(
            module,
            data.rows,
            padding=self.tokenizer.filling_id,
            batch_tokens=self.batch_tokens,
            precision=self.precision,
            device=self.device,
        )

    def scores(self, module: TaskModule, data: Data, *, tune: bool = False) -> dict[str, float]:
        """The scores of a network's answers; with `tune`, what is chosen on dev is chosen on these first."""
        outputs = self.outputs(module, data)
        if tune and isinstance(self.task, Tuning):
            outputs = self.task.tune(module, outputs, data.examples, self.inventory)
        return self.task.score(self.task.decode(outputs, data.examples, self.inventory), data.examples)

    def save(
        self, tensors: dict[str, Tensor], folder: Path, made: dict[str, Any], *, more: Mapping[str, bytes]
    ) -> None:
        """The folder of a run's weights; `made` tells of the run, and `more` are further files."""
        with torch.random.fork_rng():
            module = self.module()
        module.load_state_dict(tensors)
        made = {
            "task": self.task.name,
            "task_settings": to_plain(self.task.settings),
            "settings": to_plain(self.settings),
            "from": self.source,
            "max_length": self.max_length,
            "reading": self.reading,
            "inventory": to_plain(self.inventory),
            **made,
            "environment": environment(),
        }
        card = Card(
            family=self.base.card.family,
            recipe=self.base.card.recipe,
            made=made,
            labels=list(self.inventory.labels),
            problem=self.task.problem,
        )
        self.way.save(self, module, tensors, card, folder, more=more)

    def _encoded(self, examples: Sequence[Any], name: str) -> Data:
        def rows_of(example: Any) -> tuple[Any, list[Row]]:
            return example, self.task.encode(
                example, self.tokenizer, self.inventory, max_length=self.max_length
            )

        encoded = list(parsed(examples, rows_of))
        data = Data([example for example, _ in encoded], [rows for _, rows in encoded])
        say_cut(count_cut(data.rows), total=len(data.rows), max_length=self.max_length, name=name)
        return data

    def _chosen(self, examples: list[Any]) -> list[Any]:
        part, strata = self.settings.subset, [self.task.stratum(example) for example in examples]
        return subset(examples, strata, share=part.share, limit=part.limit, seed=part.subset_seed)


def _changed(config: TransformerConfig, settings: FinetuneSettings, *, pooler: bool) -> TransformerConfig:
    """The model's configuration with the dropout of fine-tuning, a pooler only if the head reads one, and
    no decoder: what answers is an encoder."""
    if settings.max_length is not None and settings.max_length > config.max_position_embeddings:
        raise SettingsError(
            f"max_length {settings.max_length} is more than the {config.max_position_embeddings} positions "
            "of this model; long_texts=windows reads longer texts"
        )
    changes: dict[str, Any] = {"decoder": None, "pooler": pooler}
    if settings.dropout is not None:
        changes |= {"dropout": settings.dropout, "attention_dropout": settings.dropout}
    return msgspec.structs.replace(config, **changes)
