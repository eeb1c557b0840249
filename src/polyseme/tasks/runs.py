"""One run of a fine-tuning: epoch after epoch, of which the best on dev is kept."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyseme import progress
from polyseme.errors import SettingsError
from polyseme.models.batch import Batch
from polyseme.seeding import derived, generator
from polyseme.tasks.preparation import Data, Preparation
from polyseme.tasks.rows import collate, shuffled_batches
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.task import Row, TaskModule
from polyseme.training import loop
from polyseme.training.adamw import AdamW
from polyseme.training.optimizers import Optimizers, decays
from polyseme.training.schedules import Schedule


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


def run(shared: Preparation, seed: int, data: dict[str, Data]) -> Run:
    """Train once; torch's generator is as before afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(derived(seed, "finetune"))
        return _run(shared, seed, data, shared.module())


def _run(shared: Preparation, seed: int, data: dict[str, Data], module: TaskModule) -> Run:
    settings, metric = shared.settings, shared.metric
    rows = [row for of_example in data["train"].rows for row in of_example]
    per_epoch = math.ceil(len(rows) / settings.batch_size)
    schedule = Schedule(settings.schedule, per_epoch * settings.epochs, settings.warmup)
    best: dict[str, Any] = {"score": -math.inf, "epoch": 0}
    epochs: list[dict[str, Any]] = []
    spent = {"tokens": 0, "seconds": 0.0}

    def after(step: loop.Step) -> bool:
        work.advance(1, loss=round(step.loss, 4))
        spent["tokens"] += step.tokens
        spent["seconds"] += step.seconds
        if step.number % per_epoch:
            return False
        epoch = step.number // per_epoch
        scores = shared.scores(module, data["dev"], tune=True)
        work.advance(0, **{f"dev {metric}": round(scores[metric], 4)})
        epochs.append({"seed": seed, "epoch": epoch, "step": step.number, "loss": step.loss, "dev": scores})
        if scores[metric] > best["score"]:
            tensors = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
            best.update(score=scores[metric], epoch=epoch, dev=scores, tensors=tensors)
        module.train()
        return settings.patience is not None and epoch - best["epoch"] >= settings.patience

    module.train()
    with progress.bar(f"finetune, seed {seed}", total=schedule.total_steps, unit="steps") as work:
        loop.train(
            module,
            _batches(shared, rows, seed),
            _optimizers(module, settings),
            factor=schedule,
            after=after,
            clip=settings.clip,
            precision=shared.precision,
            device=shared.device,
        )
    module.load_state_dict(best["tensors"])
    test = shared.scores(module, data["test"]) if data["test"].examples else {}
    return Run(seed, best["tensors"], best["dev"], test, epochs, int(spent["tokens"]), spent["seconds"])


def _batches(shared: Preparation, rows: Sequence[Row], seed: int) -> Iterator[Batch]:
    lengths = np.array([len(row.input_ids) for row in rows], dtype=np.int64)
    for epoch in range(shared.settings.epochs):
        rng = generator(seed, "batches", epoch)
        for numbers in shuffled_batches(lengths, batch_size=shared.settings.batch_size, rng=rng):
            chosen = [rows[n] for n in numbers]
            yield collate(chosen, padding=shared.tokenizer.filling_id, config=shared.config)


def _optimizers(module: TaskModule, settings: FinetuneSettings) -> Optimizers:
    """AdamW with rates of their own for embeddings, layers and head; what has the rate 0 is frozen."""
    rates = {
        "backbone.embeddings.": settings.embedding_learning_rate,
        "head.": settings.head_learning_rate,
    }
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        rate = next((rate for part, rate in rates.items() if name.startswith(part)), None)
        rate = settings.learning_rate if rate is None else rate
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            groups.setdefault((rate, decays(parameter)), []).append(parameter)
    if not groups:
        raise SettingsError("all learning rates are 0, so nothing would be trained; raise one")
    return Optimizers(
        [
            AdamW(
                [
                    {"params": members, "lr": rate, "weight_decay": settings.weight_decay if decayed else 0.0}
                    for (rate, decayed), members in groups.items()
                ],
                lr=settings.learning_rate,
                fused=True,
            )
        ]
    )
