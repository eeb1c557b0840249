"""Order told inside attention: what is done to queries and keys before they meet."""

from collections.abc import Callable

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
            left, right = states.chunk(2, dim=-1)
            turned = torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
            return turned.to(states.dtype)

        return turn


def _same(states: Tensor) -> Tensor:
    return states


TURNS: dict[str, Callable[[TransformerConfig], nn.Module]] = {
    "learned": Unturned,
    "rotary": Rotary,
    "none": Unturned,
}
