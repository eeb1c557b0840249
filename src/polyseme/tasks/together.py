"""Several tasks at once over one backbone: a head each, batches drawn by size or by temperature.

Caruana 1997, "Multitask Learning": what the tasks share is learned from all of them. A step is a batch of
one task; tasks take turns at p ∝ n^(1/T) for n training rows (Arivazhagan et al. 2019, section 4.1, where
T = 1 is by size and T = 5 evens them out).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polyseme import progress
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.devices import environment
from polyseme.errors import SettingsError
from polyseme.files import write_whole
from polyseme.models.batch import Batch, Loss
from polyseme.models.transformer.model import Transformer
from polyseme.records import flat, from_flat, to_plain
from polyseme.seeding import derived, generator
from polyseme.tasks.finetuning import Score
from polyseme.tasks.on_backbone import OnBackbone
from polyseme.tasks.partial import free
from polyseme.tasks.preparation import Data, Preparation
from polyseme.tasks.rows import collate, shuffled_batches
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.skipping import leaving_out
from polyseme.tasks.task import make_task
from polyseme.tasks.together_settings import task_files
from polyseme.tasks.ways.phases import Phase, depths, joint_rates, optimizers, set_mode
from polyseme.training import loop
from polyseme.training.schedules import Schedule

NAME = "together"
"""What the card of a folder of several tasks calls its task."""


_FOR_ONE_TASK = ("preset", "way", "metric", "folds", "adversarial", "class_weights", "machine.memory")
"""Settings of a fine-tuning that several tasks at once do not have."""


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


@dataclass(frozen=True)
class TogetherOutcome:
    """What a fine-tuning on several tasks came to; scores are by task and name."""

    folder: Path | None
    examples: dict[str, int]
    """Training examples of each task."""
    dev: dict[str, dict[str, Score]]
    test: dict[str, dict[str, Score]]
    """Of the tasks that have a test file."""
    best_seed: int
    """Of the run that was saved: the best on dev."""
    left_out: tuple[str, ...] = ()
    """With `skip_bad`, file, line and rule of every bad example of all files."""


class _Run(NamedTuple):
    seed: int
    score: float
    """The mean of the tasks' first scores on dev."""
    tensors: dict[str, Tensor]
    dev: dict[str, dict[str, float]]
    test: dict[str, dict[str, float]]
    epochs: list[dict[str, Any]]


def finetune_together(
    tasks: str | Path | Mapping[str, Mapping[str, Any]],
    *,
    model: str | Path | Model,
    out: str | Path | None,
    temperature: float = 1.0,
    **options: Any,
) -> TogetherOutcome:
    """Train `model` for several tasks and write one folder that answers all of them.

    `tasks` is a TOML file of `[tasks.NAME]` tables with `task`, `train`, `dev`, perhaps `test`, and
    `options`, or the same as dictionaries. The options here are those of `FinetuneSettings`. The epoch with
    the best mean of the tasks' first scores on dev is kept.

    >>> finetune_together("tasks.toml", model="mini", out="mine", temperature=2)  # doctest: +SKIP
    """
    settings = _checked(from_flat(options, FinetuneSettings, where="finetune"), temperature)
    folder = free(out) if out is not None else None
    base = model if isinstance(model, Model) else load(model)
    files = task_files(tasks)
    shared = {
        name: Preparation(make_task(one.task, one.options), base, settings) for name, one in files.items()
    }
    with leaving_out(settings.skip_bad) as left:
        data = {
            name: shared[name].read(Path(one.train), Path(one.dev), Path(one.test) if one.test else None)
            for name, one in files.items()
        }
    left.say("finetune")
    runs = [_run(seed, shared, data, settings, temperature) for seed in settings.seeds]
    best = max(runs, key=lambda done: done.score)
    outcome = TogetherOutcome(
        folder=folder,
        examples={name: len(of_task["train"].examples) for name, of_task in data.items()},
        dev=_scores([done.dev for done in runs]),
        test=_scores([done.test for done in runs]),
        best_seed=best.seed,
        left_out=tuple(left.errors),
    )
    if folder is not None:
        source = "memory" if isinstance(model, Model) else str(model)
        _save(best, shared, settings, outcome, made={"from": source, "temperature": temperature})
        lines = [msgspec.json.encode(line) for done in runs for line in done.epochs]
        write_whole(folder / "journal.jsonl", b"".join(line + b"\n" for line in lines))
    return outcome


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


def _checked(settings: FinetuneSettings, temperature: float) -> FinetuneSettings:
    if not temperature > 0:
        raise SettingsError(f"temperature must be above 0, got {temperature}; 1 draws tasks by their size")
    usual = FinetuneSettings()
    given, known = flat(settings), flat(usual)
    for name in _FOR_ONE_TASK:
        if given[name] != known[name]:
            option = name.rpartition(".")[2]
            raise SettingsError(f"{option} is for one task; several at once are trained without it")
    return settings


def _module(shared: Mapping[str, Preparation]) -> Together:
    """The network of all tasks: the model's weights, and a fresh head each."""
    owner = next((one for one in shared.values() if one.config.pooler), next(iter(shared.values())))
    backbone = owner.backbone()
    parts = {
        name: cast(OnBackbone, one.task.build(backbone, one.inventory, reading=one.reading))
        for name, one in shared.items()
    }
    return Together(backbone, parts).to(owner.device)


def _run(
    seed: int,
    shared: Mapping[str, Preparation],
    data: Mapping[str, dict[str, Data]],
    settings: FinetuneSettings,
    temperature: float,
) -> _Run:
    with torch.random.fork_rng():
        torch.manual_seed(derived(seed, "finetune"))
        module = _module(shared)
        return _trained(seed, module, shared, data, settings, temperature)


def _trained(
    seed: int,
    module: Together,
    shared: Mapping[str, Preparation],
    data: Mapping[str, dict[str, Data]],
    settings: FinetuneSettings,
    temperature: float,
) -> _Run:
    first = next(iter(shared.values()))
    sizes = {name: sum(map(len, of_task["train"].rows)) for name, of_task in data.items()}
    counts = turns(sizes, batch_size=settings.batch_size, temperature=temperature)
    per_epoch = sum(counts.values())
    schedule = Schedule(settings.rates.schedule, per_epoch * settings.epochs, settings.rates.warmup)
    rates = joint_rates(depths(name for name, _ in module.named_parameters()), settings)
    best = _Run(seed, -math.inf, {}, {}, {}, [])
    epochs: list[dict[str, Any]] = []

    def after(step: loop.Step) -> bool:
        nonlocal best
        work.advance(1, loss=round(step.loss, 4))
        if step.number % per_epoch:
            return False
        dev = _scored(module, shared, data, "dev", tune=True)
        score = float(np.mean([dev[name][one.metric] for name, one in shared.items()]))
        epoch = step.number // per_epoch
        epochs.append({"seed": seed, "epoch": epoch, "step": step.number, "dev": dev, "mean": score})
        if score > best.score:
            tensors = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
            best = _Run(seed, score, tensors, dev, {}, [])
        set_mode(cast(Any, module))
        behind = sum(line["mean"] <= best.score for line in epochs[_best_place(epochs) + 1 :])
        return settings.patience is not None and behind >= settings.patience

    set_mode(cast(Any, module))
    with progress.bar(f"finetune, seed {seed}", total=per_epoch * settings.epochs, unit="steps") as work:
        loop.train(
            cast(Any, module),
            cast(Any, _batches(seed, shared, data, counts, settings)),
            optimizers(cast(Any, module), Phase("joint", rates, settings.epochs), settings),
            factor=schedule,
            after=after,
            clip=settings.clip,
            precision=first.precision,
            device=first.device,
        )
    module.load_state_dict(best.tensors)
    return best._replace(test=_scored(module, shared, data, "test"), epochs=epochs)


def _best_place(epochs: list[dict[str, Any]]) -> int:
    return max(range(len(epochs)), key=lambda place: (epochs[place]["mean"], -place))


def _scored(
    module: Together,
    shared: Mapping[str, Preparation],
    data: Mapping[str, dict[str, Data]],
    part: str,
    *,
    tune: bool = False,
) -> dict[str, dict[str, float]]:
    """The scores of each task on its file, of those that have one."""
    module.eval()
    return {
        name: one.scores(cast(Any, module.part(name)), data[name][part], tune=tune)
        for name, one in shared.items()
        if data[name][part].examples
    }


def _batches(
    seed: int,
    shared: Mapping[str, Preparation],
    data: Mapping[str, dict[str, Data]],
    counts: Mapping[str, int],
    settings: FinetuneSettings,
) -> Iterator[OfTask]:
    """Epoch after epoch, the turns of the tasks in random order."""
    streams = {name: _stream(seed, name, one, data[name]["train"], settings) for name, one in shared.items()}
    for epoch in range(settings.epochs):
        order = [name for name, count in counts.items() for _ in range(count)]
        for number in generator(seed, "turns", epoch).permutation(len(order)):
            name = order[number]
            yield OfTask(name, next(streams[name]))


def _stream(
    seed: int, name: str, one: Preparation, train: Data, settings: FinetuneSettings
) -> Iterator[Batch]:
    """One task's batches without end: every row once, in another order each time."""
    rows = [row for of_example in train.rows for row in of_example]
    lengths: NDArray[np.int64] = np.array([len(row.input_ids) for row in rows], dtype=np.int64)
    pass_number = 0
    while True:
        rng = generator(seed, "batches", name, pass_number)
        for numbers in shuffled_batches(lengths, batch_size=settings.batch_size, rng=rng):
            chosen = [rows[n] for n in numbers]
            yield collate(chosen, padding=one.tokenizer.filling_id, config=one.config)
        pass_number += 1


def _save(
    best: _Run,
    shared: Mapping[str, Preparation],
    settings: FinetuneSettings,
    outcome: TogetherOutcome,
    *,
    made: dict[str, Any],
) -> None:
    """One folder: the backbone as transformers would write it, and all heads beside it."""
    assert outcome.folder is not None
    with torch.random.fork_rng():
        module = _module(shared)
    module.load_state_dict(best.tensors)
    first = next(iter(shared.values()))
    tasks = {
        name: {
            "task": one.task.name,
            "task_settings": to_plain(one.task.settings),
            "inventory": to_plain(one.inventory),
            "reading": one.reading,
            "examples": outcome.examples[name],
            "dev": {score: value._asdict() for score, value in outcome.dev[name].items()},
            "test": {score: value._asdict() for score, value in outcome.test.get(name, {}).items()},
        }
        for name, one in shared.items()
    }
    card = Card(
        family=first.base.card.family,
        recipe=first.base.card.recipe,
        made={
            "task": NAME,
            "tasks": tasks,
            "settings": to_plain(settings),
            "seed": best.seed,
            "max_length": first.max_length,
            **made,
            "environment": environment(),
        },
    )
    heads = {name: value for name, value in best.tensors.items() if name.startswith("parts.")}
    save(Model(module.backbone, card, {}, first.tokenizer, heads), outcome.folder)


def _scores(of_runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, Score]]:
    return {
        task: {name: Score.of([run[task][name] for run in of_runs]) for name in scores}
        for task, scores in of_runs[0].items()
    }
