"""Attention over packed rows against float64, by every path, for ragged rows and every choice."""

from typing import Any

import pytest
import torch
from rounding import FORMATS, unit
from runtime_paths import PATHS, computing
from torch import Tensor

from polyseme.runtime.attention import attention
from polyseme.runtime.states import Quantised

LENGTHS = [5, 1, 1, 40, 0, 17, 16, 33, 150]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def starts_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def wanted(
    product: Tensor, lengths: list[int], *, num_heads: int, head_size: int, scale: float, **choices: Any
) -> Tensor:
    """Row by row and head by head, as the formula is written."""
    rows = []
    for part in product.double().split(lengths):
        length = len(part)
        query, key, value = part.view(length, 3, num_heads, head_size).permute(1, 2, 0, 3)
        if choices.get("turn"):
            query, key = (turned(states, *choices["turn"]) for states in (query, key))
        scores = query @ key.transpose(-1, -2) * scale
        away = torch.arange(length) - torch.arange(length)[:, None]
        if choices.get("distances") is not None:
            scores = scores + choices["distances"].double()[:, away + choices["distances"].size(1) // 2]
        if choices.get("causal"):
            scores = scores.masked_fill(away > 0, float("-inf"))
        if choices.get("reach") is not None:
            scores = scores.masked_fill(away.abs() > choices["reach"], float("-inf"))
        rows.append((scores.softmax(dim=-1) @ value).transpose(0, 1).reshape(length, num_heads * head_size))
    return torch.cat(rows)


def turned(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """A pair as a complex number, times that of its angle."""
    half = states.size(-1) // 2
    pairs = torch.complex(states[..., :half], states[..., half:])
    angles = torch.complex(cosines.double(), sines.double())[: states.size(-2)]
    return torch.cat(((pairs * angles).real, (pairs * angles).imag), dim=-1)


def angles(places: int, head_size: int) -> tuple[Tensor, Tensor]:
    rates = 100.0 ** -(torch.arange(0, head_size, 2) / head_size)
    table = torch.outer(torch.arange(places), rates)
    return table.cos(), table.sin()


UNITS = {"fp32": 32, "bf16": 5, "int8": 5}
"""How far a result may be from float64, in units of its format times the largest number that is there.

In bfloat16 there is a rounding each of turned queries and keys, scores, shares, values and the result; in
float32 there are the sums over a head, over the shares and over the values, and the exponential.
"""


def error(expected: Tensor, precision: str, units: float | None = None) -> Tensor:
    return (units or UNITS[precision]) * unit(FORMATS[precision]) * expected.abs().max()


CHOICES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"reach": 6},
    "narrow": {"reach": 0},
    "causal-window": {"reach": 20, "causal": True},
    "rotary": {"turn": angles(150, 12)},
    "distances": {"distances": numbers(3, 299, seed=5)},
    "exactly-enough-distances": {"distances": numbers(3, 299, seed=6), "causal": True},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_agrees_with_float64(path: str, precision: str, choice: str) -> None:
    product = numbers(sum(LENGTHS), 3 * 3 * 12).to(FORMATS[precision])
    shape: dict[str, Any] = {"num_heads": 3, "head_size": 12, "scale": 12**-0.5, **CHOICES[choice]}
    with computing(path):
        result = attention(precision=precision, **shape)(product, starts_of(LENGTHS))
    expected = wanted(product, LENGTHS, **shape)
    assert isinstance(result, Quantised) == (precision == "int8")
    plain = result.plain() if isinstance(result, Quantised) else result
    steps = result.scales[:, None] if isinstance(result, Quantised) else 0.0
    assert ((plain - expected).abs() <= error(expected, precision) + steps).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("num_heads", "head_size"), [(2, 64), (1, 32), (2, 26), (1, 7), (1, 80)])
def test_heads_of_any_size(path: str, num_heads: int, head_size: int) -> None:
    lengths = [2, 31, 48]
    for precision in ("fp32", "bf16"):
        product = numbers(sum(lengths), 3 * num_heads * head_size).to(FORMATS[precision])
        shape: dict[str, Any] = {"num_heads": num_heads, "head_size": head_size, "scale": head_size**-0.5}
        with computing(path):
            result = attention(precision=precision, **shape)(product, starts_of(lengths))
        expected = wanted(product, lengths, **shape)
        assert (result - expected).abs().max() <= error(expected, precision)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_long_rows_and_large_scores(path: str, precision: str) -> None:
    product = (numbers(513, 3 * 32) * 6).to(FORMATS[precision])
    shape: dict[str, Any] = {"num_heads": 1, "head_size": 32, "scale": 1.0}
    with computing(path):
        result = attention(precision=precision, **shape)(product, starts_of([512, 1]))
    expected = wanted(product, [512, 1], **shape)
    # Units of a score of up to a thousand, which the exponential turns into parts of the result.
    query, key, _ = product.double().split(32, dim=1)
    largest = float((query @ key.T).abs().max())
    assert (result - expected).abs().max() <= error(
        expected, precision, 2 * largest if precision == "fp32" else 8
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("what", ["queries", "keys", "values", "everything"])
def test_rows_of_zeros_and_equal_scores(path: str, what: str) -> None:
    # Whole numbers have a step of their own for each head: one that is 0 must not show hidden keys, sums of
    # equal shares of the largest values must not pass 32 bits, nor may all shares be rounded up.
    product = numbers(700 + 17, 3 * 32).to(torch.bfloat16)
    product[:, 64:] = 300.0
    product[
        :, {"queries": slice(32), "keys": slice(32, 64), "values": slice(64, 96)}.get(what, slice(96))
    ] = 0
    lengths = [700, 17]
    shape: dict[str, Any] = {"num_heads": 1, "head_size": 32, "scale": 0.2, "reach": 600}
    with computing(path):
        result = attention(precision="bf16", **shape)(product, starts_of(lengths))
    expected = wanted(product, lengths, **shape)
    assert (result - expected).abs().max() <= error(expected, "bf16", 1.3)


@pytest.mark.parametrize("path", PATHS)
def test_a_row_has_the_same_result_in_any_company(path: str) -> None:
    product = numbers(60, 3 * 16)
    with computing(path):
        made = attention(num_heads=1, head_size=16, scale=0.25, precision="fp32")
        together = made(product, starts_of([20, 20, 20]))
        alone = torch.cat([made(part, starts_of([20])) for part in product.split(20)])
    assert (together - alone).abs().max() <= error(together, "fp32")


def test_no_rows_give_no_states() -> None:
    with computing("native"):
        made = attention(num_heads=2, head_size=8, scale=1.0, precision="fp32")
        assert made(numbers(0, 48), torch.tensor([0])).shape == (0, 16)
