"""The first states: tokens, places and segments, each a vector, summed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.models.batch import Batch
from polyseme.models.dropout import Dropout
from polyseme.models.transformer.config import TransformerConfig


class Embeddings(nn.Module):
    """`[batch, length]` ids to `[batch, length, hidden_size]` states."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = POSITIONS[config.positions](config)
        self.token_types = TOKEN_TYPES[config.type_vocab_size > 0](config)
        self.norm = NORMS[config.embedding_norm](config)
        self.dropout = Dropout(config.dropout)

    def forward(self, batch: Batch) -> Tensor:
        hidden_states = self.tokens(batch.input_ids)
        hidden_states = self.positions(hidden_states, places(batch))
        hidden_states = self.token_types(hidden_states, batch.token_type_ids)
        normalised: Tensor = self.dropout(self.norm(hidden_states))
        return normalised


def places(batch: Batch) -> Tensor | None:
    """Each token's place in its text; None where that is simply its place in the row."""
    if batch.position_ids is not None or batch.document_ids is None:
        return batch.position_ids
    numbers = torch.arange(batch.document_ids.size(1), device=batch.document_ids.device)
    starts = F.pad(batch.document_ids.diff(dim=1) != 0, (1, 0))
    return numbers - (numbers * starts).cummax(dim=1).values


class LearnedPositions(nn.Module):
    """A vector for each place in the text."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.max_position_embeddings, config.hidden_size))

    def forward(self, hidden_states: Tensor, position_ids: Tensor | None) -> Tensor:
        if position_ids is None:
            return hidden_states + self.weight[: hidden_states.size(1)]
        return hidden_states + F.embedding(position_ids, self.weight)


class TokenTypes(nn.Module):
    """A vector for each segment; a batch that names none is all of segment 0."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.type_vocab_size, config.hidden_size))

    def forward(self, hidden_states: Tensor, token_type_ids: Tensor | None) -> Tensor:
        if token_type_ids is None:
            return hidden_states + self.weight[0]
        return hidden_states + F.embedding(token_type_ids, self.weight)


class NothingAdded(nn.Module):
    """Stands where the states get no such embedding."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def forward(self, hidden_states: Tensor, ids: Tensor | None) -> Tensor:
        return hidden_states


def layer_norm(config: TransformerConfig) -> nn.Module:
    """A layer norm over the hidden size."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=config.bias)


POSITIONS: dict[str, Callable[[TransformerConfig], nn.Module]] = {
    "learned": LearnedPositions,
    "rotary": NothingAdded,
    "none": NothingAdded,
}
TOKEN_TYPES: dict[bool, Callable[[TransformerConfig], nn.Module]] = {True: TokenTypes, False: NothingAdded}
NORMS: dict[bool, Callable[[TransformerConfig], nn.Module]] = {True: layer_norm, False: nn.Identity}
