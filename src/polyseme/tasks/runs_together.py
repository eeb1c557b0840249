"""One run of a fine-tuning on several tasks: a batch of one task a step, the best epoch kept."""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polyseme import progress
from polyseme.models.batch import Batch, Loss
from polyseme.models.transformer.model import Transformer
from polyseme.seeding import derived, generator
from polyseme.tasks.on_backbone import OnBackbone
from polyseme.tasks.preparation import Data, Preparation
from polyseme.tasks.rows import collate, shuffled_batches
from polyseme.tasks.run_state import Standing, read_run, write_run
from polyseme.tasks.runs import Run, save_is_due
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.ways.phases import Phase, depths, joint_rates, optimizers, set_mode
from polyseme.training import loop
from polyseme.training.optimizers import Optimizers
from polyseme.training.schedules import Schedule
from polyseme.training.state import naming_kept_state

MEAN = "mean"
"""In a run's scores, the mean of the tasks' first scores on dev, which chooses its best epoch; all others are
called `task.score`."""


class OfTask(NamedTuple):
    """A batch and the task that it is of; the loop asks it what it asks of any batch."""

    name: str
    batch: Batch

    @property
    def input_ids(self) -> Tensor:
        return self.batch.input_ids

    @property
    def attention_mask(self) -> Tensor | None:
        return self.batch.attention_mask

    def to(self, device: torch.device | str) -> "OfTask":
        return OfTask(self.name, self.batch.to(device))


class Together(nn.Module):
    """One backbone and the heads of several tasks on it."""

    def __init__(self, backbone: Transformer, parts: Mapping[str, OnBackbone]) -> None:
        super().__init__()
        self.backbone = backbone
        self.parts = nn.ModuleDict({name: part.borrowing() for name, part in parts.items()})

    def forward(self, batch: OfTask) -> Loss:
        """The loss of the task that the batch is of."""
        loss: Loss = self.part(batch.name).loss(self.backbone(batch.batch), batch.batch)
        return loss

    def part(self, name: str) -> OnBackbone:
        """The network of one task."""
        return cast(OnBackbone, self.parts[name])


def fresh_module(shared: Mapping[str, Preparation]) -> Together:
    """The network of all tasks: the model's weights, and a fresh head each."""
    owner = next((one for one in shared.values() if one.config.pooler), next(iter(shared.values())))
    backbone = owner.backbone()
    parts = {
        name: cast(OnBackbone, one.task.build(backbone, one.inventory, reading=one.reading))
        for name, one in shared.items()
    }
    return Together(backbone, parts)


def turns(sizes: Mapping[str, int], *, batch_size: int, temperature: float) -> dict[str, int]:
    """The batches of each task in an epoch: as many in all as its rows make, shared out by n^(1/T).

    >>> turns({"large": 900, "small": 100}, batch_size=10, temperature=2)
    {'large': 75, 'small': 25}
    """
    total = sum(math.ceil(size / batch_size) for size in sizes.values())
    weights = {name: size ** (1 / temperature) for name, size in sizes.items()}
    exact = {name: total * weight / sum(weights.values()) for name, weight in weights.items()}
    counts = {name: max(1, math.floor(share)) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: max(0, total - sum(counts.values()))]:
        counts[name] += 1
    return counts


def run_together(
    seed: int,
    shared: Mapping[str, Preparation],
    data: Mapping[str, dict[str, Data]],
    settings: FinetuneSettings,
    *,
    temperature: float,
    folder: Path | None,
) -> Run:
    """Train once, from the newest state in `folder` on; torch's generator is as before afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(derived(seed, "finetune"))
        return _Running(seed, shared, data, settings, temperature, folder).run()


class _Running:
    """A run on its way."""

    def __init__(
        self,
        seed: int,
        shared: Mapping[str, Preparation],
        data: Mapping[str, dict[str, Data]],
        settings: FinetuneSettings,
        temperature: float,
        folder: Path | None,
    ) -> None:
        self.seed, self.shared, self.data, self.settings = seed, shared, data, settings
        self.folder, self.module = folder, fresh_module(shared).to(next(iter(shared.values())).device)
        sizes = {name: sum(map(len, of_task["train"].rows)) for name, of_task in data.items()}
        self.counts = turns(sizes, batch_size=settings.batch_size, temperature=temperature)
        self.per_epoch = sum(self.counts.values())
        self.standing = Standing()
        self.best: dict[str, Tensor] = {}
        self.saved = time.perf_counter()

    def run(self) -> Run:
        """All epochs, then the scores of the best one."""
        settings, module = self.settings, cast(Any, self.module)
        rates = joint_rates(depths(name for name, _ in self.module.named_parameters()), settings)
        self.stepping = optimizers(module, Phase("joint", rates, settings.epochs), settings)
        found = read_run(self.folder)
        if found is not None:
            self.standing, self.best = found.standing, found.best
            progress.say(f"seed {self.seed}: going on from step {self.standing.done}")
            found.fill(self.module, self.stepping)
        total = self.per_epoch * settings.epochs
        with progress.bar(f"finetune, seed {self.seed}", total=total, unit="steps") as work:
            self.bar = work
            work.advance(self.standing.done)
            if not self.standing.over:
                self._train(self.stepping, total)
        self.module.load_state_dict(self.best)
        return Run(
            seed=self.seed,
            tensors=self.best,
            dev=self.standing.dev,
            test=self._scores("test"),
            epochs=self.standing.lines,
            tokens=self.standing.tokens,
            seconds=self.standing.seconds,
            outputs=[],
        )

    def _train(self, stepping: Optimizers, total: int) -> None:
        first = next(iter(self.shared.values()))
        set_mode(cast(Any, self.module))
        with naming_kept_state(self.folder):
            loop.train(
                cast(Any, self.module),
                cast(Any, self._batches(self.standing.step)),
                stepping,
                factor=Schedule(self.settings.rates.schedule, total, self.settings.rates.warmup),
                after=self._after,
                first=self.standing.step,
                clip=self.settings.clip,
                skip_non_finite=max(0, self.settings.saving.skip_non_finite_steps - self.standing.skipped),
                precision=first.precision,
                device=first.device,
            )

    def _after(self, step: loop.Step) -> bool:
        standing = self.standing
        self.bar.advance(1, loss=round(step.loss, 4))
        if step.skipped:
            progress.warn(f"seed {self.seed}, step {step.number}: {loop.SKIPPED}")
        standing.step = standing.done = step.number
        standing.skipped += step.skipped
        standing.tokens += step.tokens
        standing.seconds += step.seconds
        if step.number % self.per_epoch == 0:
            self._evaluate(step)
        if self.folder is not None and save_is_due(self.settings.saving, standing, self.saved):
            write_run(self.folder, self.module, self.stepping, standing, self.best)
            self.saved = time.perf_counter()
        return standing.over

    def _evaluate(self, step: loop.Step) -> None:
        """The scores of an epoch; the best one's weights are kept."""
        standing, dev = self.standing, self._scores("dev", tune=True)
        standing.epoch += 1
        dev[MEAN] = float(np.mean([dev[f"{name}.{one.metric}"] for name, one in self.shared.items()]))
        self.bar.advance(0, **{f"dev {MEAN}": round(dev[MEAN], 4)})
        standing.lines.append(
            {"seed": self.seed, "epoch": standing.epoch, "step": step.number, "loss": step.loss, "dev": dev}
        )
        if not standing.dev or dev[MEAN] > standing.dev[MEAN]:
            standing.dev, standing.best_epoch = dev, standing.epoch
            tensors = self.module.state_dict()
            self.best = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        patience = self.settings.patience
        since = standing.epoch - standing.best_epoch
        standing.over = patience is not None and since >= patience and standing.dev[MEAN] > 0
        set_mode(cast(Any, self.module))

    def _scores(self, part: str, *, tune: bool = False) -> dict[str, float]:
        """The scores of each task on its file, of those that have one."""
        self.module.eval()
        return {
            f"{name}.{score}": value
            for name, one in self.shared.items()
            if self.data[name][part].examples
            for score, value in one.scores(
                cast(Any, self.module.part(name)), self.data[name][part], tune=tune
            ).items()
        }

    def _batches(self, done: int) -> Iterator[OfTask]:
        """Epoch after epoch, the turns of the tasks in random order, from step `done` on."""
        names = [name for name, count in self.counts.items() for _ in range(count)]
        orders = (
            names[number]
            for epoch in range(self.settings.epochs)
            for number in generator(self.seed, "turns", epoch).permutation(len(names))
        )
        had = dict.fromkeys(self.counts, 0)
        for _ in range(done):
            had[next(orders)] += 1
        streams = {name: self._stream(name, skip=count) for name, count in had.items()}
        for name in orders:
            yield OfTask(name, next(streams[name]))

    def _stream(self, name: str, *, skip: int) -> Iterator[Batch]:
        """One task's batches without end: every row once, in another order each time."""
        one = self.shared[name]
        rows = [row for of_example in self.data[name]["train"].rows for row in of_example]
        lengths: NDArray[np.int64] = np.array([len(row.input_ids) for row in rows], dtype=np.int64)
        size = self.settings.batch_size
        number, passed = divmod(skip, math.ceil(len(rows) / size))
        while True:
            rng = generator(self.seed, "batches", name, number)
            for numbers in shuffled_batches(lengths, batch_size=size, rng=rng)[passed:]:
                chosen = [rows[n] for n in numbers]
                yield collate(chosen, padding=one.tokenizer.filling_id, config=one.config)
            number, passed = number + 1, 0
