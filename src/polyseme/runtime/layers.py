"""The layers of a network as functions: attention and feed-forward part, each joined to the residual sum."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polyseme.models.transformer.layer import Layer
from polyseme.models.transformer.model import Transformer
from polyseme.runtime.norms import Norm
from polyseme.runtime.parts import (
    Position,
    Sublayer,
    compiled_attention,
    compiled_feedforward,
    compiled_gather,
    compiled_norm,
    device_of,
)
from polyseme.runtime.relative import RelativeRuns, relative_attention
from polyseme.runtime.states import Normed, Precision, plain

READABLE: dict[Precision, Precision] = {"fp32": "fp32", "bf16": "bf16", "int8": "bf16"}
"""The precision of states that are read by something else than a linear of this room."""


class CompiledLayer(NamedTuple):
    """One pass: the same code wherever the norms stand, since the joins know that."""

    attend: Sublayer
    join_attended: Norm
    feed: Sublayer
    join_fed: Norm

    def __call__(self, states: Normed, around: Any) -> Normed:
        states = self.join_attended(states.residual, self.attend(states.ready, around))
        return self.join_fed(states.residual, self.feed(states.ready, around))


class Stack(NamedTuple):
    """Everything between the first states and the last."""

    around: Callable[[Tensor, Tensor, Tensor | None], Any]
    """From ids, starts and segments of packed rows, what the layers share."""
    enter: Callable[[Normed], Normed]
    layers: list[CompiledLayer]
    leave: Callable[[Normed], Tensor]
    """The last states as they are read, `[tokens, hidden_size]`."""


def compiled_stack(backbone: Transformer, precision: Precision) -> Stack:
    """All passes through the layers; layers that share weights share what is made of them."""
    first, norms = JOINED[backbone.config.norm_position](backbone)
    position, device = backbone.config.norm_position, device_of(backbone)
    parts = _parts(backbone, precision)
    precisions: list[Precision] = [precision] * len(parts)
    precisions[-1:] = [READABLE[precision]] * len(precisions[-1:])
    layers = [
        CompiledLayer(
            attend,
            compiled_norm(attended, position, precision, device),
            feed,
            compiled_norm(fed, position, last, device),
        )
        for (attend, feed), (attended, fed), last in zip(parts, norms, precisions, strict=True)
    ]
    around: Callable[..., Any] = AROUND.get(backbone.config.positions, _starts)
    enter = ENTER[first is not None](first, position, precision if layers else READABLE[precision], device)
    return Stack(around(backbone, precision), enter, layers, LEAVE[position])


def _parts(backbone: Transformer, precision: Precision) -> list[tuple[Sublayer, Sublayer]]:
    """Attention and feed-forward part of each pass."""
    config = backbone.config
    gather: Callable[..., Any] = GATHERS.get(config.positions, compiled_gather)
    attention: Callable[..., Sublayer] = ATTENTIONS.get(config.positions, compiled_attention)
    gathers = [gather(view, config, precision, device_of(backbone)) for view in backbone.views]
    made: dict[tuple[int, int], tuple[Sublayer, Sublayer]] = {}
    for number, view in backbone.course:
        if (number, view) not in made:
            layer = _layer(backbone, number)
            attend = attention(layer.attention, gathers[view], precision)
            made[number, view] = attend, compiled_feedforward(layer.feedforward, config, precision)
    return [made[step] for step in backbone.course]


def _layer(backbone: Transformer, number: int) -> Layer:
    layer: nn.Module = backbone.layers[number]
    assert isinstance(layer, Layer)
    return layer


Norms = tuple[nn.Module | None, list[tuple[nn.Module, nn.Module]]]
"""The norm before the first layer, if any, and those at the two joins of each pass."""


def _after(backbone: Transformer) -> Norms:
    """A sum is normalised by its own sublayer's norm."""
    layers = [_layer(backbone, number) for number, _ in backbone.course]
    return None, [(layer.attention_norm, layer.feedforward_norm) for layer in layers]


def _before(backbone: Transformer) -> Norms:
    """A sum is normalised by the norm of the sublayer that follows, or by the final one."""
    layers = [_layer(backbone, number) for number, _ in backbone.course]
    first, *following = [*(layer.attention_norm for layer in layers), backbone.final_norm]
    return first, [(layer.feedforward_norm, norm) for layer, norm in zip(layers, following, strict=True)]


def _normalised(
    norm: nn.Module, position: Position, precision: Precision, device: torch.device
) -> Callable[[Normed], Normed]:
    normed = compiled_norm(norm, position, precision, device)
    return lambda states: normed(states.residual, None)


def _as_they_come(
    norm: None, position: Position, precision: Precision, device: torch.device
) -> Callable[[Normed], Normed]:
    return lambda states: states


def _starts(backbone: Transformer, precision: Precision) -> Callable[..., Tensor]:
    return lambda ids, starts, segments: starts


def _relative_runs(backbone: Transformer, precision: Precision) -> RelativeRuns:
    return RelativeRuns(backbone.views[0], precision)


JOINED: dict[str, Callable[[Transformer], Norms]] = {"after": _after, "before": _before}
LEAVE: dict[str, Callable[[Normed], Tensor]] = {
    "after": lambda states: states.residual,
    "before": lambda states: plain(states.ready),
}
"""By where the norms stand."""
ENTER: dict[bool, Callable[[Any, Position, Precision, torch.device], Callable[[Normed], Normed]]] = {
    True: _normalised,
    False: _as_they_come,
}
"""By whether a norm stands before the first layer."""

ATTENTIONS: dict[str, Callable[..., Sublayer]] = {"relative": relative_attention}
GATHERS: dict[str, Callable[..., Any]] = {"relative": lambda view, config, precision, device: None}
AROUND: dict[str, Callable[..., Callable[[Tensor, Tensor, Tensor | None], Any]]] = {
    "relative": _relative_runs
}
"""By positions, where they need an attention of their own."""
