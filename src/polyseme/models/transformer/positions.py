"""Order told inside attention: what is done to queries and keys before they meet."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from polyseme.models.transformer.config import TransformerConfig

Turn = Callable[[Tensor], Tensor]
"""Queries or keys to the same, changed by their places: `[batch, num_heads, length, head_size]`."""


class Unturned(nn.Module):
    """Queries and keys stay as they are."""

    def __init__(self, config: TransformerConfig) -> None:
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

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        exponents = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
        places = torch.arange(config.max_position_embeddings, dtype=torch.float32)
        angles = torch.outer(places, 1.0 / config.rotary_base**exponents)  # [places, head_size / 2]
        self.register_buffer("cos", angles.cos(), persistent=False)
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


TURNS: dict[str, Callable[[TransformerConfig], nn.Module]] = {
    "learned": Unturned,
    "rotary": Rotary,
    "none": Unturned,
}
