"""The blockwise cross-entropy is the plain one."""

import pytest
import torch
from rounding import unit
from torch import Tensor
from torch.nn import functional as F

from polyseme.models import cross_entropy
from polyseme.models.batch import IGNORED
from polyseme.models.cross_entropy import sparse_cross_entropy


def problem(seed: int, dtype: torch.dtype = torch.float64, rows: int = 13) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 8, generator=generator, dtype=dtype) * 3
    table = torch.randn(21, 8, generator=generator, dtype=dtype)
    bias = torch.randn(21, generator=generator, dtype=dtype)
    labels = torch.randint(0, 21, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < 0.3] = IGNORED
    return [hidden.requires_grad_(), table.requires_grad_(), bias.requires_grad_(), labels]


def plain(hidden: Tensor, table: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, table, bias), labels, ignore_index=IGNORED)


@pytest.mark.parametrize("block", [1, 50, 2**19])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_gradients_are_those_of_the_plain_form(
    block: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "BLOCK", block)
    for seed in range(10):
        ours, theirs = problem(seed, dtype), problem(seed, dtype)
        loss, wanted = sparse_cross_entropy(*ours), plain(*theirs)
        assert abs(loss - wanted) <= tolerance * abs(wanted)
        (3 * loss).backward()
        (3 * wanted).backward()
        for one, other in zip(ours[:3], theirs[:3], strict=True):
            assert (one.grad - other.grad).abs().max() <= tolerance * other.grad.abs().max()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_bias_and_with_smoothing_it_is_still_the_plain_form(smoothing: float) -> None:
    for seed in range(10):
        (hidden, table, _, labels), (other_hidden, other_table, _, _) = problem(seed), problem(seed)
        loss = sparse_cross_entropy(hidden, table, None, labels, label_smoothing=smoothing)
        wanted = F.cross_entropy(
            other_hidden @ other_table.t(), labels, ignore_index=IGNORED, label_smoothing=smoothing
        )
        assert abs(loss - wanted) <= 1e-12 * abs(wanted)
        loss.backward()
        wanted.backward()
        assert (hidden.grad - other_hidden.grad).abs().max() <= 1e-12
        assert (table.grad - other_table.grad).abs().max() <= 1e-12


def test_gradients_are_those_that_differences_show() -> None:
    *inputs, labels = problem(0)
    assert torch.autograd.gradcheck(lambda *parts: sparse_cross_entropy(*parts, labels), inputs)


def test_under_autocast_only_the_products_are_rounded() -> None:
    for seed in range(10):
        *inputs, labels = problem(seed, torch.float32, rows=200)
        with torch.autocast("cpu", torch.bfloat16):
            loss = sparse_cross_entropy(*inputs, labels)
        assert loss.dtype == torch.float32
        loss.backward()
        exact = problem(seed, torch.float32, rows=200)
        wanted = plain(*exact)
        wanted.backward()
        # Each product is of two rounded numbers, and is rounded.
        assert abs(loss - wanted) < 3 * unit(torch.bfloat16) * wanted
        for one, other in zip(inputs, exact, strict=False):
            assert one.grad.dtype == torch.float32
            assert (one.grad - other.grad).norm() < 5 * unit(torch.bfloat16) * other.grad.norm()


def test_scores_that_would_overflow_an_exponential_are_exact() -> None:
    hidden, table, bias, labels = problem(1)
    loss = sparse_cross_entropy(hidden * 1000, table, bias, labels)
    assert abs(loss - plain(hidden * 1000, table, bias, labels)) <= 1e-12 * loss


@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_to_predict_gives_zero_and_zero_gradients(rows: int) -> None:
    hidden, table, bias, labels = problem(0, rows=rows)
    loss = sparse_cross_entropy(hidden, table, bias, torch.full_like(labels, IGNORED))
    loss.backward()
    assert loss == 0
    assert all(part.grad is not None and not part.grad.any() for part in (hidden, table, bias))
