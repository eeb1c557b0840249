"""Fine-tuning: a task's examples and a model become a model that answers."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from polyseme.checkpoints.model import Model
from polyseme.files import write_whole
from polyseme.records import from_flat
from polyseme.tasks.partial import Partial, check_command, partial
from polyseme.tasks.preparation import Data, Preparation
from polyseme.tasks.runs import Run, run
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
    same weights on the same machine. What was killed goes on when the same call is made again, and ends with
    the same weights, bit for bit; until it is done it keeps its state in `OUT.partial`.

    >>> finetune("classification", train="a.tsv", dev="b.tsv", model="mini", out="mine")  # doctest: +SKIP
    """
    chosen, of_task = divided(options, FinetuneSettings, task)
    settings = from_flat(chosen, FinetuneSettings, where="finetune")
    with partial(out) as place:
        shared = Preparation(make_task(task, of_task), model, settings)
        with leaving_out(settings.skip_bad) as left:
            data = shared.read(Path(train), Path(dev), Path(test) if test is not None else None)
        left.say("finetune")
        if place is not None:
            check_command(place, shared, data)
        shared.way.ready(shared, data, place.folder if place is not None else None)
        runs, best = _run_all(shared, data, place)
        outcome = Outcome(
            folder=Path(out) if out is not None else None,
            examples=len(data["train"].examples),
            dev=_scores([done.dev for done in runs]),
            test=_scores([done.test for done in runs]),
            best_seed=best.seed,
            tokens_per_second=sum(r.tokens for r in runs) / max(sum(r.seconds for r in runs), 1e-9),
            left_out=tuple(left.errors),
        )
        if outcome.folder is not None:
            _save(shared, best, runs, outcome, train=str(train))
    return outcome


def _run_all(shared: Preparation, data: dict[str, Data], place: Partial | None) -> tuple[list[Run], Run]:
    """All runs, and the best on dev with its weights; the weights of the others are let go."""
    runs: list[Run] = []
    best: Run | None = None
    for seed in shared.settings.seeds:
        name = f"seed-{seed}"
        done = place.read(name) if place is not None else None
        if done is None:
            done = run(shared, seed, data, place.state(name) if place is not None else None)
            kept = best is None or done.dev[shared.metric] > best.dev[shared.metric]
            done = done if kept else replace(done, tensors={})
            if place is not None:
                place.write(name, done)
        if done.tensors:
            best = done
        runs.append(done)
    assert best is not None
    return runs, best


def _save(shared: Preparation, best: Run, runs: list[Run], outcome: Outcome, *, train: str) -> None:
    """The folder of the best run, and the journal of all."""
    assert outcome.folder is not None
    made = {
        "seed": best.seed,
        "train": train,
        "examples": outcome.examples,
        "dev": {name: score._asdict() for name, score in outcome.dev.items()},
        "test": {name: score._asdict() for name, score in outcome.test.items()},
    } | ({"left_out": outcome.left_out} if outcome.left_out else {})
    shared.save(best.tensors, outcome.folder, made)
    lines = [msgspec.json.encode(line) for done in runs for line in done.epochs]
    write_whole(outcome.folder / "journal.jsonl", b"".join(line + b"\n" for line in lines))


def _scores(of_runs: list[dict[str, float]]) -> dict[str, Score]:
    return {name: Score.of([scores[name] for scores in of_runs]) for name in of_runs[0]}
