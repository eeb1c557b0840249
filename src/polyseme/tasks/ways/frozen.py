"""Features of a frozen network: its layers, read by a small network that learns.

Devlin et al. 2019, section 5.3 and table 7; Peters et al. 2018, section 3.2.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import torch
from torch import Tensor, nn

from polyseme.checkpoints.formats import format_of
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.errors import SettingsError
from polyseme.models.backbone import Backbone
from polyseme.models.batch import Batch, States
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.seeding import derived
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.task import Inventory, Task, TaskModule
from polyseme.tasks.ways.extractor import Cache, Extractor, Source
from polyseme.tasks.ways.full import Full, fill
from polyseme.tasks.ways.layers import FrozenLayers
from polyseme.tasks.ways.phases import HEAD_RATE, Phase
from polyseme.tasks.ways.readers import READERS
from polyseme.tasks.ways.settings import FeatureSettings

if TYPE_CHECKING:
    from polyseme.tasks.preparation import Data, Preparation


class Features(Backbone):
    """What a task's head sees instead of the network: its layers, mixed and read. `[batch, length, size]`"""

    def __init__(
        self, source: Source, layers: FrozenLayers, settings: FeatureSettings, config: TransformerConfig
    ) -> None:
        super().__init__()
        self.source = source
        self.mix = layers.mix if layers.mix.learned else Mixed()
        self.reader = READERS[settings.feature_head](layers.width * config.hidden_size, settings)
        self.hidden_size = self.reader.size
        self.config = msgspec.structs.replace(config, hidden_size=self.hidden_size, num_heads=1, pooler=False)

    def forward(self, batch: Batch, *, every_layer: bool = False) -> States:
        real = torch.ones_like(batch.input_ids, dtype=torch.bool)
        if batch.attention_mask is not None:
            real = batch.attention_mask.bool()
        states = self.mix(self.source(batch)).masked_fill(~real[..., None], 0.0)
        return States(last=self.reader(states, real))


class Mixed(nn.Module):
    """Stands where the layers come as one state already."""

    def forward(self, layers: list[torch.Tensor]) -> torch.Tensor:
        return layers[0]


class Frozen(Full):
    """The network rests for good; a mix of its layers, what reads it, and the head learn.

    The states are computed once, before the first step, into a file; all epochs, seeds and folds read it.
    """

    trains_backbone = False

    def __init__(self, settings: FinetuneSettings) -> None:
        super().__init__(settings)
        self.cache: Cache | None = None
        self.temporary: tempfile.TemporaryDirectory[str] | None = None

    def task(self, task: Task[Any, Any], base: Model) -> Task[Any, Any]:
        """The task, unless it needs more of the network than its states."""
        if getattr(task.settings, "lm_weight", 0):
            raise SettingsError(
                "lm_weight trains the network itself, and --way frozen lets it rest; leave one out"
            )
        return task

    def reading(self, task: Task[Any, Any], base: Model) -> dict[str, Any]:
        """What a head is told where no published folder needs to say it: it pools what is read."""
        poolings = READERS[self.settings.features.feature_head].poolings
        free = replace(
            format_of(base.card.family),
            poolings={pooling: {} for pooling in poolings},
            classifier={"transform": "none"},
            readings={},
        )
        reading = task.reading(base.backbone.config, free)
        return reading if self.settings.dropout is None else reading | {"dropout": self.settings.dropout}

    def layers(self, config: TransformerConfig) -> FrozenLayers:
        """The chosen layers; a mix that learns is a fresh one each time."""
        return FrozenLayers(self.settings.features.layers, num_layers=config.num_layers)

    def ready(self, shared: Preparation, data: dict[str, Data], folder: Path | None) -> None:
        """Compute the states of every row into `feature_cache`, or else into `folder`."""
        with torch.random.fork_rng():
            torch.manual_seed(derived(0, "features"))
            backbone = shared.backbone().to(shared.device)
        settings = self.settings.features
        place = settings.feature_cache or folder
        if place is None:
            self.temporary = tempfile.TemporaryDirectory(prefix="polyseme-features-")
            place = self.temporary.name
        self.cache = Cache(
            Extractor(backbone, self.layers(shared.config)),
            Path(place),
            precision=shared.precision,
            stored=settings.feature_precision,
        )
        self.cache.fill(
            [row for part in data.values() for of_example in part.rows for row in of_example],
            padding=shared.tokenizer.filling_id,
            config=shared.config,
            batch_tokens=self.settings.machine.batch_tokens,
            device=shared.device,
        )

    def module(self, shared: Preparation) -> TaskModule:
        """The task's network on the features."""
        assert self.cache is not None
        features = Features(self.cache, self.layers(shared.config), self.settings.features, shared.config)
        return _built(shared.task, features, shared.inventory, shared.reading)

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
        """The network as it was, in its family's folder; beside it what was learned."""
        assert self.cache is not None
        own = {_renamed(name, "backbone.", "features."): tensor for name, tensor in tensors.items()}
        save(Model(self.cache.extractor.backbone, card, {}, shared.tokenizer, own), folder, more=more)

    def stored_heads(self, head_name: str) -> list[str]:
        """None: the head stands beside the model."""
        return []

    def restored(
        self, task: Task[Any, Any], model: Model, inventory: Inventory, reading: dict[str, Any]
    ) -> TaskModule:
        """The same network on features that are computed as they are asked for."""
        layers, config = self.layers(model.backbone.config), model.backbone.config
        source = Extractor(model.backbone, layers)
        features = Features(source, layers, self.settings.features, config)
        module = _built(task, features, inventory, reading)
        own = {_renamed(name, "features.", "backbone."): t for name, t in model.task_tensors.items()}
        fill(module, own, elsewhere=())
        return module

    def phases(self, shared: Preparation, module: TaskModule) -> list[Phase]:
        """One, at the head's rate."""
        rate = self.settings.rates.head_learning_rate or HEAD_RATE
        rates = {name: rate for name, _ in module.named_parameters()}
        return [Phase("features", rates, self.settings.epochs, self.settings.patience)]


def _renamed(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(old) else name


def _built(
    task: Task[Any, Any], features: Features, inventory: Inventory, reading: dict[str, Any]
) -> TaskModule:
    """Heads read a backbone's states, its `config` and nothing else of it, and both are there."""
    return task.build(cast(Transformer, features), inventory, reading=reading)
