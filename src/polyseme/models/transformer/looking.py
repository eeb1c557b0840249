"""A look into attention: the scores that the fused way from states to states never writes out."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from polyseme.models.batch import Batch, States
from polyseme.models.transformer.layer import Layer
from polyseme.models.transformer.model import Transformer

ADDED_TO = ("relative", "bucketed")
"""Positions that add to the scores, which products of queries and keys alone do not show."""


def attention_scores(
    network: Transformer, batch: Batch, states: States, layers: Sequence[int]
) -> list[Tensor]:
    """What the softmax of each of the `layers` is taken of: `[batch, num_heads, length, length]`, query by
    key, −∞ where a query does not see the key.

    They are computed again from `states`, which `network` gave for the same batch with `every_layer`.
    """
    if network.config.positions in ADDED_TO:
        raise ValueError(
            f"attention scores are read where positions are not {' or '.join(ADDED_TO)}, "
            f"got {network.config.positions!r}"
        )
    views = [view(batch) for view in network.views]
    read = READ[network.config.norm_position]
    found = []
    for number in layers:
        weights, view = network.course[number]
        layer, (seen, turn) = network.layers[weights], views[view]
        assert isinstance(layer, Layer)
        attention, hidden_states = layer.attention, read(layer, states.layers[number])
        query, key = (
            turn(part(hidden_states).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2))
            for part in (attention.query, attention.key)
        )  # each [batch, num_heads, length, head_size]
        scores = query @ key.transpose(-1, -2) * attention.scale
        found.append(scores if seen is None else scores.masked_fill(~seen, -torch.inf))
    return found


def _as_it_is(layer: Layer, hidden_states: Tensor) -> Tensor:
    return hidden_states


def _normalised(layer: Layer, hidden_states: Tensor) -> Tensor:
    normalised: Tensor = layer.attention_norm(hidden_states)
    return normalised


READ: dict[str, Callable[[Layer, Tensor], Tensor]] = {"before": _normalised, "after": _as_it_is}
"""What a layer's attention reads of the states before it, by the place of the norms."""
