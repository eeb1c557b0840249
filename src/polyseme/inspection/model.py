"""What a model is made of: its parts and their parameters, and the scale of its matrices."""

import re
from pathlib import Path
from typing import Any

from polyseme.records import Record, flat, to_plain
from polyseme.threads import torch_threads


class Part(Record, frozen=True, kw_only=True):
    """The embeddings, one layer, the pooler or a head."""

    name: str
    parameters: int


class Matrices(Record, frozen=True, kw_only=True):
    """The matrices that have one place in their layers."""

    name: str
    """With {n} for the layer's number."""
    shape: tuple[int, ...]
    count: int
    smallest_deviation: float
    """Of the layers' standard deviations."""
    largest_deviation: float


class ModelSummary(Record, frozen=True, kw_only=True):
    """A model in numbers."""

    folder: str
    family: str
    config: dict[str, Any]
    """The choices, those of nested records as `outer.inner`."""
    card: dict[str, Any]
    parameters: int
    """Of the backbone and the heads of its file; what is tied counts once."""
    parts: list[Part]
    matrices: list[Matrices]


@torch_threads()
def show_model(model: str | Path) -> ModelSummary:
    """A summary of the model in a folder or under a hub name.

    Weights whose deviations have grown far beyond BERT's 0.04 are hard for fine-tuning to move, whatever
    the loss says.

    >>> show_model("runs/mini").parameters  # doctest: +SKIP
    5242880
    """
    from polyseme.checkpoints.hub import resolve
    from polyseme.checkpoints.loading import heads_in, load

    folder = resolve(model)
    loaded = load(folder, heads=heads_in(folder))
    tensors = dict(loaded.backbone.named_parameters())
    for head, module in loaded.heads.items():
        tensors |= {f"{head}.{name}": value for name, value in module.named_parameters()}
    parts: dict[str, int] = {}
    places: dict[str, list[Any]] = {}
    for name, tensor in tensors.items():
        part = _part(name)
        parts[part] = parts.get(part, 0) + tensor.numel()
        if tensor.dim() > 1:
            places.setdefault(re.sub(r"^(decoder\.)?layers\.\d+\.", r"\1layers.{n}.", name), []).append(
                tensor
            )
    matrices = []
    for place, same in places.items():
        deviations = [float(tensor.detach().float().std()) for tensor in same]
        matrices.append(
            Matrices(
                name=place,
                shape=tuple(same[0].shape),
                count=len(same),
                smallest_deviation=min(deviations),
                largest_deviation=max(deviations),
            )
        )
    return ModelSummary(
        folder=str(model),
        family=loaded.card.family,
        config=flat(loaded.backbone.config),
        card=to_plain(loaded.card),
        parameters=sum(parts.values()),
        parts=[Part(name=name, parameters=count) for name, count in parts.items()],
        matrices=matrices,
    )


def _part(name: str) -> str:
    """«layers.3» of layers.3.attention.query.weight, «decoder.layers.3» of a decoder's; «embeddings»,
    «pooler» or a head's name otherwise."""
    found = re.match(r"(decoder\.)?layers\.\d+", name)
    return found.group() if found else name.split(".")[0]
