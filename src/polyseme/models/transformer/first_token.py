"""The state of each row's first token alone: nothing else is computed in the last layer but what it looks at.

A classifier that reads the first token drops all other states of the last layer, which are most of its work:
of the others only keys and values count.
"""

from collections.abc import Callable

from torch import Tensor, nn

from polyseme.models.batch import Batch, States
from polyseme.models.precision import lowered
from polyseme.models.transformer.cache import keys_and_values, look_up
from polyseme.models.transformer.encoder_decoder import EncoderDecoder
from polyseme.models.transformer.layer import Layer
from polyseme.models.transformer.masks import View
from polyseme.models.transformer.model import Transformer
from polyseme.models.transformer.positions import Turn


def has_first_states(backbone: nn.Module) -> bool:
    """Whether `first_states` can read it: an encoder with layers, whose positions are not relative."""
    return (
        isinstance(backbone, Transformer)
        and not isinstance(backbone, EncoderDecoder)
        and bool(backbone.course)
        and all(isinstance(view, View) for view in backbone.views)
    )


def first_states(backbone: Transformer, batch: Batch) -> States:
    """The network's states of a batch, but `last` has the first tokens alone: `[batch, 1, hidden_size]`."""
    backbone.check_length(batch)
    views = [view(batch) for view in backbone.views]
    hidden_states = backbone.projection(backbone.embeddings(batch))
    *before, (last, kind) = backbone.course
    for number, view in before:
        hidden_states = backbone.layers[number](hidden_states, *views[view])
    (seen, turn), own_view, layer = views[kind], backbone.views[kind], backbone.layers[last]
    assert isinstance(own_view, View)
    assert isinstance(layer, Layer)
    position_ids = None if batch.position_ids is None else batch.position_ids[:, :1]
    turn_first = own_view.turn(1, position_ids)
    if seen is not None:
        seen = seen[..., :1, :]
    hidden_states = LAST[backbone.config.norm_position](layer, hidden_states, seen, turn, turn_first)
    hidden_states = backbone.final_dropout(backbone.final_norm(hidden_states))
    return States(last=hidden_states, pooled=backbone.pooler(hidden_states))


def attended(layer: Layer, states: Tensor, seen: Tensor | None, turn: Turn, turn_first: Turn) -> Tensor:
    """What the first token gathers of all."""
    states = lowered(states)
    kept = keys_and_values(layer.attention, states, turn)
    gathered: Tensor = layer.dropout(look_up(layer.attention, states[:, :1], kept, seen, turn_first))
    return gathered


def last_before(layer: Layer, states: Tensor, seen: Tensor | None, turn: Turn, turn_first: Turn) -> Tensor:
    """A layer whose sublayers' inputs are normalised."""
    first = states[:, :1] + attended(layer, layer.attention_norm(states), seen, turn, turn_first)
    fed: Tensor = layer.dropout(layer.feedforward(layer.feedforward_norm(first)))
    return first + fed


def last_after(layer: Layer, states: Tensor, seen: Tensor | None, turn: Turn, turn_first: Turn) -> Tensor:
    """A layer whose sums are normalised."""
    first = layer.attention_norm(states[:, :1] + attended(layer, states, seen, turn, turn_first))
    normalised: Tensor = layer.feedforward_norm(first + layer.dropout(layer.feedforward(first)))
    return normalised


LAST: dict[str, Callable[[Layer, Tensor, Tensor | None, Turn, Turn], Tensor]] = {
    "before": last_before,
    "after": last_after,
}
