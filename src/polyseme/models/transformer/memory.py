"""Segment memory: the states of earlier segments, seen again by each layer but not trained.

Dai et al. 2019, "Transformer-XL", section 3.2. The backbone stays a pure call: memory goes in beside the
batch and comes out beside the states, and whoever calls keeps it.
"""

import torch
from torch import Tensor

from polyseme.models.batch import Batch, States
from polyseme.models.transformer.model import Transformer
from polyseme.models.transformer.relative import RelativeView

Memory = tuple[Tensor, ...]
"""The inputs of every layer over the last tokens: `[batch, remembered, hidden_size]` each; () before."""


def read_on(
    backbone: Transformer, batch: Batch, memory: Memory = (), *, every_layer: bool = False
) -> tuple[States, Memory]:
    """The states of a segment behind what is remembered, and the memory for the segment after it.

    The first segment goes behind the model's start: nothing, or zeros. The new memory holds the last
    `attention.relative.memory` tokens and carries no gradient.
    """
    view = relative_view(backbone)
    memory = memory or start_of(backbone, batch)
    mask, around = view.within(batch, remembered=memory[0].size(1) if memory else 0)
    hidden_states = backbone.projection(backbone.embeddings(batch))
    layers = [hidden_states]
    for number, (layer, _) in enumerate(backbone.course):
        before = around._replace(remembered=memory[number] if memory else None)
        layers.append(backbone.layers[layer](layers[-1], mask, before))
    after = remember(memory, layers[:-1], view.memory)
    return States(last=layers[-1], layers=tuple(layers) if every_layer else ()), after


def start_of(backbone: Transformer, batch: Batch) -> Memory:
    """What is remembered before the first segment."""
    view = relative_view(backbone)
    dtype = next(backbone.parameters()).dtype
    start = view.start(batch, view.memory, view.hidden_size, dtype)
    return () if start is None else (start,) * len(backbone.course)


def remember(memory: Memory, inputs: list[Tensor], most: int) -> Memory:
    """The last `most` of what was remembered and what was read, for each layer."""
    if not most:
        return ()
    joined = [
        states if not memory else _behind(memory[number], states) for number, states in enumerate(inputs)
    ]
    return tuple(states[:, -most:].detach() for states in joined)


def _behind(remembered: Tensor, states: Tensor) -> Tensor:
    return torch.cat((remembered.to(states.dtype), states), dim=1)


def relative_view(backbone: Transformer) -> RelativeView:
    """The view of a backbone whose positions are relative; `ValueError` for another."""
    view = backbone.views[0]
    if not isinstance(view, RelativeView):
        raise ValueError(
            f"memory needs relative positions, and this model's are {backbone.config.positions!r}; "
            'set positions = "relative"'
        )
    return view
