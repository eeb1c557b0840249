"""Order told inside attention: what is done to queries and keys before they meet, or to their scores."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from polyseme.models.transformer.config import TransformerConfig

Turn = Callable[[Tensor], Tensor]
"""Queries or keys to the same, changed by their places: `[batch, num_heads, length, head_size]`."""


class Unturned(nn.Module):
    """Queries and keys stay as they are."""

    def __init__(self, config: TransformerConfig, *, local: bool = False) -> None:
        super().__init__()

    def forward(self, length: int, position_ids: Tensor | None) -> Turn:
        return _same


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021, section 3.4.2): pairs of numbers turn with the token's place.

    The pairs are those of the published checkpoints: number i of a head goes with number
    i + head_size / 2. Angles are computed in float32 whatever the model's precision, since at place
    8,000 a shorter float would miss whole turns.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: TransformerConfig, *, local: bool = False) -> None:
        super().__init__()
        rotary = config.attention.rotary
        self.base = rotary.local_base if local and rotary.local_base is not None else rotary.base
        self.head_size, self.most = config.head_size, config.max_position_embeddings
        self.compute_buffers()

    def compute_buffers(self) -> None:
        """The tables of all places, which follow from the configuration and are stored nowhere."""
        exponents = torch.arange(0, self.head_size, 2, dtype=torch.float32) / self.head_size
        angles = torch.outer(torch.arange(self.most, dtype=torch.float32), 1.0 / self.base**exponents)
        self.register_buffer("cos", angles.cos(), persistent=False)  # [places, head_size / 2]
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, length: int, position_ids: Tensor | None) -> Turn:
        if position_ids is None:
            cos, sin = self.cos[:length], self.sin[:length]  # [length, head_size / 2]
        else:
            cos, sin = self.cos[position_ids][:, None], self.sin[position_ids][:, None]

        def turn(states: Tensor) -> Tensor:
            turned: Tensor = Turning.apply(states, cos.to(states.dtype), sin.to(states.dtype))  # type: ignore[no-untyped-call]
            return turned

        return turn


class Turning(torch.autograd.Function):
    """Each pair turned by its angle; backwards, by the angle's opposite. No copy is kept of the states."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(states, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, -sin), None, None


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = states.new_empty(states.shape)
    (left, right), (new_left, new_right) = states.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    torch.mul(left, cos, out=new_left).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=new_right).addcmul_(left, sin)
    return turned


def _same(states: Tensor) -> Tensor:
    return states


TURNS: dict[str, Callable[..., nn.Module]] = {
    "learned": Unturned,
    "sinusoidal": Unturned,
    "rotary": Rotary,
    "bucketed": Unturned,
    "none": Unturned,
}


class Unbiased(nn.Module):
    """Scores do not depend on distances."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def forward(self, mask: Tensor | None, queries: Tensor, keys: Tensor) -> Tensor | None:
        return mask


class Bucketed(nn.Module):
    """For each head a learned number for each range of distances, added to the scores of all layers.

    Raffel et al. 2020, section 2.1: half of the buckets hold one distance each, the others ranges that grow
    with it. Without causal attention, half of all are for the keys that come after their query.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        choices = config.attention.bucketed
        self.both_sides = not config.attention.causal
        self.buckets = choices.buckets // 2 if self.both_sides else choices.buckets
        self.max_distance = choices.max_distance
        self.weight = nn.Parameter(torch.empty(choices.buckets, config.num_heads))

    def forward(self, mask: Tensor | None, queries: Tensor, keys: Tensor) -> Tensor:
        """The mask as numbers, from the places of queries and keys: `[batch or 1, num_heads, queries,
        keys]`."""
        bucket = self.bucket(keys - queries[:, None])  # [queries, keys]
        bias = nn.functional.embedding(bucket, self.weight).permute(2, 0, 1)[None]
        return bias if mask is None else bias.masked_fill(~mask, float("-inf"))

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance from a query to a key; below 0 the key comes before."""
        behind = -distance
        away = distance.abs() if self.both_sides else behind.clamp(min=0)
        exact = self.buckets // 2
        # In float32 as published: in a longer float some distances would fall into the next bucket.
        growth = torch.log(away.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        wide = (exact + (growth * (self.buckets - exact)).long()).clamp(max=self.buckets - 1)
        bucket = torch.where(away < exact, away, wide)
        return bucket + (distance > 0) * self.buckets if self.both_sides else bucket


BIASES: dict[str, Callable[[TransformerConfig], nn.Module]] = {
    "learned": Unbiased,
    "sinusoidal": Unbiased,
    "rotary": Unbiased,
    "bucketed": Bucketed,
    "none": Unbiased,
}
