"""Multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.positions import Turn


class Attention(nn.Module):
    """Every token gathers from the tokens it may see: `[batch, length, hidden_size]` in and out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.query = nn.Linear(size, size, bias=config.bias)
        self.key = nn.Linear(size, size, bias=config.bias)
        self.value = nn.Linear(size, size, bias=config.bias)
        self.output = nn.Linear(size, size, bias=config.bias)
        self.num_heads = config.num_heads
        self.dropout = config.attention_dropout

    def forward(self, hidden_states: Tensor, seen: Tensor | None, turn: Turn) -> Tensor:
        batch, length, size = hidden_states.shape
        projected = joined_linear(hidden_states, self.query, self.key, self.value)
        heads = projected.view(batch, length, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [batch, num_heads, length, head_size]
        gathered = F.scaled_dot_product_attention(
            turn(query), turn(key), value, seen, dropout_p=self.dropout if self.training else 0.0
        )
        output: Tensor = self.output(gathered.transpose(1, 2).reshape(batch, length, size))
        return output


def joined_linear(states: Tensor, *parts: nn.Linear) -> Tensor:
    """Several projections of the same states, side by side, as one matrix product.

    The parameters stay apart, as published folders have them; joining them costs less than reading the
    states once for each.
    """
    weight = torch.cat([part.weight for part in parts])
    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    return F.linear(states, weight, bias)
