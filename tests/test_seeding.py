"""Chance as a pure function of its names."""

import numpy as np
import pytest

from polyseme.seeding import RowGenerator, derived, generator


def test_a_row_draws_the_same_in_any_company() -> None:
    alone = [RowGenerator(np.array([sample]), 7, "masks", 3).random(40)[0] for sample in range(50)]
    together = RowGenerator(np.arange(50), 7, "masks", 3).random(40)
    assert np.array_equal(np.stack(alone), together)


def test_how_much_was_drawn_does_not_matter_to_the_next_call() -> None:
    short, long = RowGenerator(np.arange(9), 1), RowGenerator(np.arange(9), 1)
    assert np.array_equal(short.bits(11), long.bits(30)[:, :11])
    second = short.bits(7)
    assert np.array_equal(second, long.bits(7))
    assert not np.any(second == RowGenerator(np.arange(9), 1).bits(7))


@pytest.mark.parametrize("axis", [0, 1])
def test_the_streams_are_uniform_and_not_correlated(axis: int) -> None:
    draws = RowGenerator(np.arange(2_000), 5, "test").random(500)
    counts = np.bincount((draws.reshape(-1) * 64).astype(int), minlength=64)
    expected = draws.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * np.sqrt(2 * 63)
    centred = draws - 0.5
    shifted = np.roll(centred, 1, axis=axis)
    assert abs((centred * shifted).mean() * 12) < 5 / np.sqrt(draws.size)


def test_seed_path_and_sample_all_matter() -> None:
    base = RowGenerator(np.array([4]), 1, "a", 2).bits(4)
    for other in (
        RowGenerator(np.array([5]), 1, "a", 2),
        RowGenerator(np.array([4]), 2, "a", 2),
        RowGenerator(np.array([4]), 1, "b", 2),
        RowGenerator(np.array([4]), 1, "a", 3),
    ):
        assert not np.any(other.bits(4) == base)


def test_a_number_and_its_digits_are_different_names() -> None:
    assert derived(0, 1) != derived(0, "1")
    assert generator(3, "x").integers(1 << 60) == generator(3, "x").integers(1 << 60)
