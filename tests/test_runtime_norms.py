"""Sums, norms and first states of packed tokens against float64, by every path and in every precision."""

import pytest
import torch
from rounding import FORMATS, rounded, summed, unit
from runtime_paths import PATHS, computing
from torch import Tensor
from torch.nn import functional as F

from polyseme.models.pooling import POOLINGS, pool
from polyseme.runtime.first_states import first_states
from polyseme.runtime.norms import norm
from polyseme.runtime.pooling import PACKED, pool_rows
from polyseme.runtime.states import RESIDUAL, Quantised

EPS = 1e-6


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def wanted(kind: str, total: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if kind == "layer":
        return F.layer_norm(total, total.shape[-1:], weight, bias, EPS)
    if kind == "rms":
        return total / (total.square().mean(dim=-1, keepdim=True) + EPS).sqrt() * weight
    return total


def near(states: Tensor | Quantised, wanted: Tensor, precision: str) -> bool:
    plain = states.plain() if isinstance(states, Quantised) else states
    apart = (plain.double() - wanted).abs()
    steps = states.scales[:, None].double() if isinstance(states, Quantised) else 0.0
    # A mean and a root over up to 512 numbers, added up in float32, of numbers about as large as the result;
    # one rounding of the result; half a step of the eight bits, and before that, by torch, one to bfloat16.
    sums = summed(wanted.abs().amax(), 16)
    dtype = torch.float32 if states_are_float32(states) else FORMATS[precision]
    return bool((apart <= sums + rounded(wanted, dtype, 1.01) + 0.51 * steps).all())


def states_are_float32(states: Tensor | Quantised) -> bool:
    return isinstance(states, Tensor) and states.dtype == torch.float32


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("kind", ["layer", "rms", "none"])
@pytest.mark.parametrize("position", ["after", "before"])
def test_sum_and_norm_agree_with_float64(path: str, precision: str, kind: str, position: str) -> None:
    dtype = RESIDUAL[position][precision]
    for tokens, size in ((1, 384), (7, 50)):
        residual, added = (numbers(tokens, size, seed=seed).add(0.5).to(dtype) for seed in (1, 2))
        weight, bias = numbers(size, seed=3), numbers(size, seed=4) * (kind == "layer")
        with computing(path):
            made = norm(kind, weight, bias, eps=EPS, position=position, precision=precision)
            both, alone = made(residual, added), made(residual, None)
        for result, total in ((both, residual.double() + added.double()), (alone, residual.double())):
            normed = wanted(kind, total, weight.double(), bias.double())
            assert result.residual.dtype == dtype
            assert near(result.residual, normed if position == "after" else total, precision)
            assert near(result.ready, normed, precision)
            assert isinstance(result.ready, Quantised) == (precision == "int8")


@pytest.mark.parametrize("path", PATHS)
def test_a_norm_without_weight_and_bias_only_normalises(path: str) -> None:
    x = numbers(3, 40)
    with computing(path):
        result = norm("layer", None, None, eps=EPS, position="after", precision="fp32")(x, None)
    assert near(result.ready, F.layer_norm(x.double(), (40,), eps=EPS), "fp32")


@pytest.mark.parametrize("path", PATHS)
def test_a_mean_far_from_zero_costs_no_digits(path: str) -> None:
    x = numbers(3, 384) + 1000
    with computing(path):
        result = norm("layer", None, None, eps=EPS, position="after", precision="fp32")(x, None)
    # Numbers near 1000 hold half a unit of it each, and so does their mean; the deviation is 1.
    error = 4 * unit(torch.float32) * 1000 * 1.1
    assert (result.ready - F.layer_norm(x.double(), (384,), eps=EPS)).abs().max() < error


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_first_states_are_the_sum_of_their_tables(path: str, precision: str) -> None:
    tokens, places, segments = numbers(20, 48), numbers(9, 48, seed=1), numbers(2, 48, seed=2)
    ids, place_ids = torch.tensor([3, 19, 0, 7]), torch.tensor([0, 1, 2, 8])
    segment_ids = torch.tensor([0, 1, 1, 0])
    with computing(path):
        bare = norm("none", None, None, eps=EPS, position="after", precision=precision)
        whole = first_states(tokens, places, segments, scale=2.0, norm=bare)
        told, untold = whole(ids, place_ids, segment_ids), whole(ids, place_ids, None)
        alone = first_states(tokens, None, None, norm=bare)(ids, None, None)
    total = (tokens[ids] * 2 + places[place_ids]).double()
    assert near(told.residual, total + segments[segment_ids], precision)
    assert near(untold.ready, total + segments[0], precision)
    assert near(alone.residual, tokens[ids].double(), precision)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("how", POOLINGS)
@pytest.mark.parametrize("size", [6, 64, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_rows_are_pooled_as_padded_ones(path: str, how: str, size: int, dtype: torch.dtype) -> None:
    lengths = [3, 0, 1, 5, 512]
    starts = torch.tensor([0, *lengths]).cumsum(0)
    states = numbers(int(starts[-1]), size).to(dtype)
    padded, real = torch.full((5, 512, size), 9.0), torch.zeros(5, 512, dtype=torch.bool)
    for row, length in enumerate(lengths):
        padded[row, :length] = states[starts[row] : starts[row + 1]]
        real[row, :length] = True
    with computing(path):
        found = pool_rows(states, starts, how)
    assert found.dtype == torch.float32
    # A mean of up to 512 numbers of about 1, added up in any order.
    exact = pool(padded.double(), real, how)
    sizes = pool(padded.double().abs(), real, how)
    assert ((found - exact).abs() <= summed(sizes, 512 if "mean" in how else 1)).all()


def test_poolings_have_the_same_names_packed_and_padded() -> None:
    assert set(PACKED) == set(POOLINGS)
    with pytest.raises(ValueError, match="no pooling 'middle'; choose one of first"):
        pool_rows(numbers(1, 2), torch.tensor([0, 1]), "middle")
