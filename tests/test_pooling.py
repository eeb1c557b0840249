"""Pooling counts real tokens only, wherever the padding stands."""

import pytest
import torch

from polyseme.models.pooling import POOLINGS, pool


def reference(states: torch.Tensor, how: str) -> torch.Tensor:
    """The definition, for one text without padding: `[length, hidden_size]`."""
    return {
        "first": lambda: states[0],
        "last": lambda: states[-1],
        "mean": lambda: states.mean(dim=0),
        "max": lambda: states.max(dim=0).values,
        "mean-max": lambda: torch.cat((states.mean(dim=0), states.max(dim=0).values)),
    }[how]()


@pytest.mark.parametrize("how", POOLINGS)
def test_padding_on_either_side_changes_nothing(how: str) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        states = torch.randn(1, 7, 5, dtype=torch.float64) - 3
        junk = torch.full((1, 4, 5), 1e9, dtype=torch.float64)
        text, padding = torch.ones(1, 7), torch.zeros(1, 4)
        expected = reference(states[0], how)
        for pooled in (
            pool(states, None, how),
            pool(torch.cat((states, junk), dim=1), torch.cat((text, padding), dim=1), how),
            pool(torch.cat((junk, states), dim=1), torch.cat((padding, text), dim=1).bool(), how),
        ):
            assert (pooled[0] - expected).abs().max() <= 1e-12


@pytest.mark.parametrize("how", POOLINGS)
def test_a_row_of_padding_only_gives_zeros(how: str) -> None:
    pooled = pool(torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [0, 0, 0]]), how)
    assert pooled.isfinite().all()
    assert not pooled[1].any()


def test_an_unknown_pooling_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"no pooling 'middle'; choose one of first, last, mean, max, mean-max"
    ):
        pool(torch.zeros(1, 2, 3), None, "middle")
