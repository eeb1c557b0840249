"""The first states: tokens, places and segments, each a vector, summed."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.models.adaptive import AdaptiveEmbedding
from polyseme.models.batch import Batch
from polyseme.models.dropout import Dropout
from polyseme.models.transformer.config import TransformerConfig


class Embeddings(nn.Module):
    """`[batch, length]` ids to `[batch, length, embedding_size]` states."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.tokens = TOKENS[config.embedding.adaptive.divisor > 1](config)
        self.scale = SCALES[config.embedding.scaled](config)
        self.positions = POSITIONS[config.positions](config)
        self.token_types = TOKEN_TYPES[config.type_vocab_size > 0](config)
        self.task_types = TaskTypes(config) if config.embedding.task_type_vocab_size else NothingAdded(config)
        self.norm = norm(config, config.embedding_size, wanted=config.embedding.norm)
        self.dropout = Dropout(config.dropout)

    def forward(self, batch: Batch) -> Tensor:
        hidden_states = self.scale(self.tokens(batch.input_ids))
        hidden_states = self.positions(hidden_states, batch)
        hidden_states = self.token_types(hidden_states, batch)
        hidden_states = self.task_types(hidden_states, batch)
        normalised: Tensor = self.dropout(self.norm(hidden_states))
        return normalised


def table(config: TransformerConfig) -> nn.Module:
    """A vector for each token."""
    return nn.Embedding(config.vocab_size, config.embedding_size)


def places(batch: Batch) -> Tensor | None:
    """Each token's place in its text; None where that is simply its place in the row."""
    if batch.position_ids is not None or batch.document_ids is None:
        return batch.position_ids
    numbers = torch.arange(batch.document_ids.size(1), device=batch.document_ids.device)
    starts = F.pad(batch.document_ids.diff(dim=1) != 0, (1, 0))
    return numbers - (numbers * starts).cummax(dim=1).values


class PositionTable(nn.Module):
    """A vector for each place in the text; where the table comes from is a subclass."""

    weight: Tensor

    def forward(self, hidden_states: Tensor, batch: Batch) -> Tensor:
        position_ids = places(batch)
        if position_ids is None:
            return hidden_states + self.weight[: hidden_states.size(1)]
        return hidden_states + F.embedding(position_ids, self.weight)


class LearnedPositions(PositionTable):
    """The table is learned like any other (Devlin et al. 2018)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        rows = config.embedding.position_offset + config.max_position_embeddings
        self.weight = nn.Parameter(torch.empty(rows, config.embedding_size))


class OffsetPositions(LearnedPositions):
    """Real tokens count from row `position_offset`, and padding has the row before (RoBERTa's code)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.offset, self.padding_id = config.embedding.position_offset, config.padding_id

    def forward(self, hidden_states: Tensor, batch: Batch) -> Tensor:
        position_ids = places(batch)
        if position_ids is None:
            real = batch.input_ids != self.padding_id
            position_ids = real.cumsum(dim=1) * real - 1
        return hidden_states + F.embedding(position_ids + self.offset, self.weight)


class SinusoidalPositions(PositionTable):
    """Sines in the even columns and cosines in the odd ones (Vaswani et al. 2017, section 3.5).

    The table is part of the saved state, since published folders hold one; it is not trained.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        table = sinusoids(config.max_position_embeddings, config.embedding_size)
        self.register_buffer("weight", table)


def sinusoids(rows: int, size: int) -> Tensor:
    """The sine and cosine of each place at wavelengths from 2π to 10,000 · 2π: `[rows, size]`."""
    rates = 10_000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.outer(torch.arange(rows, dtype=torch.float64), rates)  # [rows, ⌈size / 2⌉]
    waves = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
    return waves[:, :size].float()


class TokenTypes(nn.Module):
    """A vector for each segment; a batch that names none is all of segment 0."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.type_vocab_size, config.embedding_size))

    def forward(self, hidden_states: Tensor, batch: Batch) -> Tensor:
        if batch.token_type_ids is None:
            return hidden_states + self.weight[0]
        return hidden_states + F.embedding(batch.token_type_ids, self.weight)


class TaskTypes(nn.Module):
    """The vector of task 0 for every token: what the reference adds where no task is given."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.embedding.task_type_vocab_size, config.embedding_size))

    def forward(self, hidden_states: Tensor, batch: Batch) -> Tensor:
        return hidden_states + self.weight[0]


class NothingAdded(nn.Module):
    """Stands where the states get no such embedding."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def forward(self, hidden_states: Tensor, batch: Batch) -> Tensor:
        return hidden_states


class Scale(nn.Module):
    """The tokens' vectors times √hidden_size (Vaswani et al. 2017, section 3.4)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.factor = math.sqrt(config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states * self.factor


def unscaled(config: TransformerConfig) -> nn.Module:
    """The tokens' vectors as they are."""
    return nn.Identity()


def norm(config: TransformerConfig, size: int | None = None, *, wanted: bool = True) -> nn.Module:
    """The norm of this configuration over `size` numbers (the hidden size); none where none is wanted."""
    return NORMS[config.norm if wanted else "none"](config, size or config.hidden_size)


def layer_norm(config: TransformerConfig, size: int) -> nn.Module:
    """The mean taken off, divided by the deviation (Ba et al. 2016)."""
    return nn.LayerNorm(size, eps=config.layer_norm_eps, bias=config.bias)


def rms_norm(config: TransformerConfig, size: int) -> nn.Module:
    """Divided by the root mean square; there is no bias (Zhang and Sennrich 2019)."""
    return nn.RMSNorm(size, eps=config.layer_norm_eps)


def no_norm(config: TransformerConfig, size: int) -> nn.Module:
    """The states as they are."""
    return nn.Identity()


TOKENS: dict[bool, Callable[[TransformerConfig], Any]] = {True: AdaptiveEmbedding, False: table}
POSITIONS: dict[str, Callable[[TransformerConfig], nn.Module]] = {
    "learned": lambda config: LEARNED[config.embedding.position_offset > 0](config),
    "sinusoidal": SinusoidalPositions,
    "rotary": NothingAdded,
    "bucketed": NothingAdded,
    "none": NothingAdded,
    "relative": NothingAdded,
}
LEARNED: dict[bool, Callable[[TransformerConfig], nn.Module]] = {
    True: OffsetPositions,
    False: LearnedPositions,
}
TOKEN_TYPES: dict[bool, Callable[[TransformerConfig], nn.Module]] = {True: TokenTypes, False: NothingAdded}
SCALES: dict[bool, Callable[[TransformerConfig], nn.Module]] = {True: Scale, False: unscaled}
NORMS: dict[str, Callable[[TransformerConfig, int], nn.Module]] = {
    "layer": layer_norm,
    "rms": rms_norm,
    "none": no_norm,
}
