"""The training loop: a module that turns a batch into a loss, and nothing else is known of it."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
import torch.nn as nn
from torch import Tensor

from polyseme.errors import PolysemeError
from polyseme.models.batch import Batch, Loss
from polyseme.training.optimizers import Optimizers


@dataclass(frozen=True)
class Step:
    """What one step was like."""

    number: int
    """Steps done, this one included."""
    loss: float
    parts: dict[str, float]
    tokens: int
    """Real tokens read, padding left out."""
    seconds: float
    gradient_norm: float
    skipped: bool
    """The loss or its gradient was not finite, so the weights were left as they were."""


SKIPPED = "the loss or its gradient was not finite; the step is skipped"


class LossError(PolysemeError):
    """A loss, a gradient or a weight is not finite."""


def train(
    compute: Callable[[Batch], Loss],
    batches: Iterable[Batch],
    optimizers: Optimizers,
    *,
    factor: Callable[[int], float],
    after: Callable[[Step], bool],
    first: int = 0,
    accumulation: int = 1,
    clip: float | None = 1.0,
    skip_non_finite: int = 0,
    precision: Literal["fp32", "bf16"] = "fp32",
    device: torch.device | str = "cpu",
    split: Callable[[Batch], Sequence[tuple[Batch, float]]] = lambda batch: ((batch, 1.0),),
) -> None:
    """Step after step until `after(step)` says True or the batches end.

    `factor(done)` scales the learning rates once `done` steps are done; `first` steps were done before.
    Gradients of `accumulation` batches are averaged; `split` cuts a batch into parts that are computed one
    after the other, whose losses count by their shares. A step whose loss or gradient is not finite changes
    no weight: the first `skip_non_finite` of them are skipped, the next one raises `LossError`.
    """
    number, left, stream = first, skip_non_finite, iter(batches)
    while group := list(islice(stream, accumulation)):
        begin = time.perf_counter()
        losses: list[tuple[Loss, float]] = []
        for batch, share in itertools.chain.from_iterable(map(split, group)):
            with autocast(precision, device):
                loss = compute(batch.to(device))
            torch.autograd.backward(loss.total * share / len(group))
            losses.append((loss, share))
        norm = gradient_norm(optimizers.parameters, clip)
        value = sum(float(loss.total.detach()) * share for loss, share in losses) / len(group)
        good = math.isfinite(value) and math.isfinite(norm)
        if good:
            optimizers.step(factor=factor(number))
        optimizers.zero_grad()
        number += 1
        if not good:
            if not left:
                raise LossError(_not_finite(number, value, norm))
            left -= 1
        step = Step(
            number=number,
            loss=value,
            parts=_mean_parts(losses, len(group)),
            tokens=sum(count_tokens(batch) for batch in group),
            seconds=time.perf_counter() - begin,
            gradient_norm=norm,
            skipped=not good,
        )
        if after(step):
            return


def _not_finite(number: int, loss: float, norm: float) -> str:
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
    return (
        f"step {number}: {what}, so the step was not taken; lower the learning rate, look at the data, "
        "or allow a few such steps to be skipped with --skip-non-finite-steps"
    )


def autocast(
    precision: Literal["fp32", "bf16"], device: torch.device | str
) -> AbstractContextManager[object]:
    """Matrix products in bfloat16, sums and norms in float32; or everything in float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def gradient_norm(parameters: list[Tensor], clip: float | None) -> float:
    """The norm of all gradients together, which are scaled down to `clip` if it is longer; 0: never."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip and clip < norm < float("inf"):  # shorter ones would be multiplied by 1
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    return float(norm)


def count_tokens(batch: Batch) -> int:
    """Real tokens of a batch: padding is no work done."""
    if batch.attention_mask is None:
        return batch.input_ids.numel()
    return int(batch.attention_mask.sum())


@torch.no_grad()
def mean_loss(
    module: nn.Module,
    compute: Callable[[Batch], Loss],
    batches: Iterable[Batch],
    *,
    precision: Literal["fp32", "bf16"],
    device: torch.device | str,
    seen: Callable[[Loss], None] = lambda loss: None,
) -> dict[str, float]:
    """Each part of the loss over the batches, weighted by their predictions; dropout is off meanwhile.

    `seen` is shown the loss of every batch.
    """
    module.eval()
    sums: dict[str, float] = {}
    total = 0
    for batch in batches:
        with autocast(precision, device):
            loss = compute(batch.to(device))
        seen(loss)
        for name, value in loss.parts.items():
            sums[name] = sums.get(name, 0.0) + float(value) * loss.predictions
        total += loss.predictions
    module.train()
    return {name: value / max(1, total) for name, value in sums.items()}


def _mean_parts(losses: list[tuple[Loss, float]], batches: int) -> dict[str, float]:
    names = losses[0][0].parts
    return {name: sum(float(loss.parts[name]) * share for loss, share in losses) / batches for name in names}
