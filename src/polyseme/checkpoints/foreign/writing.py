"""Models back into the folders of TensorFlow's projects, for the layouts that say how they are written."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyseme.checkpoints.foreign.layouts import LAYOUTS, Held, Layout, layout_of
from polyseme.checkpoints.foreign.opening import UNSAID, published_settings
from polyseme.checkpoints.foreign.translating import Template
from polyseme.checkpoints.formats import format_of
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.readers.tensorflow import checkpoint_files
from polyseme.checkpoints.saving import card_of, published_weights
from polyseme.checkpoints.saving import published_settings as transformers_settings
from polyseme.checkpoints.weights import Stored
from polyseme.errors import CheckpointError
from polyseme.integrity import recorded
from polyseme.records import to_json

_ANOTHER_WAY = ("architectures", "dtype", "model_type", "tie_word_embeddings")
"""Keys of config.json that a reader finds out by itself."""


def writable() -> dict[str, str]:
    """The layouts that can be written, by the family of the model."""
    layouts = {name: layout_of(name) for name in LAYOUTS}
    return {layout.family: name for name, layout in layouts.items() if layout.saved_as}


def tensorflow_files(model: Model) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of a TensorFlow folder by name, and what of the settings TensorFlow's code will not heed.

    These keys of config.json stand in the settings file too, where we read them again.
    """
    family = model.card.family
    if family not in writable():
        raise CheckpointError(
            f"models of the family {family} are not written for TensorFlow, only {', '.join(writable())}; "
            "write them for transformers"
        )
    layout, format = layout_of(writable()[family]), format_of(family)
    tensors = dict(
        _foreign(layout, name, tensor) for name, tensor in published_weights(model, format).items()
    )
    settings, unheeded = _settings(layout, transformers_settings(model, format), tensors)
    files = checkpoint_files(tensors, layout.saved_as)
    files[layout.settings[0]] = to_json(settings)
    if model.tokenizer is not None:
        config = model.backbone.config
        files |= model.tokenizer.files(
            token_type_ids=config.type_vocab_size > 0, max_length=config.max_position_embeddings
        )
    return recorded(files, to_json(card_of(model))), unheeded


def _foreign(layout: Layout, name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A published tensor by its foreign name, written the way it is there."""
    for theirs, value in layout.rules.items():
        held = Held((value,)) if isinstance(value, str) else value
        for numbers in Template(theirs).matches({name: tensor}):
            if held not in (Held(held.sources), Held(held.sources, turned=True)) or len(held.sources) > 1:
                break
            return Template(held.sources[0]).fill(numbers), tensor.t() if held.turned else tensor
    raise CheckpointError(f"the layout {layout.container}-{layout.family} has no place for {name}")


def _settings(
    layout: Layout, full: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings file for a config.json, and those of its keys that TensorFlow will not heed."""
    foreign = {
        name: Stored(name, Path(layout.saved_as), tuple(tensor.shape), lambda: torch.empty(0))
        for name, tensor in tensors.items()
    }
    settings: dict[str, Any] = {}
    for key in layout.saved_settings:
        meant = {meaning: value for value, meaning in layout.values.get(key, {}).items()}
        settings[key] = meant.get(full[key], full[key]) if isinstance(full[key], str) else full[key]
    found = published_settings(layout, settings, foreign, {}, Path(layout.saved_as))
    unsaid = {
        key: value
        for key, value in full.items()
        if key not in _ANOTHER_WAY and (key not in found or found[key] != value)
    }
    heeded = {*layout.saved_settings, *layout.written}
    return settings | {UNSAID: unsaid}, {key: unsaid[key] for key in sorted(heeded & unsaid.keys())}
