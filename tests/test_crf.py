"""The conditional random field: what it computes step by step equals the sum over all sequences."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from polyseme.models.crf import CRF

SEEDS = range(12)


def random_case(seed: int, *, labels: int = 4, longest: int = 5) -> tuple[CRF, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    crf = CRF(labels).double()
    for parameter in crf.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    lengths = torch.randint(0, longest + 1, (6,), generator=generator)
    lengths[0], lengths[1] = longest, 1
    emissions = torch.randn(6, longest, labels, generator=generator, dtype=torch.float64) * 2
    return crf, emissions, torch.arange(longest) < lengths.unsqueeze(1)


def scores_of_all(crf: CRF, emissions: Tensor) -> dict[tuple[int, ...], float]:
    """Every sequence of one sentence with its score, summed up word by word."""
    start, between, end = (t.detach().numpy() for t in (crf.start, crf.transitions, crf.end))
    first, steps, last = (t.numpy() for t in (crf.first_forbidden, crf.between_forbidden, crf.last_forbidden))
    words = emissions.numpy()
    scores = {}
    for tags in itertools.product(range(len(start)), repeat=len(words)):
        score = start[tags[0]] + first[tags[0]] + end[tags[-1]] + last[tags[-1]]
        score += sum(words[place, tag] for place, tag in enumerate(tags))
        score += sum(between[a, b] + steps[a, b] for a, b in itertools.pairwise(tags))
        scores[tags] = float(score)
    return scores


def restricted(crf: CRF, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = len(crf.start)
    between = torch.from_numpy(rng.random((labels, labels)) < 0.6)
    between.fill_diagonal_(True)
    first = torch.from_numpy(rng.random(labels) < 0.6)
    first[0] = True
    crf.allow(first=first, between=between, last=torch.ones(labels, dtype=torch.bool))


@pytest.mark.parametrize("forbids", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_partition_best_path_and_marginals_equal_brute_force(seed: int, forbids: bool) -> None:
    crf, emissions, mask = random_case(seed)
    if forbids:
        restricted(crf, seed)
    partition, best = crf.log_partition(emissions, mask), crf.best(emissions, mask)
    marginals = crf.marginals(emissions, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        if not length:
            assert partition[row] == 0
            assert not best[row].any()
            assert not marginals[row].any()
            continue
        scores = scores_of_all(crf, emissions[row, :length])
        log_sum = np.logaddexp.reduce(list(scores.values()))
        assert partition[row].item() == pytest.approx(log_sum, abs=1e-9)
        assert tuple(best[row, :length].tolist()) == max(scores, key=scores.__getitem__)
        assert not best[row, length:].any()
        expected = np.zeros((mask.shape[1], emissions.shape[2]))
        for tags, score in scores.items():
            for place, tag in enumerate(tags):
                expected[place, tag] += np.exp(score - log_sum)
        np.testing.assert_allclose(marginals[row].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_likelihood_of_tags_is_their_share_of_all_sequences(seed: int) -> None:
    crf, emissions, mask = random_case(seed)
    labels = torch.randint(0, 4, mask.shape, generator=torch.Generator().manual_seed(seed))
    likelihood = crf.log_likelihood(emissions, labels.masked_fill(~mask, -100), mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        if length:
            scores = scores_of_all(crf, emissions[row, :length])
            expected = scores[tuple(labels[row, :length].tolist())] - np.logaddexp.reduce(
                list(scores.values())
            )
            assert likelihood[row].item() == pytest.approx(expected, abs=1e-9)


def test_a_sentence_gets_the_same_alone_and_among_others() -> None:
    crf, emissions, mask = random_case(3, longest=7)
    together = crf.log_partition(emissions, mask), crf.best(emissions, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = emissions[row : row + 1, : max(length, 1)], mask[row : row + 1, : max(length, 1)]
        assert torch.equal(crf.log_partition(*alone)[0], together[0][row])
        assert torch.equal(crf.best(*alone)[0], together[1][row, : max(length, 1)])


def test_what_is_forbidden_is_never_chosen_and_what_is_beside_the_words_learns_nothing() -> None:
    crf = CRF(3)
    between = torch.tensor([[True, True, False], [False, True, True], [True, False, True]])
    first = torch.tensor([True, False, False])
    crf.allow(first=first, between=between, last=torch.ones(3, dtype=torch.bool))
    generator = torch.Generator().manual_seed(0)
    emissions = (torch.randn(40, 9, 3, generator=generator) * 50).requires_grad_()
    mask = torch.arange(9) < torch.randint(1, 10, (40, 1), generator=generator)
    best = crf.best(emissions, mask)
    for tags, length in zip(best.tolist(), mask.sum(1).tolist(), strict=True):
        assert tags[0] == 0
        assert all(between[a, b] for a, b in itertools.pairwise(tags[:length]))
    (-crf.log_likelihood(emissions, best, mask)).sum().backward()
    assert emissions.grad is not None
    assert not emissions.grad[~mask].any()
    assert torch.isfinite(emissions.grad).all()
    assert crf.transitions.grad is not None
    assert not crf.transitions.grad[~between].any()


def test_its_gradients_are_those_of_finite_differences() -> None:
    crf, emissions, mask = random_case(5, labels=3, longest=3)
    labels = torch.zeros(mask.shape, dtype=torch.int64)
    emissions.requires_grad_()
    (gradient,) = torch.autograd.grad(crf.log_likelihood(emissions, labels, mask).sum(), emissions)
    step = 1e-5
    with torch.no_grad():
        for place in itertools.product(*map(range, emissions.shape)):
            moved = [emissions.clone() for _ in range(2)]
            moved[0][place] += step
            moved[1][place] -= step
            above, below = (crf.log_likelihood(words, labels, mask).sum() for words in moved)
            assert gradient[place].item() == pytest.approx((above - below).item() / (2 * step), abs=1e-7)
