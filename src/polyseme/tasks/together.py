"""Several tasks at once over one backbone: a head each, batches drawn by size or by temperature.

Caruana 1997, "Multitask Learning": what the tasks share is learned from all of them. A step is a batch of
one task; tasks take turns at p ∝ n^(1/T) for n training rows (Arivazhagan et al. 2019, section 4.1, where
T = 1 is by size and T = 5 evens them out).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.checkpoints.trial import try_saving
from polyseme.checkpoints.undrawn import undrawn
from polyseme.devices import environment
from polyseme.errors import SettingsError
from polyseme.records import flat, from_flat, to_plain
from polyseme.tasks.finetuning import Score, journal_of, keep_best, scores_in, scores_of
from polyseme.tasks.partial import (
    Partial,
    already_made,
    check_command,
    command_hash,
    partial,
    settings_of,
    task_of,
)
from polyseme.tasks.preparation import Data, Preparation
from polyseme.tasks.runs import Run
from polyseme.tasks.runs_together import MEAN, Together, fresh_module, run_together
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.skipping import leaving_out
from polyseme.tasks.task import make_task
from polyseme.tasks.together_settings import task_files
from polyseme.threads import default_threads, torch_threads

NAME = "together"
"""What the card of a folder of several tasks calls its task."""


_FOR_ONE_TASK = ("preset", "way", "metric", "folds", "adversarial", "class_weights", "machine.memory")
"""Settings of a fine-tuning that several tasks at once do not have."""


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
    the best mean of the tasks' first scores on dev is kept. What was killed goes on when the same call is
    made again, and ends with the same weights, bit for bit; until it is done it keeps its state in
    `OUT.partial`.

    >>> finetune_together("tasks.toml", model="mini", out="mine", temperature=2)  # doctest: +SKIP
    """
    settings = _checked(from_flat(options, FinetuneSettings, where="finetune"), temperature)
    with torch_threads(settings.machine.threads or default_threads()), partial(out) as place:
        base = model if isinstance(model, Model) else load(model)
        files = task_files(tasks)
        shared = {
            name: Preparation(make_task(one.task, one.options), base, settings) for name, one in files.items()
        }
        with leaving_out(settings.data.skip_bad) as left:
            data = {
                name: shared[name].read(Path(one.train), Path(one.dev), Path(one.test) if one.test else None)
                for name, one in files.items()
            }
        left.say("finetune")
        _share_rows(list(shared.values()))
        command = _command(shared, data, temperature)
        if place is not None:
            if (made := already_made(Path(str(out)), command)) is not None:
                return _outcome_of(Path(str(out)), made)
            check_command(place, command)
            _try_saving(shared, settings, Path(str(out)), place.trial)
        runs, best = _run_all(shared, data, settings, temperature, place)
        outcome = TogetherOutcome(
            folder=Path(out) if out is not None else None,
            examples={name: len(of_task["train"].examples) for name, of_task in data.items()},
            dev=_by_task([done.dev for done in runs]),
            test=_by_task([done.test for done in runs]),
            best_seed=best.seed,
            left_out=tuple(left.errors),
        )
        if outcome.folder is not None and place is not None:
            source = "memory" if isinstance(model, Model) else str(model)
            made = {"from": source, "temperature": temperature, "command": command_hash(command)}
            _save(best, shared, settings, outcome, made=made, more=journal_of(runs))
    return outcome


def _outcome_of(folder: Path, made: dict[str, Any]) -> TogetherOutcome:
    """What a fine-tuning that was done before came to."""
    tasks = made["tasks"].items()

    def scores(part: str) -> dict[str, dict[str, Score]]:
        return {name: scores_in(one[part]) for name, one in tasks if one[part]}

    return TogetherOutcome(
        folder=folder,
        examples={name: one["examples"] for name, one in tasks},
        dev=scores("dev"),
        test=scores("test"),
        best_seed=made["seed"],
        left_out=tuple(made.get("left_out", ())),
    )


def _run_all(
    shared: Mapping[str, Preparation],
    data: Mapping[str, dict[str, Data]],
    settings: FinetuneSettings,
    temperature: float,
    place: Partial | None,
) -> tuple[list[Run], Run]:
    """All runs, and the best on dev with its weights; the weights of the others are let go."""
    runs: list[Run] = []
    best: Run | None = None
    for seed in settings.seeds:
        name = f"seed-{seed}"
        like = next(iter(runs), None)
        done = place.read(name, seed=seed, metric=MEAN, like=like) if place is not None else None
        if done is None:
            folder = place.state(name) if place is not None else None
            done = run_together(seed, shared, data, settings, temperature=temperature, folder=folder)
            done = keep_best(done, best, MEAN)
            if place is not None:
                place.write(name, done)
        best = done if done.tensors else best
        runs.append(done)
    assert best is not None
    return runs, best


def _share_rows(shared: Sequence[Preparation]) -> None:
    """One backbone trains the rows of the token table that any of the tasks needs, or all of them."""
    of_tasks = [one.used_ids for one in shared if one.used_ids is not None]
    joined = torch.unique(torch.cat(of_tasks)) if len(of_tasks) == len(shared) else None
    for one in shared:
        one.used_ids = joined


def _command(
    shared: Mapping[str, Preparation], data: Mapping[str, dict[str, Data]], temperature: float
) -> dict[str, Any]:
    """What is done here, in the words that a folder of an unfinished fine-tuning keeps."""
    of_tasks = {
        f"{name}: {key}": value
        for name, one in shared.items()
        for key, value in task_of(one, data[name]).items()
    }
    return settings_of(next(iter(shared.values()))) | {"temperature": temperature} | of_tasks


def _checked(settings: FinetuneSettings, temperature: float) -> FinetuneSettings:
    if not 0 < temperature < math.inf:
        raise SettingsError(
            f"temperature must be above 0 and finite, got {temperature}; 1 draws tasks by their size"
        )
    usual = FinetuneSettings()
    given, known = flat(settings), flat(usual)
    for name in _FOR_ONE_TASK:
        if given[name] != known[name]:
            option = name.rpartition(".")[2]
            raise SettingsError(f"{option} is for one task; several at once are trained without it")
    return settings


def _save(
    best: Run,
    shared: Mapping[str, Preparation],
    settings: FinetuneSettings,
    outcome: TogetherOutcome,
    *,
    made: dict[str, Any],
    more: Mapping[str, bytes],
) -> None:
    """One folder: the backbone as transformers would write it, and all heads beside it."""
    assert outcome.folder is not None
    tensors = next(iter(shared.values())).whole(best.tensors)
    with undrawn():
        module = fresh_module({name: one.with_weights("none") for name, one in shared.items()})
    module.load_state_dict(tensors, assign=True)
    figures = {
        name: {
            "examples": outcome.examples[name],
            "dev": {score: value._asdict() for score, value in outcome.dev[name].items()},
            "test": {score: value._asdict() for score, value in outcome.test.get(name, {}).items()},
        }
        for name in shared
    }
    made = {"seed": best.seed, **made}
    save(_saved(module, shared, settings, figures, made=made), outcome.folder, more=more)


def _try_saving(
    shared: Mapping[str, Preparation], settings: FinetuneSettings, out: Path, folder: Path
) -> None:
    """Before the first step, raise what saving would raise after the last one."""
    with torch.random.fork_rng():
        module = fresh_module({name: one.with_weights("shared") for name, one in shared.items()})
    try_saving(_saved(module, shared, settings, {}, made={}), out, folder=folder)


def _saved(
    module: Together,
    shared: Mapping[str, Preparation],
    settings: FinetuneSettings,
    figures: Mapping[str, dict[str, Any]],
    *,
    made: dict[str, Any],
) -> Model:
    """What is saved of a network of several tasks; `figures` tell of each task's examples and scores."""
    first = next(iter(shared.values()))
    tasks = {
        name: {
            "task": one.task.name,
            "task_settings": to_plain(one.task.settings),
            "inventory": to_plain(one.inventory),
            "reading": one.reading,
            **figures.get(name, {}),
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
            "max_length": first.max_length,
            **made,
            "environment": environment(),
        },
    )
    heads = {name: value for name, value in module.state_dict().items() if name.startswith("parts.")}
    return Model(module.backbone, card, {}, first.tokenizer, heads)


def _by_task(of_runs: list[dict[str, float]]) -> dict[str, dict[str, Score]]:
    """Scores called `task.score` as tables of tables."""
    found: dict[str, dict[str, Score]] = {}
    for called, score in scores_of(of_runs).items():
        task, _, name = called.partition(".")
        if name:
            found.setdefault(task, {})[name] = score
    return found
