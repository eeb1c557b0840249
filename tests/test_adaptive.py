"""Adaptive input and softmax: probabilities that sum to one, and what a plain softmax says."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import one_thread, redraw
from torch.nn import functional as F

from polyseme.models.adaptive import AdaptiveEmbedding, AdaptiveLMHead
from polyseme.models.transformer.config import AdaptiveChoices, EmbeddingChoices, TransformerConfig
from polyseme.models.transformer.embeddings import Embeddings

assert one_thread  # a fixture, used by every test here
VOCABULARY = 23


def config(**adaptive: Any) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_heads=2,
        embedding=EmbeddingChoices(adaptive=AdaptiveChoices(**adaptive)),
    )


CHOICES = [
    {},
    {"cutoffs": (7,)},
    {"cutoffs": (4, 11, 17)},
    {"cutoffs": (4, 11, 17), "divisor": 2},
    {"cutoffs": (4, 11, 17), "divisor": 2, "tails": "backward"},
    {"cutoffs": (1, 2), "tails": "backward"},
]


def drawn(seed: int, **adaptive: Any) -> tuple[AdaptiveLMHead, torch.nn.Module, torch.Tensor]:
    """A head, a table, and states, in float64."""
    chosen = config(**adaptive)
    head, tokens = AdaptiveLMHead(chosen).double().eval(), Embeddings(chosen).tokens.double()
    redraw(head, seed)
    redraw(tokens, seed + 1)
    return head, tokens, torch.randn(40, 8, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("adaptive", CHOICES)
@pytest.mark.parametrize("seed", range(3))
def test_probabilities_sum_to_one_and_a_label_costs_its_own(seed: int, adaptive: dict[str, Any]) -> None:
    head, tokens, states = drawn(seed, **adaptive)
    logs = head(states, tokens)
    assert logs.shape == (40, VOCABULARY)
    assert (logs.exp().sum(dim=-1) - 1).abs().max() <= 1e-12
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, VOCABULARY, 40))
    costs = head.costs(states, labels, tokens)
    assert (costs + logs[torch.arange(40), labels]).abs().max() <= 1e-12


@pytest.mark.parametrize("adaptive", CHOICES)
def test_a_plain_computation_gives_the_same(adaptive: dict[str, Any]) -> None:
    head, tokens, states = drawn(5, **adaptive)
    edges = [0, *adaptive.get("cutoffs", ()), VOCABULARY]
    tails = len(edges) - 2
    narrow = adaptive.get("divisor", 1) > 1
    for i in range(40):
        for label in range(VOCABULARY):
            number = next(n for n in range(tails + 1) if edges[n] <= label < edges[n + 1])
            if narrow:
                rows = [table.weight for table in tokens.tables]
                widths = [p.weight for p in tokens.projections]
                widths[0] = head.projection.weight
                biases = list(head.biases)
                states_of = [states[i] @ width for width in widths]
            else:
                rows = [tokens.weight[a:b] for a, b in pairwise(edges)]
                biases = [head.biases[0][a:b] for a, b in pairwise(edges)]
                states_of = [states[i]] * (tails + 1)
            first = rows[0] @ states_of[0] + biases[0]
            if tails:
                first = torch.cat((first, head.clusters @ states_of[0] + head.cluster_bias))
            first = first.log_softmax(0)
            if number == 0:
                expected = first[label]
            else:
                back = adaptive.get("tails") == "backward"
                column = -number if back else edges[1] + number - 1
                inside = (rows[number] @ states_of[number] + biases[number]).log_softmax(0)
                expected = first[column] + inside[label - edges[number]]
            if label % 7 == i % 7:
                cost = head.costs(states[i : i + 1], torch.tensor([label]), tokens)[0]
                assert abs(float((cost + expected).detach())) <= 1e-12


def test_without_cutoffs_it_is_the_plain_softmax() -> None:
    head, tokens, states = drawn(2)
    labels = torch.arange(40) % VOCABULARY
    expected = F.cross_entropy(states @ tokens.weight.T + head.biases[0], labels, reduction="none")
    assert (head.costs(states, labels, tokens) - expected).abs().max() <= 1e-12
    assert [name for name, _ in head.named_parameters()] == ["biases.0"]


def test_costs_come_in_the_order_of_their_labels() -> None:
    head, tokens, states = drawn(3, cutoffs=(4, 11), divisor=2)
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, VOCABULARY, 40))
    turn = torch.randperm(40)
    together = head.costs(states, labels, tokens)
    assert (head.costs(states[turn], labels[turn], tokens) - together[turn]).abs().max() <= 1e-12
    assert head.costs(states[:0], labels[:0], tokens).shape == (0,)


def test_a_token_is_read_from_its_cluster() -> None:
    tokens = AdaptiveEmbedding(config(cutoffs=(4, 11), divisor=2))
    redraw(tokens, 0)
    ids = torch.arange(VOCABULARY).view(1, -1).repeat(2, 1)
    found = tokens(ids)
    for number, (first, stop) in enumerate(((0, 4), (4, 11), (11, VOCABULARY))):
        rows = tokens.tables[number].weight @ tokens.projections[number].weight.T
        assert torch.allclose(found[1, first:stop], rows)
    assert [table.weight.shape[1] for table in tokens.tables] == [8, 4, 2]


def test_every_weight_learns_and_the_table_learns_from_both_ends() -> None:
    head, tokens, states = drawn(4, cutoffs=(4, 11), divisor=2)
    read = tokens(torch.arange(VOCABULARY)[None])[0]
    head.costs(read + states[:VOCABULARY], torch.arange(VOCABULARY).roll(1), tokens).mean().backward()
    parameters = dict(head.named_parameters()) | dict(tokens.named_parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters.values())


@pytest.mark.parametrize(
    ("adaptive", "message"),
    [
        ({"cutoffs": (5, 5)}, "must be above 0 and ascend"),
        ({"cutoffs": (0, 5)}, "must be above 0 and ascend"),
        ({"divisor": 2}, "1 without cutoffs"),
        ({"cutoffs": (5, 23)}, "must lie below vocab_size 23"),
        ({"cutoffs": (5, 9), "divisor": 4}, "give a smaller divisor"),
    ],
)
def test_clusters_that_cannot_be_are_refused(adaptive: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**adaptive)
