"""Fine-tuning: a task's examples and a model become a model that answers."""

import dataclasses
import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from polyseme.checkpoints.model import Model
from polyseme.errors import CheckpointError
from polyseme.records import defaults_of, from_flat
from polyseme.tasks.folds import folds
from polyseme.tasks.partial import (
    Partial,
    already_made,
    check_command,
    command_hash,
    partial,
    settings_of,
    task_of,
)
from polyseme.tasks.prediction_files import rounded
from polyseme.tasks.preparation import Data, Preparation
from polyseme.tasks.runs import Run, run
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.skipping import leaving_out
from polyseme.tasks.task import divided, make_task
from polyseme.tasks.ways.memory import Fit, fitting
from polyseme.tasks.ways.presets import with_preset
from polyseme.threads import default_threads, torch_threads
from polyseme.training.journal import journal_line


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
    out_of_fold: dict[str, Score] = dataclasses.field(default_factory=dict)
    """With `folds`, the scores of the training examples, each answered by a run that did not see it."""


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
    the same weights, bit for bit; until it is done it keeps its state in `OUT.partial`. What the same call
    finished before is left alone, and its scores are read from the folder.

    >>> finetune("classification", train="a.tsv", dev="b.tsv", model="mini", out="mine")  # doctest: +SKIP
    """
    chosen, of_task = divided(options, FinetuneSettings, task)
    chosen = with_preset(chosen, defaults_of(FinetuneSettings))
    settings = from_flat(chosen, FinetuneSettings, where="finetune")
    with torch_threads(settings.machine.threads or default_threads()), partial(out) as place:
        shared = Preparation(make_task(task, of_task), model, settings)
        with leaving_out(settings.data.skip_bad) as left:
            data = shared.read(Path(train), Path(dev), Path(test) if test is not None else None)
        left.say("finetune")
        command = settings_of(shared) | task_of(shared, data)
        if place is not None:
            if (made := already_made(Path(str(out)), command)) is not None:
                return _outcome_of(Path(str(out)), made)
            check_command(place, command)
        fit = place.fit(shared, data) if place is not None else fitting(shared, data)
        if fit is not None:
            shared = shared.fitted(fit)
        if out is not None and place is not None:
            shared.try_saving(Path(out), place.trial)
        shared.way.ready(shared, data, place.folder if place is not None else None)
        runs, best = _run_all(shared, data, place, fit)
        outcome = Outcome(
            folder=Path(out) if out is not None else None,
            examples=len(data["train"].examples),
            dev=scores_of([done.dev for done in runs]),
            test=scores_of([done.test for done in runs]),
            best_seed=best.seed,
            tokens_per_second=sum(r.tokens for r in runs) / max(sum(r.seconds for r in runs), 1e-9),
            left_out=tuple(left.errors),
            out_of_fold=_out_of_fold(shared, data["train"], runs),
        )
        if outcome.folder is not None and place is not None:
            made = {"train": str(train), "command": command_hash(command)}
            _save(shared, data, best, runs, outcome, made)
    return outcome


def _outcome_of(folder: Path, made: dict[str, Any]) -> Outcome:
    """What a fine-tuning that was done before came to; nothing was trained now."""
    return Outcome(
        folder=folder,
        examples=made["examples"],
        dev=scores_in(made["dev"]),
        test=scores_in(made["test"]),
        best_seed=made["seed"],
        tokens_per_second=0.0,
        left_out=tuple(made.get("left_out", ())),
        out_of_fold=scores_in(made["out_of_fold"]),
    )


def scores_in(written: dict[str, Any]) -> dict[str, Score]:
    """Scores as a folder's record has them."""
    return {
        name: Score(one["mean"], one["deviation"], tuple(one["of_seeds"])) for name, one in written.items()
    }


def _run_all(
    shared: Preparation, data: dict[str, Data], place: Partial | None, fit: Fit | None
) -> tuple[list[Run], Run]:
    """All runs, and the best on dev with its weights; the weights of the others are let go."""
    runs: list[Run] = []
    best: Run | None = None
    for seed in shared.settings.seeds:
        for label, part in _turns(shared, data, seed):
            name = label.replace(", ", "-").replace(" ", "-")
            like, metric = next(iter(runs), None), shared.metric
            done = place.read(name, seed=seed, metric=metric, like=like) if place is not None else None
            if done is None:
                state = place.state(name) if place is not None else None
                done = run(shared, seed, part, folder=state, fit=fit, label=label)
                done = keep_best(done, best, shared.metric)
                if place is not None:
                    place.write(name, done)
            if done.tensors:
                best = done
            runs.append(done)
    assert best is not None
    return runs, best


def keep_best(done: Run, best: Run | None, metric: str) -> Run:
    """The run, without its weights unless it is better on dev than the best before it."""
    is_better = best is None or done.dev[metric] > best.dev[metric]
    return done if is_better else dataclasses.replace(done, tensors={})


def _turns(shared: Preparation, data: dict[str, Data], seed: int) -> Iterator[tuple[str, dict[str, Data]]]:
    """What the runs of a seed learn from: all, or all but one fold after the other."""
    if shared.settings.folds is None:
        yield f"seed {seed}", data
        return
    train = data["train"]
    for number, left_out in enumerate(_folds(shared, train, seed)):
        others = sorted(set(range(len(train.examples))) - set(left_out))
        yield (
            f"seed {seed}, fold {number + 1}",
            data | {"train": _chosen(train, others), "fold": _chosen(train, left_out)},
        )


def _folds(shared: Preparation, train: Data, seed: int) -> list[list[int]]:
    assert shared.settings.folds is not None
    return folds(
        [shared.task.stratum(example) for example in train.examples], shared.settings.folds, seed=seed
    )


def _out_of_fold(shared: Preparation, train: Data, runs: list[Run]) -> dict[str, Score]:
    """The scores of what was said of each example by the run that did not learn from it."""
    if shared.settings.folds is None:
        return {}
    said = [_answers_of(shared, train, runs, seed) for seed in shared.settings.seeds]
    return scores_of([shared.task.score(answers, train.examples) for answers in said])


def _answers_of(shared: Preparation, train: Data, runs: list[Run], seed: int) -> list[Any]:
    """One answer a training example, in their order."""
    numbers = itertools.chain.from_iterable(_folds(shared, train, seed))
    outputs = itertools.chain.from_iterable(done.outputs for done in runs if done.seed == seed)
    in_order = [output for _, output in sorted(zip(numbers, outputs, strict=True), key=lambda pair: pair[0])]
    return shared.task.decode(in_order, train.examples, shared.inventory)


def _chosen(data: Data, numbers: list[int]) -> Data:
    return Data([data.examples[n] for n in numbers], [data.rows[n] for n in numbers])


def _save(
    shared: Preparation,
    data: dict[str, Data],
    best: Run,
    runs: list[Run],
    outcome: Outcome,
    made: dict[str, Any],
) -> None:
    """The folder of the best run, the journal of all, and what was said of the examples left out."""
    assert outcome.folder is not None
    made = (
        made
        | {
            "seed": best.seed,
            "examples": outcome.examples,
            "dev": {name: score._asdict() for name, score in outcome.dev.items()},
            "test": {name: score._asdict() for name, score in outcome.test.items()},
            "out_of_fold": {name: score._asdict() for name, score in outcome.out_of_fold.items()},
        }
        | ({"left_out": outcome.left_out} if outcome.left_out else {})
    )
    more = journal_of(runs)
    if outcome.out_of_fold:
        answers = _answers_of(shared, data["train"], runs, best.seed)
        said = [msgspec.json.encode(rounded(shared.task.write(answer))) for answer in answers]
        more["out_of_fold.jsonl"] = b"".join(line + b"\n" for line in said)
    shared.save(best.tensors, outcome.folder, made, more=more)


def journal_of(runs: list[Run]) -> dict[str, bytes]:
    """The file of a line for each epoch of all runs, by its name."""
    return {"journal.jsonl": b"".join(journal_line(line) for done in runs for line in done.epochs)}


def scores_of(of_runs: list[dict[str, float]]) -> dict[str, Score]:
    """Each score over all runs; a `CheckpointError` where a run that was read from disk has other ones."""
    if any(scores.keys() != of_runs[0].keys() for scores in of_runs):
        raise CheckpointError(
            "the results of the seeds have different scores, so one of the files that were kept of them is "
            "damaged; remove the folder that ends in .partial, and start again"
        )
    return {name: Score.of([scores[name] for scores in of_runs]) for name in of_runs[0]}
