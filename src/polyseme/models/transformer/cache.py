"""Keys and values that are kept, so that a text may be read a few tokens at a time.

A trained network is read through its own parts: `CachedTransformer` has no weights, and training never
comes here. What a causal layer computes of a token does not change with what follows it, so its key and
its value need computing once only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from polyseme.models.batch import Batch
from polyseme.models.transformer.attention import Attention, attend
from polyseme.models.transformer.layer import Layer
from polyseme.models.transformer.masks import View
from polyseme.models.transformer.model import Transformer
from polyseme.models.transformer.positions import Turn


class Kept(NamedTuple):
    """What one attention has read: both `[batch, num_heads, seen, head_size]`."""

    keys: Tensor
    values: Tensor

    def select(self, rows: Tensor) -> "Kept":
        """The rows with these numbers, which may stand there several times."""
        return Kept(self.keys.index_select(0, rows), self.values.index_select(0, rows))


@dataclass(frozen=True)
class Cache:
    """What a network has read of every row."""

    layers: tuple[Kept, ...]
    real: Tensor
    """True where a token that was read is not padding: `[batch, seen]`."""

    def select(self, rows: Tensor) -> "Cache":
        """The rows with these numbers, which may stand there several times."""
        return Cache(tuple(kept.select(rows) for kept in self.layers), self.real.index_select(0, rows))


def keys_and_values(attention: Attention, states: Tensor, turn: Turn) -> Kept:
    """The keys and values of `[batch, length, hidden_size]` states."""
    key, value = (
        part(states).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in (attention.key, attention.value)
    )  # each [batch, num_heads, length, head_size]
    return Kept(turn(key), value)


def look_up(attention: Attention, states: Tensor, kept: Kept, seen: Tensor | None, turn: Turn) -> Tensor:
    """What `[batch, length, hidden_size]` states gather from kept tokens, where `seen` allows it."""
    query = attention.query(states).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    gathered = attend(turn(query), kept.keys, kept.values, seen, attention.dropout, scale=attention.scale)
    output: Tensor = attention.output(gathered.transpose(1, 2).flatten(2))
    return output


def remember(
    attention: Attention, states: Tensor, past: Kept | None, seen: Tensor | None, turn: Turn
) -> tuple[Tensor, Kept]:
    """Self-attention of new tokens to `past` and to themselves, and what is kept of both."""
    kept = keys_and_values(attention, states, turn)
    if past is not None:
        kept = Kept(torch.cat((past.keys, kept.keys), dim=2), torch.cat((past.values, kept.values), dim=2))
    return look_up(attention, states, kept, seen, turn), kept


def seen_in_steps(real: Tensor, new: int) -> Tensor:
    """Whom the last `new` of the tokens see, causally: `[batch, 1, new, seen]` from `[batch, seen]`.

    Padding is seen by nobody but itself, since attention to nothing at all is not a number.
    """
    places = torch.arange(real.size(1), device=real.device)
    distance = places[-new:, None] - places  # [new, seen], above 0 where the key comes before
    return ((real[:, None] & (distance > 0)) | (distance == 0))[:, None]


class CachedTransformer(nn.Module):
    """A trained causal network, read in steps; its states are those of one pass over the whole rows.

    >>> from polyseme.models.transformer.config import AttentionChoices, TransformerConfig
    >>> causal = AttentionChoices(causal=True)
    >>> config = TransformerConfig(vocab_size=9, hidden_size=8, num_heads=1, attention=causal)
    >>> network = CachedTransformer(Transformer(config).eval())
    >>> states, cache = network(torch.tensor([[1, 2, 3]]))
    >>> states, cache = network(torch.tensor([[4]]), cache)
    >>> states.shape, cache.real.shape
    (torch.Size([1, 1, 8]), torch.Size([1, 4]))
    """

    def __init__(self, backbone: Transformer) -> None:
        super().__init__()
        attention = backbone.config.attention
        if not attention.causal or attention.window is not None:
            raise ValueError(
                "only a network whose tokens see all that stands before them, and nothing else, can be read "
                "in steps (attention.causal, and no attention.window); read the whole rows instead"
            )
        self.backbone = backbone
        self._step = STEPS[backbone.config.norm_position]

    def forward(
        self, input_ids: Tensor, cache: Cache | None = None, *, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Cache]:
        """The last states of new tokens `[batch, new]` behind those in the cache, and the larger cache.

        Rows may be padded on either side: places count real tokens (`attention_mask`) only.
        """
        backbone, new = self.backbone, input_ids.size(1)
        real = (
            torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        )
        real = real if cache is None else torch.cat((cache.real, real), dim=1)  # [batch, seen]
        position_ids = (real.cumsum(dim=1) - 1).clamp(min=0)[:, -new:]
        view = backbone.views[0]
        assert isinstance(view, View)
        turn = view.turn(new, position_ids)
        seen = seen_in_steps(real, new)
        states = backbone.projection(backbone.embeddings(Batch(input_ids, position_ids=position_ids)))
        layers: list[Kept] = []
        for number, (layer, _) in enumerate(backbone.course):
            past = None if cache is None else cache.layers[number]
            module = backbone.layers[layer]
            assert isinstance(module, Layer)
            states, kept = self._step(module, states, past, seen, turn)
            layers.append(kept)
        return backbone.final_norm(states), Cache(tuple(layers), real)


def step_before(
    layer: Layer, states: Tensor, past: Kept | None, seen: Tensor, turn: Turn
) -> tuple[Tensor, Kept]:
    """A layer whose sublayers' inputs are normalised."""
    attended, kept = remember(layer.attention, layer.attention_norm(states), past, seen, turn)
    states = states + attended
    return states + layer.feedforward(layer.feedforward_norm(states)), kept


def step_after(
    layer: Layer, states: Tensor, past: Kept | None, seen: Tensor, turn: Turn
) -> tuple[Tensor, Kept]:
    """A layer whose sums are normalised."""
    attended, kept = remember(layer.attention, states, past, seen, turn)
    states = layer.attention_norm(states + attended)
    return layer.feedforward_norm(states + layer.feedforward(states)), kept


STEPS: dict[str, Callable[[Layer, Tensor, Kept | None, Tensor, Turn], tuple[Tensor, Kept]]] = {
    "before": step_before,
    "after": step_after,
}
