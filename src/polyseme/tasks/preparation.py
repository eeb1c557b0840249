"""What the runs of a fine-tuning share: the task, the model to start from, and the rows of every file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from polyseme.checkpoints.formats import format_of
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.devices import environment, pick_device, pick_precision, usable_cores
from polyseme.errors import CheckpointError, SettingsError
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import TransformerConfig
from polyseme.records import to_plain
from polyseme.tasks.rows import count_cut, outputs_of, say_cut
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.skipping import parsed
from polyseme.tasks.subsets import subset
from polyseme.tasks.task import Row, Task, TaskModule, Tuning, lessons
from polyseme.text.tokenizer import Tokenizer


class Data(NamedTuple):
    """Examples, and the rows of each."""

    examples: list[Any]
    rows: list[list[Row]]


class Preparation:
    """Everything that the seeds share."""

    def __init__(self, task: Task[Any, Any], model: str | Path | Model, settings: FinetuneSettings) -> None:
        self.task, self.settings = task, settings
        self.metric = settings.metric or task.metrics[0]
        if self.metric not in task.metrics:
            raise SettingsError(f"{task.name} has no score {self.metric!r}; choose {', '.join(task.metrics)}")
        torch.set_num_threads(settings.threads or usable_cores())
        self.device = pick_device(settings.device)
        self.precision = pick_precision(settings.precision, self.device)
        self.source = "memory" if isinstance(model, Model) else str(model)
        self.base = model if isinstance(model, Model) else load(model)
        if self.base.tokenizer is None:
            raise CheckpointError(f"{self.source} has no tokenizer, so it cannot read text")
        self.tokenizer: Tokenizer = self.base.tokenizer
        self.reading = task.reading(self.base.backbone.config, format_of(self.base.card.family))
        if settings.dropout is not None:
            self.reading["dropout"] = settings.dropout
        self.config = _changed(
            self.base.backbone.config, settings, pooler=self.reading.get("pooling") == "pooler"
        )
        self.max_length = min(settings.max_length or 2**31, self.config.max_position_embeddings)

    def read(self, train: Path, dev: Path, test: Path | None) -> dict[str, Data]:
        """The examples of each file and their rows; labels are known before a subset is taken."""
        examples = list(lessons(self.task, self.task.read(train, labelled=True)))
        self.inventory = self.task.fit(examples)
        files = {"train": self._chosen(examples), "dev": list(self.task.read(dev, labelled=True))}
        files["test"] = list(self.task.read(test, labelled=True)) if test is not None else []
        return {name: self._encoded(of_file, name) for name, of_file in files.items()}

    def module(self) -> TaskModule:
        """The network of the task: the model's weights, and a fresh head (with `fresh`, all is fresh)."""
        backbone = build(self.config)
        if not self.settings.fresh:
            # A pooler that the model lacks stays as it was drawn; a decoder that it has is left out.
            drawn, learned = backbone.state_dict(), self.base.backbone.state_dict()
            backbone.load_state_dict({name: learned.get(name, tensor) for name, tensor in drawn.items()})
        module = self.task.build(backbone, self.inventory, reading=self.reading)
        module.to(self.device)
        return module

    def scores(self, module: TaskModule, data: Data, *, tune: bool = False) -> dict[str, float]:
        """The scores of a network's answers; with `tune`, what is chosen on dev is chosen on these first."""
        outputs = outputs_of(
            module,
            data.rows,
            padding=self.tokenizer.filling_id,
            batch_tokens=self.settings.batch_tokens,
            precision=self.precision,
            device=self.device,
        )
        if tune and isinstance(self.task, Tuning):
            outputs = self.task.tune(module, outputs, data.examples, self.inventory)
        return self.task.score(self.task.decode(outputs, data.examples, self.inventory), data.examples)

    def save(self, tensors: dict[str, Tensor], folder: Path, made: dict[str, Any]) -> None:
        """The folder of a run's weights, as transformers would write it; `made` tells of the run."""
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
        head = self.task.head_name
        published = ("backbone.", "head.") if head else ("backbone.",)
        own = {name: value for name, value in tensors.items() if not name.startswith(published)}
        heads = {head: module.head} if head else {}
        save(Model(module.backbone, card, heads, self.tokenizer, own), folder)

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
        settings = self.settings
        strata = [self.task.stratum(example) for example in examples]
        return subset(examples, strata, share=settings.share, limit=settings.limit, seed=settings.subset_seed)


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
