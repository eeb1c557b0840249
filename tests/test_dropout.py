"""Dropout drops the share it is told to, fairly, and repeats from torch's seed."""

import pytest
import torch

from polyseme.models.dropout import Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_is_dropped_and_the_rest_scaled(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    states = torch.ones(1000, 401, dtype=dtype)
    dropped = Dropout(share)(states)
    kept = dropped != 0
    deviation = (share * (1 - share) / states.numel()) ** 0.5
    assert abs((~kept).double().mean().item() - share) < 3 * deviation + 2**-17
    assert torch.equal(dropped[kept].unique(), torch.tensor([1 / (1 - share)], dtype=dtype))
    # Neighbours share one random number: their fates must not.
    for step in (1, 2, 3, 4):
        both = (~kept.flatten()[:-step] & ~kept.flatten()[step:]).double().mean().item()
        assert abs(both - share**2) < 4 * (share**2 / states.numel()) ** 0.5


def test_gradients_pass_where_states_did() -> None:
    states = torch.randn(64, 65, requires_grad=True)
    dropped = Dropout(0.3)(states)
    dropped.backward(torch.ones_like(dropped))
    assert states.grad is not None
    assert torch.equal(states.grad, torch.where(dropped != 0, 1 / 0.7, 0.0))


def test_the_same_seed_drops_the_same_places_with_any_number_of_threads() -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(5)
            results.append(Dropout(0.2)(torch.ones(300, 301)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], Dropout(0.2)(torch.ones(300, 301)))


def test_nothing_is_dropped_outside_training_or_with_a_share_of_zero() -> None:
    states = torch.randn(3, 4)
    assert Dropout(0.5).eval()(states) is states
    assert Dropout(0.0)(states) is states
