"""One run of a fine-tuning: phase after phase, epoch after epoch, of which the best on dev is kept."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from polyseme import progress
from polyseme.models.batch import Batch
from polyseme.seeding import derived, generator
from polyseme.tasks.preparation import Data, Preparation
from polyseme.tasks.rows import collate, shuffled_batches
from polyseme.tasks.run_state import Standing, read_run, write_run
from polyseme.tasks.task import Outputs, Row, TaskModule
from polyseme.tasks.ways.adversarial import Adversarial
from polyseme.tasks.ways.memory import Fit
from polyseme.tasks.ways.phases import Phase, optimizers, set_mode
from polyseme.tasks.ways.settings import SavingSettings
from polyseme.tasks.ways.smaller import compute_twice, in_parts
from polyseme.training import loop
from polyseme.training.optimizers import Optimizers
from polyseme.training.schedules import Schedule
from polyseme.training.state import naming_kept_state


@dataclass(frozen=True)
class Run:
    """One seed, done."""

    seed: int
    tensors: dict[str, Tensor]
    """The weights of the best epoch."""
    dev: dict[str, float]
    test: dict[str, float]
    epochs: list[dict[str, Any]]
    """One line a epoch, for the journal."""
    tokens: int
    seconds: float
    outputs: list[Outputs]
    """What the best epoch says of the examples of its fold; empty without folds."""


def run(
    shared: Preparation,
    seed: int,
    data: dict[str, Data],
    *,
    folder: Path | None = None,
    fit: Fit | None = None,
    label: str = "",
) -> Run:
    """Train once, from the newest state in `folder` on; torch's generator is as before afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(derived(seed, "finetune"))
        module = shared.module()
        if fit is not None and fit.twice:
            compute_twice(module.backbone)
        running = _Running(shared, seed, data, module, folder)
        running.label = label or f"seed {seed}"
        running.together = fit.rows if fit is not None else shared.settings.batch_size
        return running.run()


class _Running:
    """A run on its way."""

    def __init__(
        self,
        shared: Preparation,
        seed: int,
        data: dict[str, Data],
        module: TaskModule,
        folder: Path | None,
    ) -> None:
        self.shared, self.seed, self.data, self.module, self.folder = shared, seed, data, module, folder
        self.settings = shared.settings
        self.rows = [row for of_example in data["train"].rows for row in of_example]
        self.lengths = np.array([len(row.input_ids) for row in self.rows], dtype=np.int64)
        self.per_epoch = math.ceil(len(self.rows) / self.settings.batch_size)
        self.together = self.settings.batch_size
        self.chosen: list[Row] = []
        self.label = ""
        self.standing = Standing()
        self.best: dict[str, Tensor] = {}
        self.saved = time.perf_counter()

    def run(self) -> Run:
        """All phases, then the scores of the best epoch."""
        phases = self.shared.way.phases(self.shared, self.module)
        found = read_run(self.folder)
        if found is not None:
            self.standing, self.best = found.standing, found.best
            progress.say(f"{self.label}: going on from step {self.standing.done}")
        total = sum(phase.epochs for phase in phases) * self.per_epoch
        with progress.bar(f"finetune, {self.label}", total=total, unit="steps") as work:
            self.bar = work
            work.advance(self.standing.done)
            for number in range(self.standing.phase, len(phases)):
                stepping = optimizers(self.module, phases[number], self.settings)
                if found is not None:
                    found.fill(cast(nn.Module, self.module), stepping)
                    found = None
                self._train(phases[number], stepping)
                self.standing.leave_phase()
        self.module.load_state_dict(self.best)
        standing, test = self.standing, self.data["test"]
        fold = self.data.get("fold")
        return Run(
            seed=self.seed,
            tensors=self.best,
            dev=standing.dev,
            test=self.shared.scores(self.module, test) if test.examples else {},
            epochs=standing.lines,
            tokens=standing.tokens,
            seconds=standing.seconds,
            outputs=self.shared.outputs(self.module, fold) if fold is not None else [],
        )

    def _train(self, phase: Phase, stepping: Optimizers) -> None:
        schedule = Schedule(
            self.settings.rates.schedule, self.per_epoch * phase.epochs, self.settings.rates.warmup
        )

        def after(step: loop.Step) -> bool:
            self._count(step)
            if step.number % self.per_epoch == 0:
                self._evaluate(step, phase)
            if self.folder is not None and save_is_due(self.settings.saving, self.standing, self.saved):
                module = cast(nn.Module, self.module)
                write_run(self.folder, module, stepping, self.standing, self.best)
                self.saved = time.perf_counter()
            return self.standing.over

        set_mode(self.module)
        strength = self.settings.adversarial
        if not self.standing.over:
            with naming_kept_state(self.folder):
                loop.train(
                    Adversarial(self.module, strength) if strength else self.module,
                    self._batches(phase.epochs),
                    stepping,
                    factor=schedule,
                    after=after,
                    first=self.standing.step,
                    clip=self.settings.clip,
                    skip_non_finite=max(
                        0, self.settings.saving.skip_non_finite_steps - self.standing.skipped
                    ),
                    precision=self.shared.precision,
                    device=self.shared.device,
                    split=self._parts,
                )
        if phase.restores:
            self.module.load_state_dict(self.best)

    def _count(self, step: loop.Step) -> None:
        self.bar.advance(1, loss=round(step.loss, 4))
        if step.skipped:
            progress.warn(f"{self.label}, step {step.number}: {loop.SKIPPED}")
        self.standing.step = step.number
        self.standing.done += 1
        self.standing.skipped += step.skipped
        self.standing.tokens += step.tokens
        self.standing.seconds += step.seconds

    def _evaluate(self, step: loop.Step, phase: Phase) -> None:
        """The scores of an epoch; the best one's weights are kept."""
        standing, metric = self.standing, self.shared.metric
        standing.epoch += 1
        scores = self.shared.scores(self.module, self.data["dev"], tune=True)
        self.bar.advance(0, **{f"dev {metric}": round(scores[metric], 4)})
        line = {"seed": self.seed, "phase": phase.name, "epoch": standing.epoch, "step": standing.done}
        standing.lines.append({**line, "loss": step.loss, "dev": scores})
        if not standing.dev or scores[metric] > standing.dev[metric]:
            standing.dev, standing.best_epoch = scores, standing.epoch
            tensors = self.module.state_dict()
            self.best = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        since = standing.epoch - max(standing.best_epoch, standing.first_epoch)
        # Taggers and readers find nothing at first: a best score of 0 is no plateau.
        standing.over = phase.patience is not None and since >= phase.patience and standing.dev[metric] > 0
        set_mode(self.module)

    def _batches(self, epochs: int) -> Iterator[Batch]:
        """From the step that was reached to the end of the phase."""
        first, passed = divmod(self.standing.step, self.per_epoch)
        start = self.standing.first_epoch
        for epoch in range(start + first, start + epochs):
            rng = generator(self.seed, "batches", epoch)
            batches = shuffled_batches(self.lengths, batch_size=self.settings.batch_size, rng=rng)
            for numbers in batches[passed if epoch == start + first else 0 :]:
                self.chosen = [self.rows[n] for n in numbers]
                yield self._collated(self.chosen)

    def _parts(self, batch: Batch) -> Sequence[tuple[Batch, float]]:
        """The batch that was just drawn, in parts where so many rows do not fit into memory."""
        if len(self.chosen) <= self.together:
            return [(batch, 1.0)]
        return in_parts(self.chosen, self.together, self._collated, weights=self.shared.weights)

    def _collated(self, rows: Sequence[Row]) -> Batch:
        return collate(rows, padding=self.shared.tokenizer.filling_id, config=self.shared.config)


def save_is_due(saving: SavingSettings, standing: Standing, saved: float) -> bool:
    """Whether a state is to be written, after so many steps or minutes since `saved`, a time of
    `time.perf_counter`."""
    if saving.save_steps is not None:
        return standing.done % saving.save_steps == 0
    return time.perf_counter() - saved > 60 * saving.save_every
