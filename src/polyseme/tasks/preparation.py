"""What the runs of a fine-tuning share: the task, the model to start from, and the rows of every file."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from polyseme.checkpoints.copying import copied
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.checkpoints.trial import try_saving
from polyseme.checkpoints.undrawn import undrawn
from polyseme.devices import environment, pick_device, pick_precision
from polyseme.errors import CheckpointError, SettingsError
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.models.transformer.used_rows import with_all_rows
from polyseme.records import to_plain
from polyseme.tasks.rows import count_cut, outputs_of, say_cut, side_by_side
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.skipping import parsed
from polyseme.tasks.subsets import subset
from polyseme.tasks.task import Outputs, Row, Task, TaskModule, Tuning, lessons
from polyseme.tasks.ways.class_weights import class_weights, weigh
from polyseme.tasks.ways.way import check_restoring, make_way
from polyseme.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from polyseme.tasks.ways.memory import Fit

LEAST_UNUSED = 4096
"""Rows of the token table that do not occur, from which on only the others are trained."""


class Data(NamedTuple):
    """Examples, and the rows of each."""

    examples: list[Any]
    rows: list[list[Row]]


class Preparation:
    """Everything that the seeds share."""

    def __init__(self, task: Task[Any, Any], model: str | Path | Model, settings: FinetuneSettings) -> None:
        self.settings, self.way = settings, make_way(settings)
        machine = settings.machine
        self.device = pick_device(machine.device)
        self.precision = pick_precision(machine.precision, self.device)
        self.is_ours = not isinstance(model, Model)
        """Whether nobody else holds the model that is read."""
        self.source = "memory" if isinstance(model, Model) else str(model)
        self.base = model if isinstance(model, Model) else self.way.load(model)
        if self.base.tokenizer is None:
            raise CheckpointError(f"{self.source} has no tokenizer, so it cannot read text")
        if settings.data.keep_special_tokens:
            self.base = replace(
                self.base, tokenizer=self.base.tokenizer.keeping(settings.data.keep_special_tokens)
            )
        assert self.base.tokenizer is not None
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
        self.weights_are: Literal["copied", "shared", "none"] = "copied"
        self.used_ids: Tensor | None = None

    def read(self, train: Path, dev: Path, test: Path | None) -> dict[str, Data]:
        """The examples of each file and their rows; labels are known before a subset is taken."""
        examples = list(lessons(self.task, self.task.read(train, labelled=True)))
        self.inventory = self.task.fit(examples)
        files = {"train": self._chosen(examples), "dev": list(self.task.read(dev, labelled=True))}
        files["test"] = list(self.task.read(test, labelled=True)) if test is not None else []
        data = {name: self._encoded(of_file, name) for name, of_file in files.items()}
        rows = side_by_side(row for of_example in data["train"].rows for row in of_example)
        self.weights = class_weights(self.settings.class_weights, self.inventory.labels, rows)
        self.used_ids = self._used_ids(data.values())
        return data

    def module(self) -> TaskModule:
        """The network of the task, on its device."""
        module = self.way.module(self)
        weigh(module, self.weights, task=self.task.name)
        module.to(self.device)
        return module

    def backbone(self) -> Transformer:
        """A copy of the model's network to train; with `fresh`, the same network with fresh weights."""
        if self.weights_are == "none" or (self.settings.fresh and self.weights_are == "copied"):
            return build(self.config)
        # A decoder that the model has is left out.
        backbone, fresh = copied(
            self.base.backbone,
            self.config,
            share=self.weights_are == "shared" or not self.way.trains_backbone,
            used_ids=self.used_ids if self.weights_are == "copied" else None,
        )
        self.fresh_names = frozenset(f"backbone.{name}" for name in fresh)
        return backbone

    def with_weights(self, weights: Literal["shared", "none"]) -> "Preparation":
        """The same for networks that are not trained: with the model's own weights, or only their shapes."""
        other = copy.copy(self)
        other.weights_are = weights
        return other

    def _used_ids(self, data: Iterable[Data]) -> Tensor | None:
        """The rows of the token table that the data and the way need; None where all of them learn, or
        nearly all of them."""
        more = self.way.other_ids(self)
        if more is None:
            return None
        rows = side_by_side(row for part in data for of_example in part.rows for row in of_example)
        ids = np.concatenate([[self.tokenizer.filling_id, *more], *(row.input_ids for row in rows)])
        used = np.unique(ids).astype(np.int64)
        unused = self.config.vocab_size - len(used)
        return torch.from_numpy(used) if unused >= LEAST_UNUSED else None

    def whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A run's weights with the whole token table, in the place of the model's own where we read it: the
        last thing that is done with it."""
        if self.used_ids is None:
            return tensors
        table = self.base.backbone.embeddings.tokens.weight
        return with_all_rows(tensors, table, self.used_ids, in_place=self.is_ours, prefix="backbone.")

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
            other.used_ids = None
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
        tensors = self.whole(tensors)
        with undrawn():
            module = self.way.module(self.with_weights("none"))
        module.load_state_dict(tensors, assign=True)
        save(self.way.saved(self, module, tensors, self._card(made)), folder, more=more)

    def try_saving(self, out: Path, folder: Path) -> None:
        """Before the first step, raise whatever saving to `out` or answering from there would raise.

        It is tried in `folder`, which goes again.
        """
        with torch.random.fork_rng():
            module = self.way.module(self.with_weights("shared"))
            trained = self.way.saved(self, module, module.state_dict(), self._card({}))
            check_restoring(try_saving(trained, out, folder=folder))

    def _card(self, made: dict[str, Any]) -> Card:
        """What a saved model says of itself."""
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
        return Card(
            family=self.base.card.family,
            recipe=self.base.card.recipe,
            made=made,
            labels=list(self.inventory.labels),
            problem=self.task.problem,
        )

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
