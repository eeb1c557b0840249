"""Fine-tuning: a task's examples and a model become a model that answers."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from polyseme import progress
from polyseme.checkpoints.formats import format_of
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.devices import environment, pick_device, pick_precision, usable_cores
from polyseme.errors import CheckpointError, DataError, SettingsError
from polyseme.files import write_whole
from polyseme.models.batch import Batch
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import TransformerConfig
from polyseme.records import from_plain, to_plain
from polyseme.seeding import derived, generator
from polyseme.tasks.rows import collate, count_cut, outputs_of, say_cut, shuffled_batches
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.skipping import leaving_out, parsed
from polyseme.tasks.subsets import subset
from polyseme.tasks.task import Row, Task, TaskModule, divided, make_task
from polyseme.text.tokenizer import Tokenizer
from polyseme.training import loop
from polyseme.training.adamw import AdamW
from polyseme.training.optimizers import Optimizers, decays
from polyseme.training.schedules import Schedule


class Score(NamedTuple):
    """One score over the seeds."""

    mean: float
    deviation: float
    """Standard deviation of the seeds' scores; 0 for a single seed."""
    of_seeds: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Score":
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), deviation, tuple(values))


@dataclass(frozen=True)
class Outcome:
    """What a fine-tuning came to."""

    folder: Path | None
    examples: int
    """Training examples used."""
    dev: dict[str, Score]
    test: dict[str, Score]
    """Scores of the same runs on `test`; empty without it."""
    best_seed: int
    """Of the run that was saved: the best on dev."""
    tokens_per_second: float
    """Real tokens trained on, padding and answering left out."""
    left_out: tuple[str, ...] = ()
    """With `skip_bad`, file, line and rule of every bad example of all files."""


class _Data(NamedTuple):
    examples: list[Any]
    rows: list[list[Row]]


@dataclass(frozen=True)
class _Run:
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


def finetune(
    task: str,
    *,
    train: str | Path,
    dev: str | Path,
    model: str | Path | Model,
    out: str | Path | None,
    test: str | Path | None = None,
    **options: Any,
) -> Outcome:
    """Train `model` for `task` and write the best epoch's model folder to `out` (None: write nothing).

    The options are those of `FinetuneSettings` and of the task's own settings. The same seed gives the
    same weights on the same machine.

    >>> finetune("classification", train="a.tsv", dev="b.tsv", model="mini", out="mine")  # doctest: +SKIP
    """
    chosen, of_task = divided(options, FinetuneSettings, task)
    settings = from_plain(chosen, FinetuneSettings, where="finetune")
    folder = _free(out)
    runner = _Finetuning(make_task(task, of_task), model, settings)
    with leaving_out(settings.skip_bad) as left:
        data = runner.read(Path(train), Path(dev), Path(test) if test is not None else None)
    left.say("finetune")
    runs = [runner.run(seed, data) for seed in settings.seeds]
    best = max(runs, key=lambda run: run.dev[runner.metric])
    outcome = Outcome(
        folder=folder,
        examples=len(data["train"].examples),
        dev=_scores([run.dev for run in runs]),
        test=_scores([run.test for run in runs]),
        best_seed=best.seed,
        tokens_per_second=sum(run.tokens for run in runs) / max(sum(run.seconds for run in runs), 1e-9),
        left_out=tuple(left.errors),
    )
    if folder is not None:
        runner.save(best, outcome, folder, train=str(train))
        lines = [msgspec.json.encode(line) for run in runs for line in run.epochs]
        write_whole(folder / "journal.jsonl", b"".join(line + b"\n" for line in lines))
    return outcome


class _Finetuning:
    """Everything that the seeds share."""

    def __init__(self, task: Task[Any, Any], model: str | Path | Model, settings: FinetuneSettings) -> None:
        self.task, self.settings = task, settings
        self.metric = settings.metric or task.metrics[0]
        if self.metric not in task.metrics:
            raise SettingsError(f"{task.name} has no score {self.metric!r}; choose {', '.join(task.metrics)}")
        torch.set_num_threads(settings.threads or usable_cores())
        self.device = pick_device(settings.device)
        self.precision = pick_precision(settings.precision, self.device)
        self.source = "memory" if isinstance(model, Model) else str(model)
        self.base = model if isinstance(model, Model) else load(model)
        if self.base.tokenizer is None:
            raise CheckpointError(f"{self.source} has no tokenizer, so it cannot read text")
        self.tokenizer: Tokenizer = self.base.tokenizer
        self.reading = task.reading(self.base.backbone.config, format_of(self.base.card.family))
        if settings.dropout is not None:
            self.reading["dropout"] = settings.dropout
        self.config = _changed(
            self.base.backbone.config, settings, pooler=self.reading.get("pooling") == "pooler"
        )
        self.max_length = min(settings.max_length or 2**31, self.config.max_position_embeddings)

    def read(self, train: Path, dev: Path, test: Path | None) -> dict[str, _Data]:
        """The examples of each file and their rows; labels are known before a subset is taken."""
        examples = list(self.task.read(train, labelled=True))
        self.inventory = self.task.fit(examples)
        files = {"train": self._chosen(examples), "dev": list(self.task.read(dev, labelled=True))}
        files["test"] = list(self.task.read(test, labelled=True)) if test is not None else []
        return {name: self._encoded(of_file, name) for name, of_file in files.items()}

    def run(self, seed: int, data: dict[str, _Data]) -> _Run:
        """Train once; torch's generator is as before afterwards."""
        with torch.random.fork_rng():
            torch.manual_seed(derived(seed, "finetune"))
            return self._run(seed, data, self._module())

    def save(self, run: _Run, outcome: Outcome, folder: Path, *, train: str) -> None:
        """The folder of the best run, as transformers would write it."""
        module = self._module()
        module.load_state_dict(run.tensors)
        made = {
            "task": self.task.name,
            "task_settings": to_plain(self.task.settings),
            "settings": to_plain(self.settings),
            "seed": run.seed,
            "from": self.source,
            "train": train,
            "examples": outcome.examples,
            "max_length": self.max_length,
            "reading": self.reading,
            "inventory": to_plain(self.inventory),
            "dev": {name: score._asdict() for name, score in outcome.dev.items()},
            "test": {name: score._asdict() for name, score in outcome.test.items()},
            "environment": environment(),
        } | ({"left_out": outcome.left_out} if outcome.left_out else {})
        card = Card(
            family=self.base.card.family,
            recipe=self.base.card.recipe,
            made=made,
            labels=list(self.inventory.labels),
            problem=self.task.problem,
        )
        name = self.task.head_name
        published = ("backbone.", "head.") if name else ("backbone.",)
        own = {key: value for key, value in run.tensors.items() if not key.startswith(published)}
        heads = {name: module.head} if name else {}
        save(Model(module.backbone, card, heads, self.tokenizer, own), folder)

    def _run(self, seed: int, data: dict[str, _Data], module: TaskModule) -> _Run:
        settings = self.settings
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
            scores = self._scores(module, data["dev"])
            work.advance(0, **{f"dev {self.metric}": round(scores[self.metric], 4)})
            epochs.append(
                {"seed": seed, "epoch": epoch, "step": step.number, "loss": step.loss, "dev": scores}
            )
            if scores[self.metric] > best["score"]:
                tensors = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
                best.update(score=scores[self.metric], epoch=epoch, dev=scores, tensors=tensors)
            module.train()
            return settings.patience is not None and epoch - best["epoch"] >= settings.patience

        module.train()
        with progress.bar(f"finetune, seed {seed}", total=schedule.total_steps, unit="steps") as work:
            loop.train(
                module,
                self._batches(rows, seed),
                _optimizers(module, settings),
                factor=schedule,
                after=after,
                clip=settings.clip,
                precision=self.precision,
                device=self.device,
            )
        module.load_state_dict(best["tensors"])
        test = self._scores(module, data["test"]) if data["test"].examples else {}
        return _Run(seed, best["tensors"], best["dev"], test, epochs, int(spent["tokens"]), spent["seconds"])

    def _module(self) -> TaskModule:
        """The network of the task: the model's weights, and a fresh head (with `fresh`, all is fresh)."""
        backbone = build(self.config)
        if not self.settings.fresh:
            # A pooler that the model lacks stays as it was drawn; a decoder that it has is left out.
            drawn, learned = backbone.state_dict(), self.base.backbone.state_dict()
            backbone.load_state_dict({name: learned.get(name, tensor) for name, tensor in drawn.items()})
        module = self.task.build(backbone, self.inventory, reading=self.reading)
        module.to(self.device)
        return module

    def _batches(self, rows: Sequence[Row], seed: int) -> Iterator[Batch]:
        lengths = np.array([len(row.input_ids) for row in rows], dtype=np.int64)
        for epoch in range(self.settings.epochs):
            rng = generator(seed, "batches", epoch)
            for numbers in shuffled_batches(lengths, batch_size=self.settings.batch_size, rng=rng):
                chosen = [rows[n] for n in numbers]
                yield collate(chosen, padding=self.tokenizer.filling_id, config=self.config)

    def _encoded(self, examples: Sequence[Any], name: str) -> _Data:
        def rows_of(example: Any) -> tuple[Any, list[Row]]:
            return example, self.task.encode(
                example, self.tokenizer, self.inventory, max_length=self.max_length
            )

        encoded = list(parsed(examples, rows_of))
        data = _Data([example for example, _ in encoded], [rows for _, rows in encoded])
        say_cut(count_cut(data.rows), total=len(data.rows), max_length=self.max_length, name=name)
        return data

    def _chosen(self, examples: list[Any]) -> list[Any]:
        settings = self.settings
        strata = [self.task.stratum(example) for example in examples]
        return subset(examples, strata, share=settings.share, limit=settings.limit, seed=settings.subset_seed)

    def _scores(self, module: TaskModule, data: _Data) -> dict[str, float]:
        outputs = outputs_of(
            module,
            data.rows,
            padding=self.tokenizer.filling_id,
            batch_tokens=self.settings.batch_tokens,
            precision=self.precision,
            device=self.device,
        )
        return self.task.score(self.task.decode(outputs, data.examples, self.inventory), data.examples)


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


def _changed(config: TransformerConfig, settings: FinetuneSettings, *, pooler: bool) -> TransformerConfig:
    """The model's configuration with the dropout of fine-tuning, a pooler only if the head reads one, and
    no decoder: what answers is an encoder."""
    if settings.max_length is not None and settings.max_length > config.max_position_embeddings:
        raise SettingsError(
            f"max_length {settings.max_length} is more than the {config.max_position_embeddings} positions "
            "of this model; long_texts=windows reads longer texts"
        )
    changes: dict[str, Any] = {"decoder": None, "pooler": pooler}
    if settings.dropout is not None:
        changes |= {"dropout": settings.dropout, "attention_dropout": settings.dropout}
    return msgspec.structs.replace(config, **changes)


def _scores(of_runs: list[dict[str, float]]) -> dict[str, Score]:
    return {name: Score.of([scores[name] for scores in of_runs]) for name in of_runs[0]}


def _free(out: str | Path | None) -> Path | None:
    """The folder to write, known to be free before an hour is spent."""
    if out is None:
        return None
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not empty; name another folder, or remove it first")
    return folder
