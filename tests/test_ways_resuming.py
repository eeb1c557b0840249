"""A fine-tuning that is killed goes on with the same command, and ends with the same bits."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from small_models import small_model
from test_finetuning import reviews

from polyseme.errors import DataError, SettingsError
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.together import finetune_together
from polyseme.training.journal import read_journal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("resuming")
    reviews(target / "train.tsv", 48, seed=0)
    reviews(target / "dev.tsv", 20, seed=1)
    small_model(target, "bert", num_layers=2, dropout=0.2, attention_dropout=0.1)
    return target


def words(folder: Path, out: Path) -> dict[str, Any]:
    """A head of its own for one epoch and all for two, 18 steps for each of two seeds."""
    places = {"train": folder / "train.tsv", "dev": folder / "dev.tsv", "model": folder / "bert", "out": out}
    stages = {"way": "head-first", "head_epochs": 1, "epochs": 2, "batch_size": 8, "seeds": (1, 2)}
    return {**places, **stages, "precision": "fp32", "threads": 1, "save_steps": 2}


def killed_at(step: int, options: dict[str, Any], states: Path, tune: Any = finetune, *what: Any) -> None:
    """Fine-tune in another process, and kill it without any warning once a state of that step stands."""
    process = multiprocessing.get_context("fork").Process(
        target=tune, args=what or ("classification",), kwargs=options
    )
    process.start()
    end = time.monotonic() + 60
    while not list(states.glob(f"step-*{step:04}")) and process.is_alive():
        assert time.monotonic() < end
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_fine_tuning_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    """Killed in the first phase, in the second, and in the second seed's run."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finetune("classification", **words(folder, whole))
    for seed, step in ((1, 4), (1, 10), (2, 14)):
        killed_at(step, words(folder, broken), tmp_path / "broken.partial" / f"seed-{seed}-state")
        assert not broken.exists()
    finetune("classification", **words(folder, broken))
    first, second = ((f / "model.safetensors").read_bytes() for f in (whole, broken))
    assert first == second
    assert read_journal(whole / "journal.jsonl") == read_journal(broken / "journal.jsonl")
    assert not (tmp_path / "broken.partial").exists()


def test_a_killed_fine_tuning_on_several_tasks_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    """Killed within an epoch, with patience, and in the second seed's run; tasks begin their rows again."""
    reviews(folder / "few.tsv", 10, seed=2)
    tasks = {
        name: {"task": "classification", "train": folder / train, "dev": folder / "dev.tsv"}
        for name, train in (("many", "train.tsv"), ("few", "few.tsv"))
    }

    def options(out: Path) -> dict[str, Any]:
        own = {name: value for name, value in words(folder, out).items() if name in ("model", "out", "seeds")}
        steady = {"precision": "fp32", "threads": 1, "save_steps": 3, "epochs": 3, "patience": 2}
        return own | steady | {"batch_size": 8, "temperature": 1e6}

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finetune_together(tasks, **options(whole))
    for seed, step in ((1, 3), (1, 12), (2, 6)):
        states = tmp_path / "broken.partial" / f"seed-{seed}-state"
        killed_at(step, options(broken), states, finetune_together, tasks)
    with pytest.raises(SettingsError, match=r"another temperature \(1000000.0 then, 1.0 now\)"):
        finetune_together(tasks, **options(broken) | {"temperature": 1.0})
    changed = {**tasks, "few": {**tasks["few"], "dev": folder / "few.tsv"}}
    with pytest.raises(SettingsError, match="another few: dev examples; repeat"):
        finetune_together(changed, **options(broken))
    finetune_together(tasks, **options(broken))
    for file in ("model.safetensors", "task.safetensors"):
        assert (whole / file).read_bytes() == (broken / file).read_bytes()
    assert read_journal(whole / "journal.jsonl") == read_journal(broken / "journal.jsonl")
    assert not (tmp_path / "broken.partial").exists()


def test_another_command_does_not_go_on_in_the_same_folder(folder: Path, tmp_path: Path) -> None:
    options = words(folder, tmp_path / "out")
    killed_at(4, options, tmp_path / "out.partial" / "seed-1-state")
    with pytest.raises(SettingsError, match=r"another way \(head-first then, full now\); repeat the first"):
        finetune("classification", **options | {"way": "full"})
    shutil.rmtree(tmp_path / "out.partial")
    with pytest.raises(DataError):
        finetune("classification", **options | {"dev": tmp_path / "none.tsv"})
    assert not (tmp_path / "out.partial").exists()


def test_what_is_cut_off_while_it_is_saved_is_saved_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = words(folder, tmp_path / "out") | {"way": "full", "epochs": 1, "seeds": (1,)}
    finetune("classification", **options | {"out": tmp_path / "whole"})
    with monkeypatch.context() as patched:
        patched.setattr("polyseme.checkpoints.saving.record_of", lambda *arguments: pytest.fail("cut off"))
        with pytest.raises(pytest.fail.Exception):
            finetune("classification", **options)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(
        "polyseme.tasks.finetuning.run", lambda *arguments, **named: pytest.fail("trained again")
    )
    finetune("classification", **options)
    for name in ("model.safetensors", "journal.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_fine_tuning_that_ended_a_moment_ago_is_done_already(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when its folder was there and its state not yet gone, it is not trained again nor refused."""
    options = words(folder, tmp_path / "out") | {"way": "full", "epochs": 1}
    test = {"test": folder / "dev.tsv"}
    first = finetune("classification", **options, **test)
    content = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("polyseme.tasks.finetuning.run", lambda *arguments, **named: pytest.fail("trained"))
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "left").touch()
    again = finetune("classification", **options, **test)
    assert (again.dev, again.test, again.best_seed) == (first.dev, first.test, first.best_seed)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == content
    assert not (tmp_path / "out.partial").exists()
    for other in ({"epochs": 2}, {"train": folder / "dev.tsv"}, {"seeds": (1,)}):
        with pytest.raises(DataError, match="out exists and is not empty; name another folder, or remove it"):
            finetune("classification", **options | other, **test)
        assert not (tmp_path / "out.partial").exists()
