"""From a recipe to modules: the network in its size, its objective, and where the weights begin."""

from importlib import import_module
from typing import Any

import msgspec
from torch import nn

from polyseme.checkpoints.formats import architecture_of, check_sayable, format_of
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import READ_POOLED, Card, Model
from polyseme.errors import SettingsError
from polyseme.models.batch import Batch, Loss
from polyseme.models.transformer.building import build
from polyseme.models.transformer.chosen_layers import with_layers
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.objectives import OBJECTIVES
from polyseme.objectives.contract import Objective
from polyseme.objectives.joint import Joint
from polyseme.records import from_plain, nearest
from polyseme.text.store import Store
from polyseme.training.memory_check import check_memory
from polyseme.training.recipes import sized
from polyseme.training.settings import PretrainSettings, Recipe


class Pretraining(nn.Module):
    """Backbone and objective as one module, as the loop and the saved state see them."""

    def __init__(self, backbone: Transformer, objective: Objective) -> None:
        super().__init__()
        self.backbone = backbone
        self.objective = objective

    def forward(self, batch: Batch) -> Loss:
        loss: Loss = self.objective(self.backbone, batch)
        return loss


def begin(
    recipe: Recipe, store: Store, settings: PretrainSettings
) -> tuple[Transformer, Card, dict[str, nn.Module]]:
    """The network to begin with: random, or the model named by `from_model` with its heads."""
    wanted = [head for entry in recipe.objectives for head in _head_names(entry)]
    made = {"seed": settings.seed, "data": store.fingerprint}
    if settings.from_model is None:
        config = model_config(recipe, settings.size, store)
        check_memory(config)
        check_sayable(format_of(recipe.family), config, wanted)  # now, and not when the model is saved
        return build(config), Card(family=recipe.family, made=made), {}
    if not {*wanted}.isdisjoint(READ_POOLED):
        wanted.append("pooler")
    model = load(settings.from_model, heads=wanted, fresh=wanted)
    architecture_of(format_of(model.card.family), model.backbone.config, model.heads)
    backbone = model.backbone
    assert isinstance(backbone, Transformer)
    check_fit(model, settings.from_model, store, length=recipe.training.length)
    if settings.layers is not None:
        backbone = _with_layers(backbone, settings.layers)
        made |= {"layers": list(settings.layers)}
    return backbone, msgspec.structs.replace(model.card, made=made), model.heads


def check_fit(model: Model, name: str, store: Store, *, length: int) -> None:
    """Refuse a model that reads other tokens than the store's, or shorter rows than the training's."""
    if model.tokenizer is None or model.tokenizer.vocabulary != store.tokenizer.vocabulary:
        raise SettingsError(
            f"{name} and {store.folder} have different vocabularies; "
            f"prepare the text again with --tokenizer {name}"
        )
    most = model.backbone.config.max_position_embeddings
    if length > most:
        raise SettingsError(
            f"length is {length}, but {name} reads at most {most} tokens; pass --change training.length=…"
        )


def _with_layers(backbone: Transformer, numbers: tuple[int, ...]) -> Transformer:
    try:
        return with_layers(backbone, numbers)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def model_config(recipe: Recipe, size: str | None, store: Store) -> TransformerConfig:
    """The network of a recipe in one of its sizes, for the store's vocabulary."""
    chosen = sized(recipe, size)
    fields = dict(chosen.model)
    fields |= {"vocab_size": store.vocab_size, "padding_id": store.tokenizer.filling_id}
    config = from_plain(fields, TransformerConfig, where=f"the model of size {chosen.default_size}")
    if chosen.training.length > config.max_position_embeddings:
        raise SettingsError(
            f"training.length is {chosen.training.length}, but the model has "
            f"{config.max_position_embeddings} positions; raise model.max_position_embeddings"
        )
    return config


def build_objective(recipe: Recipe, config: TransformerConfig, store: Store) -> Objective:
    """The objective of a recipe; several share one pass of the backbone."""
    parts = [_build_part(entry, config, store) for entry in recipe.objectives]
    heads = [name for part in parts for name in part.heads]
    if twice := {name for name in heads if heads.count(name) > 1}:
        raise SettingsError(f"two objectives of the recipe use the head {min(twice)}; leave one of them out")
    if len(parts) == 1:
        return parts[0]
    for part, entry in zip(parts, recipe.objectives, strict=True):
        if part.alone:
            raise SettingsError(
                f"{entry['name']} reads its batches in its own way and can share no pass; "
                "let it be the recipe's only objective"
            )
    return Joint(parts)


def _build_part(entry: dict[str, Any], config: TransformerConfig, store: Store) -> Objective:
    objective, settings = _objective(entry)
    try:
        built: Objective = objective(settings, config, store)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return built


def _head_names(entry: dict[str, Any]) -> tuple[str, ...]:
    objective, settings = _objective(entry)
    names: tuple[str, ...] = objective.head_names(settings)
    return names


def _objective(entry: dict[str, Any]) -> tuple[Any, Any]:
    """The class of an objective, and its settings as a record."""
    fields = dict(entry)
    name = str(fields.pop("name", ""))
    if name not in OBJECTIVES:
        raise SettingsError(
            f"there is no objective {name!r}{nearest(name, list(OBJECTIVES))}; "
            f"choose one of {', '.join(OBJECTIVES)}"
        )
    module, _, kind = OBJECTIVES[name].partition(":")
    objective = getattr(import_module(module), kind)
    return objective, from_plain(fields, objective.Settings, where=name)
