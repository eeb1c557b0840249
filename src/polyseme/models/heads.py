"""What stands on a backbone: states to scores of tokens, of pairs and of classes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.models.activations import ACTIVATIONS
from polyseme.models.batch import States
from polyseme.models.initialising import initialise
from polyseme.models.pooling import pool
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.embeddings import norm


class MaskedLMHead(nn.Module):
    """States to the scores of every token of the vocabulary; the decoder is the token table itself."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]()
        self.norm = norm(config, config.embedding_size)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))
        initialise(self, config)

    def transform(self, hidden_states: Tensor) -> Tensor:
        """What is compared with each row of the token table: `[predictions, embedding_size]`."""
        transformed: Tensor = self.norm(self.activation(self.dense(hidden_states)))
        return transformed

    def forward(self, hidden_states: Tensor, table: Tensor) -> Tensor:
        """`[predictions, hidden_size]` states and the `[vocab_size, embedding_size]` table to logits."""
        return F.linear(self.transform(hidden_states), table, self.bias)


class PairHead(nn.Module):
    """A pair's pooled state to two scores (next sentence: 0 follows, 1 random)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, 2)
        initialise(self, config)

    def forward(self, pooled: Tensor) -> Tensor:
        """`[batch, hidden_size]` to `[batch, 2]`."""
        logits: Tensor = self.dense(pooled)
        return logits


class ClassificationHead(nn.Module):
    """A text's states to one score a class, through the backbone's pooler or a head of its own.

    `pooling` is `pooler` (BERT: what the backbone has pooled, dropout, dense), `first` or `mean`
    (ModernBERT: pooled here, then dense, activation and norm, dropout, dense).
    """

    def __init__(self, config: TransformerConfig, num_labels: int, pooling: str) -> None:
        super().__init__()
        if pooling not in READERS:
            raise ValueError(f"there is no pooling {pooling!r} of a classifier; choose {', '.join(READERS)}")
        if pooling == "pooler" and not config.pooler:
            raise ValueError("pooling 'pooler' needs a model with a pooler; choose 'first' or 'mean'")
        self.pooling = pooling
        self.transform = READERS[pooling](config, pooling)
        self.dropout = nn.Dropout(config.dropout)
        self.dense = nn.Linear(config.hidden_size, num_labels)
        initialise(self, config)

    def forward(self, states: States, attention_mask: Tensor | None) -> Tensor:
        """`[batch, num_labels]`"""
        logits: Tensor = self.dense(self.dropout(self.transform(states, attention_mask)))
        return logits


class ReadPooled(nn.Module):
    """What the backbone has pooled, as it is."""

    def __init__(self, config: TransformerConfig, pooling: str) -> None:
        super().__init__()

    def forward(self, states: States, attention_mask: Tensor | None) -> Tensor:
        assert states.pooled is not None
        return states.pooled


class PoolAndTransform(nn.Module):
    """The last states pooled, then dense, activation and norm."""

    def __init__(self, config: TransformerConfig, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]()
        self.norm = norm(config)

    def forward(self, states: States, attention_mask: Tensor | None) -> Tensor:
        pooled = pool(states.last, attention_mask, self.pooling)
        transformed: Tensor = self.norm(self.activation(self.dense(pooled)))
        return transformed


READERS: dict[str, Callable[[TransformerConfig, str], nn.Module]] = {
    "pooler": ReadPooled,
    "first": PoolAndTransform,
    "mean": PoolAndTransform,
}
