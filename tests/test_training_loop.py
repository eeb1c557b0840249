"""The loop of training: steps whose numbers are not finite."""

import pytest
import torch

from polyseme.models.batch import Batch, Loss
from polyseme.training.loop import LossError, Step, train
from polyseme.training.optimizers import build_optimizers
from polyseme.training.settings import TrainingSettings


class Diverging(torch.nn.Module):
    """A loss that is not finite in the chosen steps."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, 2))
        self.bad, self.calls = bad, 0

    def forward(self, batch: Batch) -> Loss:
        self.calls += 1
        factor = float("nan") if self.calls in self.bad else 1.0
        return Loss(total=self.weight.square().sum() * factor, predictions=1)


def run_steps(module: Diverging, steps: int, *, skip: int = 0) -> list[Step]:
    seen: list[Step] = []
    batches = (Batch(torch.zeros(1, 1, dtype=torch.long)) for _ in range(steps))

    def after(step: Step) -> bool:
        seen.append(step)
        return False

    train(
        module,
        batches,
        build_optimizers(module, TrainingSettings()),
        factor=lambda _: 1.0,
        after=after,
        skip_non_finite=skip,
    )
    return seen


def test_a_step_that_is_not_finite_ends_the_run_and_changes_no_weight() -> None:
    module, before = Diverging({3}), Diverging(set())
    run_steps(before, 2)
    with pytest.raises(
        LossError, match=r"^step 3: the loss is nan, so the step was not taken; lower the learning"
    ):
        run_steps(module, 5)
    assert torch.equal(module.weight, before.weight)


def test_a_step_that_is_not_finite_is_skipped_where_that_is_allowed() -> None:
    module = Diverging({3})
    seen = run_steps(module, 5, skip=1)
    assert [step.skipped for step in seen] == [False, False, True, False, False]
    assert torch.isfinite(module.weight).all()


def test_no_more_steps_are_skipped_than_are_allowed() -> None:
    with pytest.raises(LossError, match=r"^step 5: the loss is nan"):
        run_steps(Diverging({1, 3, 5}), 9, skip=2)
