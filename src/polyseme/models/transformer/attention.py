"""Multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.models.dropout import Dropout
from polyseme.models.precision import lowered
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.positions import Turn

LONGEST_WRITTEN_OUT = 512
"""Tokens in a row up to which the scores of all pairs are written out where that is faster."""


class Attention(nn.Module):
    """Every token gathers from the tokens it may see: `[batch, length, hidden_size]` in and out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.num_heads * config.head_size
        self.query = nn.Linear(size, inner, bias=config.bias)
        self.key = nn.Linear(size, inner, bias=config.bias)
        self.value = nn.Linear(size, inner, bias=config.bias)
        self.output = nn.Linear(inner, size, bias=config.bias)
        self.num_heads = config.num_heads
        self.scale = config.head_size**-0.5 if config.attention.scaled else 1.0
        self.dropout = Dropout(config.attention_dropout)

    def forward(self, hidden_states: Tensor, seen: Tensor | None, turn: Turn) -> Tensor:
        batch, length, _ = hidden_states.shape
        hidden_states = lowered(hidden_states)
        # One product for all three would need their weights joined in each step, and gains nothing.
        query, key, value = (
            part(hidden_states).view(batch, length, self.num_heads, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )  # each [batch, num_heads, length, head_size]
        gathered = attend(turn(query), turn(key), value, seen, self.dropout, scale=self.scale)
        output: Tensor = self.output(gathered.transpose(1, 2).reshape(batch, length, -1))
        return output


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor | None,
    dropout: Dropout,
    *,
    scale: float | None = None,
) -> Tensor:
    """softmax(query · key · scale) · value, by the fastest way that there is; the scale is 1 / √head_size
    unless another one is given.

    That is torch's fused kernel, but for two cases on the CPU: it cannot drop, and in bf16 its backward
    pass takes three times as long as plain products where rows are short.
    """
    if seen is not None and seen.dtype != torch.bool:
        seen = seen.to(query.dtype)
    drops = dropout.training and dropout.share > 0
    short = query.dtype == torch.bfloat16 and query.size(-2) <= LONGEST_WRITTEN_OUT
    if query.device.type != "cpu" or not (drops or short):
        return F.scaled_dot_product_attention(
            query, key, value, seen, dropout_p=dropout.share if drops else 0.0, scale=scale
        )
    scale = query.size(-1) ** -0.5 if scale is None else scale
    scores = query @ key.transpose(-1, -2) * scale  # [batch, num_heads, length, length]
    if seen is not None:
        scores = scores + added(seen, scores.dtype)
    probabilities: Tensor = dropout(scores.softmax(dim=-1, dtype=scores.dtype))
    return probabilities @ value


def added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Who sees whom as numbers to be added to scores: 0 where it is true, −∞ where it is false."""
    if seen.dtype != torch.bool:
        return seen
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, float("-inf"))
