"""Adaptive input and softmax: frequent tokens at full width, clusters of rarer ones that cost less.

Grave et al. 2017, "Efficient softmax approximation for GPUs", section 4; for the input too, with rows that
narrow from cluster to cluster: Baevski and Auli 2019, "Adaptive Input Representations", section 3.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.models.dropout import Dropout
from polyseme.models.initialising import initialise
from polyseme.models.transformer.config import TransformerConfig

Bounds = list[tuple[int, int]]


class Cluster(NamedTuple):
    """The tokens `first` to `stop` of the vocabulary and their rows."""

    first: int
    stop: int
    rows: Tensor
    """`[stop - first, size]`"""
    projection: Tensor | None
    """`[hidden_size, size]`; None where a row has the hidden size."""


class AdaptiveEmbedding(nn.Module):
    """A vector for each token, out of a table for each cluster and a projection to the hidden size."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        bounds = _bounds(config)
        sizes = [config.hidden_size // config.embedding.adaptive.divisor**i for i in range(len(bounds))]
        self.tables = nn.ModuleList(
            nn.Embedding(stop - first, size) for (first, stop), size in zip(bounds, sizes, strict=True)
        )
        self.projections = nn.ModuleList(nn.Linear(size, config.hidden_size, bias=False) for size in sizes)
        self.bounds = bounds

    def forward(self, input_ids: Tensor) -> Tensor:
        """`[batch, length]` to `[batch, length, hidden_size]`."""
        flat = input_ids.flatten()
        hidden_states: Tensor | None = None
        for (first, stop), table, projection in zip(self.bounds, self.tables, self.projections, strict=True):
            inside = ((flat >= first) & (flat < stop)).nonzero()[:, 0]
            rows = projection(table(flat[inside] - first))  # [tokens of the cluster, hidden_size]
            if hidden_states is None:
                hidden_states = rows.new_zeros(len(flat), rows.size(-1))
            hidden_states = hidden_states.index_copy(0, inside, rows)
        assert hidden_states is not None
        return hidden_states.view(*input_ids.shape, -1)


class AdaptiveLMHead(nn.Module):
    """States to −log p of tokens, cluster by cluster; the rows are those of the input.

    The first cluster is scored together with one score for each of the others, and a token of these costs
    what its cluster costs and what it costs inside it. Where rows are narrower than the states, the first
    cluster has a projection of its own and the others use the input's.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        adaptive = config.embedding.adaptive
        self.bounds = _bounds(config)
        self.backward = adaptive.tails == "backward"
        self.dropout = Dropout(config.dropout)
        tails = len(self.bounds) - 1
        if tails:
            self.clusters = nn.Parameter(torch.empty(tails, config.hidden_size))
            self.cluster_bias = nn.Parameter(torch.empty(tails))
        narrow = adaptive.divisor > 1
        self._rows = _tables if narrow else _slices
        if narrow:
            self.projection = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        sizes = [stop - first for first, stop in self.bounds] if narrow else [config.vocab_size]
        self.biases = nn.ParameterList(nn.Parameter(torch.empty(size)) for size in sizes)
        initialise(self, config)

    def costs(self, hidden_states: Tensor, labels: Tensor, tokens: nn.Module) -> Tensor:
        """−log p of each label, in the labels' order: `[predictions]`; `tokens` is the model's table."""
        first, *rest = self._clusters(tokens)
        hidden_states = self.dropout(hidden_states)
        heads = self._head(hidden_states, first)  # [predictions, first cluster + other clusters]
        columns = labels
        for number, (start, stop) in enumerate(self.bounds[1:]):
            columns = torch.where((labels >= start) & (labels < stop), self._column(number), columns)
        costs = F.cross_entropy(heads, columns, reduction="none")
        for number, (cluster, bias) in enumerate(rest, start=1):
            start, stop = self.bounds[number]
            inside = ((labels >= start) & (labels < stop)).nonzero()[:, 0]
            scores = _scores(hidden_states.index_select(0, inside), cluster, bias)
            within = F.cross_entropy(scores, labels[inside] - start, reduction="none")
            costs = costs.index_add(0, inside, within)
        return costs

    def forward(self, hidden_states: Tensor, tokens: nn.Module) -> Tensor:
        """log p of every token: `[predictions, vocab_size]`."""
        first, *rest = self._clusters(tokens)
        hidden_states = self.dropout(hidden_states)
        heads = self._head(hidden_states, first).log_softmax(dim=-1)
        parts = [heads[:, : self.bounds[0][1]]]
        for number, (cluster, bias) in enumerate(rest):
            column = self._column(number)
            inside = _scores(hidden_states, cluster, bias).log_softmax(dim=-1)
            parts.append(heads[:, column : column + 1] + inside)
        return torch.cat(parts, dim=-1)

    def _column(self, tail: int) -> int:
        """Where the score of a cluster stands behind the first one's."""
        tails = len(self.bounds) - 1
        return self.bounds[0][1] + (tails - 1 - tail if self.backward else tail)

    def _head(self, hidden_states: Tensor, first: tuple[Cluster, Tensor]) -> Tensor:
        cluster, bias = first
        own = self.projection.weight if len(self.biases) > 1 else None
        rows = cluster.rows
        if len(self.bounds) > 1:
            rows, bias = torch.cat((rows, self.clusters)), torch.cat((bias, self.cluster_bias))
        return _scores(hidden_states, Cluster(0, 0, rows, own), bias)

    def _clusters(self, tokens: nn.Module) -> list[tuple[Cluster, Tensor]]:
        return self._rows(tokens, self.bounds, self.biases)


def _tables(tokens: nn.Module, bounds: Bounds, biases: nn.ParameterList) -> list[tuple[Cluster, Tensor]]:
    """The clusters with their biases, out of a table each."""
    assert isinstance(tokens, AdaptiveEmbedding)
    found = []
    for number, (first, stop) in enumerate(bounds):
        table, projection = tokens.tables[number], tokens.projections[number]
        assert isinstance(table, nn.Embedding)
        assert isinstance(projection, nn.Linear)
        found.append((Cluster(first, stop, table.weight, projection.weight), biases[number]))
    return found


def _slices(tokens: nn.Module, bounds: Bounds, biases: nn.ParameterList) -> list[tuple[Cluster, Tensor]]:
    """The clusters with their biases, as slices of one table."""
    weight: Tensor = tokens.weight  # type: ignore[assignment]
    return [(Cluster(a, b, weight[a:b], None), biases[0][a:b]) for a, b in bounds]


def _scores(hidden_states: Tensor, cluster: Cluster, bias: Tensor) -> Tensor:
    """States against the rows of a cluster, at least in float32: `[predictions, tokens of the cluster]`."""
    if cluster.projection is not None:
        hidden_states = hidden_states @ cluster.projection
    scores = F.linear(hidden_states, cluster.rows, bias)
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _bounds(config: TransformerConfig) -> Bounds:
    """First token of each cluster, and one past its last."""
    edges = [0, *config.embedding.adaptive.cutoffs, config.vocab_size]
    return list(pairwise(edges))
