"""Fine-tuning: a task's examples and a model become a model that answers."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from polyseme.checkpoints.model import Model
from polyseme.errors import DataError
from polyseme.files import write_whole
from polyseme.records import from_plain
from polyseme.tasks.preparation import Preparation
from polyseme.tasks.runs import run
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.skipping import leaving_out
from polyseme.tasks.task import divided, make_task


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
    shared = Preparation(make_task(task, of_task), model, settings)
    with leaving_out(settings.skip_bad) as left:
        data = shared.read(Path(train), Path(dev), Path(test) if test is not None else None)
    left.say("finetune")
    runs = [run(shared, seed, data) for seed in settings.seeds]
    best = max(runs, key=lambda done: done.dev[shared.metric])
    outcome = Outcome(
        folder=folder,
        examples=len(data["train"].examples),
        dev=_scores([done.dev for done in runs]),
        test=_scores([done.test for done in runs]),
        best_seed=best.seed,
        tokens_per_second=sum(done.tokens for done in runs) / max(sum(done.seconds for done in runs), 1e-9),
        left_out=tuple(left.errors),
    )
    if folder is not None:
        made = {
            "seed": best.seed,
            "train": str(train),
            "examples": outcome.examples,
            "dev": {name: score._asdict() for name, score in outcome.dev.items()},
            "test": {name: score._asdict() for name, score in outcome.test.items()},
        } | ({"left_out": outcome.left_out} if outcome.left_out else {})
        shared.save(best.tensors, folder, made)
        lines = [msgspec.json.encode(line) for done in runs for line in done.epochs]
        write_whole(folder / "journal.jsonl", b"".join(line + b"\n" for line in lines))
    return outcome


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
