"""Every way is there for every task: it trains, and its folder answers as in training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_intents
import test_multiple_choice
import test_ranking
import test_reading_comprehension
import test_regression
import test_tagging
import torch
from small_models import small_model
from test_finetuning import reviews

from polyseme.checkpoints.loading import load
from polyseme.errors import SettingsError
from polyseme.tasks import TASKS
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.predicting import evaluate
from polyseme.tasks.ways import WAYS, memory
from polyseme.tasks.ways.memory import Fit

Write = Callable[..., Path]
DATA: dict[str, tuple[str, Write]] = {
    "classification": ("tsv", lambda path, count, seed: reviews(path, count, seed=seed)),
    "regression": ("tsv", lambda path, count, seed: test_regression.shares(path, count, seed=seed)),
    "tagging": ("bmes", lambda path, count, seed: test_tagging.names(path, count, seed)),
    "reading-comprehension": (
        "json",
        lambda path, count, seed: test_reading_comprehension.made_up(path, count, seed=seed, longest=24),
    ),
    "multiple-choice": (
        "json",
        lambda path, count, seed: test_multiple_choice.made_up(path, count, seed=seed),
    ),
    "ranking": ("tsv", lambda path, count, seed: test_ranking.made_up(path, count, seed=seed)),
    "intents": ("d", lambda path, count, seed: test_intents.travels(path, count, seed=seed)),
    "fused-intents": ("d", lambda path, count, seed: test_intents.travels(path, count, seed=seed)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tasks")
    small_model(target, "bert", num_layers=2)
    for suffix, (name, (ending, write)) in [(f"-{n}", entry) for n in (24, 8) for entry in DATA.items()]:
        write(target / f"{name}{suffix}.{ending}", int(suffix[1:]), int(suffix[1:]))
    return target


def files(folder: Path, task: str) -> dict[str, Path]:
    ending = DATA[task][0]
    return {"train": folder / f"{task}-24.{ending}", "dev": folder / f"{task}-8.{ending}"}


SHORT = {"epochs": 1, "batch_size": 8, "threads": 1, "precision": "fp32", "head_epochs": 1, "stage_epochs": 1}


def test_the_tables_are_covered() -> None:
    assert set(DATA) == set(TASKS)
    assert set(WAYS) == {"full", "frozen", "head-first", "gradual", "filling"}


@pytest.mark.parametrize("way", ["frozen", "head-first", "gradual"])
@pytest.mark.parametrize("task", DATA)
def test_a_folder_answers_as_in_training(folder: Path, tmp_path: Path, task: str, way: str) -> None:
    options: dict[str, Any] = {"layers": "weighted:1:-1", "feature_head": "bilstm", "lstm_size": 8}
    outcome = finetune(
        task, **files(folder, task), model=folder / "bert", out=tmp_path / "out", way=way, **SHORT, **options
    )
    report = evaluate(task, files(folder, task)["dev"], model=tmp_path / "out", threads=1)
    for name, score in outcome.dev.items():
        assert report[name] == pytest.approx(score.mean, abs=1e-6), name
    if way == "frozen":
        before, after = (load(f).backbone.state_dict() for f in (folder / "bert", tmp_path / "out"))
        assert all(torch.equal(after[name], before[name]) for name in after)


@pytest.mark.parametrize("task", DATA)
def test_folds_steps_against_the_vectors_and_parts_of_a_batch_serve_every_task(
    folder: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two folds: what was finished is read again, outputs of every kind included."""
    monkeypatch.setattr(memory, "fitting", lambda shared, data: None)
    monkeypatch.setattr("polyseme.tasks.partial.fitting", lambda shared, data: Fit(rows=3, twice=True))
    options = {**files(folder, task), **SHORT, "model": folder / "bert", "folds": 2, "adversarial": 0.5}
    whole = finetune(task, **options, out=tmp_path / "whole")
    calls = []

    def broken(*arguments: Any, **named: Any) -> Any:
        calls.append(named["label"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(*arguments, **named)

    from polyseme.tasks.runs import run

    monkeypatch.setattr("polyseme.tasks.finetuning.run", broken)
    with pytest.raises(KeyboardInterrupt):
        finetune(task, **options, out=tmp_path / "out")
    outcome = finetune(task, **options, out=tmp_path / "out")
    assert calls == ["seed 1, fold 1", "seed 1, fold 2", "seed 1, fold 2"]
    assert outcome.out_of_fold == whole.out_of_fold
    assert set(outcome.out_of_fold) == set(outcome.dev)
    names = ("model.safetensors", "out_of_fold.jsonl")
    first, second = ([(tmp_path / f / name).read_bytes() for name in names] for f in ("whole", "out"))
    assert first == second


def test_tags_have_weights_where_they_are_learned_one_by_one(folder: Path) -> None:
    options: dict[str, Any] = {**files(folder, "tagging"), **SHORT, "model": folder / "bert", "out": None}
    plain, weighed = (
        finetune("tagging", **options, class_weights=weights, learning_rate=1e-2).dev
        for weights in ((), ("O=0",))
    )
    assert plain != weighed
    assert finetune("tagging", **options, class_weights=("balanced",)).examples == 24
    with pytest.raises(SettingsError, match="class_weights are for tags that are learned one by one"):
        finetune("tagging", **options, class_weights=("balanced",), tagger="crf")
    options |= {**files(folder, "regression")}
    with pytest.raises(
        SettingsError, match="class_weights are for losses over classes, and regression has none"
    ):
        finetune("regression", **options, class_weights=("balanced",))
