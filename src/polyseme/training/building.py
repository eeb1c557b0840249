"""From a recipe to modules: the network in its size, its objective, and where the weights begin."""

from importlib import import_module
from typing import Any

import msgspec
from torch import nn

from polyseme.checkpoints.formats import family_of
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Card
from polyseme.errors import SettingsError
from polyseme.models.batch import Batch, Loss
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.objectives import OBJECTIVES
from polyseme.objectives.contract import Objective
from polyseme.objectives.joint import Joint
from polyseme.records import from_plain, nearest
from polyseme.text.store import Store
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
    made = {"seed": settings.seed, "data": store.fingerprint}
    if settings.from_model is None:
        config = model_config(recipe, settings.size, store)
        family_of(config)  # refuse now what no folder could say at the end
        return Transformer(config), Card(family=recipe.family, made=made), {}
    wanted = [str(part["name"]) for part in recipe.objectives]
    if "next-sentence" in wanted:
        wanted.append("pooler")
    model = load(settings.from_model, heads=wanted, fresh=wanted)
    backbone = model.backbone
    assert isinstance(backbone, Transformer)
    if model.tokenizer is None or model.tokenizer.vocabulary != store.tokenizer.vocabulary:
        raise SettingsError(
            f"{settings.from_model} and {store.folder} have different vocabularies; "
            f"prepare the text again with --tokenizer {settings.from_model}"
        )
    if recipe.training.length > backbone.config.max_position_embeddings:
        raise SettingsError(
            f"length is {recipe.training.length}, but {settings.from_model} reads at most "
            f"{backbone.config.max_position_embeddings} tokens; pass --change training.length=…"
        )
    return backbone, msgspec.structs.replace(model.card, made=made), model.heads


def model_config(recipe: Recipe, size: str | None, store: Store) -> TransformerConfig:
    """The network of a recipe in one of its sizes, for the store's vocabulary."""
    size = size or recipe.default_size
    if size not in recipe.sizes:
        raise SettingsError(
            f"the recipe has no size {size!r}{nearest(size, list(recipe.sizes))}; "
            f"choose one of {', '.join(recipe.sizes)}"
        )
    fields = _merged(recipe.model, recipe.sizes[size])
    fields |= {"vocab_size": store.vocab_size, "padding_id": store.tokenizer.filling_id}
    config = from_plain(fields, TransformerConfig, where=f"the model of size {size}")
    if recipe.training.length > config.max_position_embeddings:
        raise SettingsError(
            f"training.length is {recipe.training.length}, but the model has "
            f"{config.max_position_embeddings} positions; raise model.max_position_embeddings"
        )
    return config


def _merged(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The fields with the changes; tables on both sides are merged too."""
    both = {
        name: _merged(fields[name], change)
        for name, change in changes.items()
        if isinstance(change, dict) and isinstance(fields.get(name), dict)
    }
    return fields | changes | both


def build_objective(recipe: Recipe, config: TransformerConfig, store: Store) -> Objective:
    """The objective of a recipe; several share one pass of the backbone."""
    parts = [_build_part(entry, config, store) for entry in recipe.objectives]
    return parts[0] if len(parts) == 1 else Joint(parts)


def _build_part(entry: dict[str, Any], config: TransformerConfig, store: Store) -> Objective:
    fields = dict(entry)
    name = str(fields.pop("name", ""))
    if name not in OBJECTIVES:
        raise SettingsError(
            f"there is no objective {name!r}{nearest(name, list(OBJECTIVES))}; "
            f"choose one of {', '.join(OBJECTIVES)}"
        )
    module, _, kind = OBJECTIVES[name].partition(":")
    objective = getattr(import_module(module), kind)
    try:
        built: Objective = objective(from_plain(fields, objective.Settings, where=name), config, store)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return built
