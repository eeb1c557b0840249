"""What stands on a backbone: states to scores of tokens, of pairs and of classes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.models.activations import ACTIVATIONS
from polyseme.models.batch import States
from polyseme.models.initialising import initialise
from polyseme.models.pooling import POOLINGS, pool
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


class CausalLMHead(nn.Module):
    """States to the scores of every token that may come next: products with the token table, and no more
    (Radford et al. 2018, equation 2)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def forward(self, hidden_states: Tensor, table: Tensor) -> Tensor:
        """`[predictions, hidden_size]` states and the `[vocab_size, hidden_size]` table to logits."""
        return F.linear(hidden_states, table)


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


class ReplacedTokenHead(nn.Module):
    """Every token's state to one score: above 0 where it looks replaced (Clark et al. 2020, section 2)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.activation]()
        self.score = nn.Linear(config.hidden_size, 1)
        initialise(self, config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[batch, length, hidden_size]` to `[batch, length]`."""
        logits: Tensor = self.score(self.activation(self.dense(hidden_states)))  # [batch, length, 1]
        return logits.squeeze(-1)


class ClassificationHead(nn.Module):
    """A text's states to one score a class.

    `pooling` is `pooler` (what the backbone has pooled) or a way of pooling the last states; `transform`
    what a published family does with that before the scores: a dense layer and `tanh` (RoBERTa, XLNet),
    `gelu` (ELECTRA), `relu` (DistilBERT), or the configuration's activation and a norm (ModernBERT).
    `dropout` is the configuration's unless another one is given (ALBERT, DistilBERT).
    """

    def __init__(
        self,
        config: TransformerConfig,
        num_labels: int,
        pooling: str,
        transform: str = "none",
        *,
        bias: bool = True,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        if pooling != "pooler" and pooling not in POOLINGS:
            known = ", ".join(["pooler", *POOLINGS])
            raise ValueError(f"there is no pooling {pooling!r} of a classifier; choose {known}")
        if pooling == "pooler" and not config.pooler:
            raise ValueError("pooling 'pooler' needs a model with a pooler; choose 'first' or 'mean'")
        self.pooling, self.kind = pooling, transform
        self.transform = TRANSFORMS[transform](config)
        self.dropout = nn.Dropout(config.dropout if dropout is None else dropout)
        self.dense = nn.Linear(config.hidden_size, num_labels, bias=bias)
        initialise(self, config)

    def forward(self, states: States, attention_mask: Tensor | None) -> Tensor:
        """`[batch, num_labels]`"""
        pooled = (
            states.pooled if self.pooling == "pooler" else pool(states.last, attention_mask, self.pooling)
        )  # [batch, hidden_size]
        logits: Tensor = self.dense(self.dropout(self.transform(pooled)))
        return logits


class DenseAndBend(nn.Module):
    """Dropout, unless the family has none here, a dense layer, and a bend that it always has."""

    def __init__(self, config: TransformerConfig, bend: nn.Module, *, drops: bool = True) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout if drops else 0.0)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.bend = bend

    def forward(self, pooled: Tensor) -> Tensor:
        transformed: Tensor = self.bend(self.dense(self.dropout(pooled)))
        return transformed


class DenseAndNorm(nn.Module):
    """A dense layer, the configuration's activation, and a norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]()
        self.norm = norm(config)

    def forward(self, pooled: Tensor) -> Tensor:
        transformed: Tensor = self.norm(self.activation(self.dense(pooled)))
        return transformed


TRANSFORMS: dict[str, Callable[[TransformerConfig], nn.Module]] = {
    "none": lambda config: nn.Identity(),
    "norm": DenseAndNorm,
    "tanh": lambda config: DenseAndBend(config, nn.Tanh()),
    "gelu": lambda config: DenseAndBend(config, nn.GELU()),
    "relu": lambda config: DenseAndBend(config, nn.ReLU(), drops=False),
}
