"""Every way to compute attention is the same attention."""

import pytest
import torch
from rounding import unit
from torch import Tensor
from torch.nn import functional as F

from polyseme.models.dropout import Dropout
from polyseme.models.transformer import attention
from polyseme.models.transformer.attention import attend
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.positions import Rotary

NONE = Dropout(0.0)


def heads(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    query, key, value = torch.randn(3, 2, 3, 9, 8).to(dtype).unbind()
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


@pytest.mark.parametrize("masked", [False, True])
def test_low_precision_attention_differs_from_the_exact_one_by_rounding_only(masked: bool) -> None:
    for seed in range(20):
        low, seen = heads(seed, torch.bfloat16), None
        exact = [part.detach().double().requires_grad_() for part in low]
        if masked:
            seen = (torch.rand(2, 1, 9, 9) < 0.5) | torch.eye(9, dtype=torch.bool)
        gathered, wanted = attend(*low, seen, NONE), F.scaled_dot_product_attention(*exact, seen)
        direction = torch.randn_like(wanted)
        gathered.backward(direction.bfloat16())
        wanted.backward(direction)
        # Scores, shares and the result are rounded, and on the way back each of their gradients again.
        assert (gathered - wanted).abs().max() < 8 * unit(torch.bfloat16)
        for ours, theirs in zip(low, exact, strict=True):
            error = 5 * theirs.grad.abs().max() + 8
            assert (ours.grad - theirs.grad).abs().max() < error * unit(torch.bfloat16)


def test_probabilities_are_dropped_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = heads(0, torch.float64)
    dropout = Dropout(0.25)
    torch.manual_seed(1)
    gathered = attend(query, key, value, None, dropout)
    scores = query @ key.transpose(-1, -2) / 8**0.5
    torch.manual_seed(1)
    wanted = dropout(scores.softmax(dim=-1)) @ value
    assert (gathered - wanted).abs().max() < 1e-12
    assert torch.equal(
        attend(query, key, value, None, dropout.eval()), F.scaled_dot_product_attention(query, key, value)
    )


def test_rows_longer_than_what_is_written_out_take_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = heads(0, torch.bfloat16)
    written_out = attend(*parts, None, NONE)
    monkeypatch.setattr(attention, "LONGEST_WRITTEN_OUT", 8)
    fused = attend(*parts, None, NONE)
    assert torch.equal(fused, F.scaled_dot_product_attention(*parts))
    assert (fused - written_out).abs().max() < 8 * unit(torch.bfloat16)


def test_turning_keeps_lengths_and_depends_on_distances_only() -> None:
    config = TransformerConfig(vocab_size=5, hidden_size=16, num_heads=2, positions="rotary")
    rotary = Rotary(config).double()
    states = torch.randn(1, 2, 1, 8, dtype=torch.float64).expand(1, 2, 40, 8)
    turned = rotary(40, None)(states)
    assert (turned.norm(dim=-1) - states.norm(dim=-1)).abs().max() < 1e-6
    products = turned @ turned.transpose(-1, -2)
    for distance in (1, 7, 20):
        diagonal = products.diagonal(distance, -2, -1)
        assert (diagonal - diagonal[..., :1]).abs().max() < 1e-5


def test_turning_has_the_gradient_that_differences_show() -> None:
    config = TransformerConfig(vocab_size=5, hidden_size=8, num_heads=2, positions="rotary")
    turn = Rotary(config).double()(3, torch.tensor([[0, 5, 2]]))
    assert torch.autograd.gradcheck(turn, torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True))
