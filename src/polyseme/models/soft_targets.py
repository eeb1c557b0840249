"""Learning from a teacher's probabilities over a whole vocabulary, in as little memory as from one answer."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyseme.models.cross_entropy import BLOCK


class Scorer(NamedTuple):
    """What gives every token of the vocabulary a score: `hidden · tableᵀ + bias`."""

    hidden: Tensor
    """`[predictions, hidden_size]`"""
    table: Tensor
    """`[vocab_size, hidden_size]`"""
    bias: Tensor | None


def soft_divergence(student: Scorer, teacher: Scorer, weights: Tensor, *, temperature: float) -> Tensor:
    """T² · Σ weight · KL(teacher ‖ student), both with their scores divided by the temperature T.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2. `weights` are
    `[predictions]`; shares of 1 make the sum a mean. Equal to
    `F.kl_div(log_softmax(s / T), softmax(t / T), reduction="batchmean") * T ** 2` where they are even. The
    gradient reaches the student only. Both are computed block by block, so no table of
    `[predictions, vocab_size]` ever stands in memory.
    """
    device = student.hidden.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else student.hidden.dtype
    loss: Tensor = _SoftDivergence.apply(  # type: ignore[no-untyped-call]
        student.hidden.to(low),
        student.table.to(low),
        student.bias,
        Scorer(teacher.hidden.detach().to(low), teacher.table.detach().to(low), teacher.bias),
        weights,
        temperature,
    )
    return loss


class _SoftDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        table: Tensor,
        bias: Tensor | None,
        teacher: Scorer,
        weights: Tensor,
        temperature: float,
    ) -> Tensor:
        learns = any(ctx.needs_input_grad)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        of_hidden = torch.empty_like(hidden)
        of_table = torch.zeros_like(table, dtype=wide)
        of_bias = torch.zeros(table.size(0), dtype=wide, device=table.device)
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        rows = max(1, BLOCK // table.size(0))
        for start in range(0, len(hidden), rows):
            block = slice(start, start + rows)
            ours = _logs(hidden[block], table, bias, temperature)  # [rows, vocab_size]
            theirs = _logs(teacher.hidden[block], teacher.table, teacher.bias, temperature)
            probabilities, weight = theirs.exp(), weights[block, None].to(wide)
            loss += (weight * probabilities * (theirs - ours)).sum() * temperature**2
            if learns:
                scores = (ours.exp_() - probabilities) * (weight * temperature)
                of_bias += scores.sum(dim=0)
                scores = scores.to(hidden.dtype)
                of_hidden[block] = scores @ table
                of_table += scores.t() @ hidden[block]
        ctx.save_for_backward(of_hidden, of_table.to(table.dtype), None if bias is None else of_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_table, of_bias = ctx.saved_tensors
        of_bias = None if of_bias is None else of_bias * gradient
        return of_hidden * gradient, of_table * gradient, of_bias, None, None, None


def _logs(hidden: Tensor, table: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """Logarithms of the probabilities, in float32 or wider."""
    scores = (hidden @ table.t()).to(torch.promote_types(hidden.dtype, torch.float32))
    return ((scores if bias is None else scores + bias) / temperature).log_softmax(dim=-1)
