"""A fine-tuning that is killed goes on with the same command, and ends with the same bits."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_models import small_model
from test_finetuning import reviews

from polyseme.errors import DataError, SettingsError
from polyseme.tasks.finetuning import finetune
from polyseme.training.journal import read_journal

STEPS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("resuming")
    reviews(target / "train.tsv", 96, seed=0)
    reviews(target / "dev.tsv", 20, seed=1)
    small_model(target, "bert", num_layers=2, dropout=0.2, attention_dropout=0.1)
    return target


def command(folder: Path, out: Path) -> list[str]:
    places = {"train": folder / "train.tsv", "dev": folder / "dev.tsv", "model": folder / "bert", "out": out}
    named = [part for name, path in places.items() for part in (f"--{name}", str(path))]
    return [
        *(sys.executable, "-m", "polyseme", "finetune", "classification", *named, "--way", "head-first"),
        *("--head-epochs", "2", "--epochs", "3", "--batch-size", "8", "--precision", "fp32"),
        *("--seeds", "1", "2", "--threads", "1", "--save-steps", str(STEPS), "--quiet"),
    ]


def killed_at(step: int, words: list[str], states: Path) -> None:
    """Start the command and kill it, without any warning, once a state of that step stands."""
    process = subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 60
    while not list(states.glob(f"step-*{step:04}")) and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_killed_fine_tuning_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    """Killed in the first phase, in the second, and in the second seed's run."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(folder, whole), check=True)
    for seed, step in ((1, 12), (1, 33), (2, 30)):
        killed_at(step, command(folder, broken), tmp_path / "broken.partial" / f"seed-{seed}-state")
        assert not broken.exists()
    subprocess.run(command(folder, broken), check=True)
    first, second = ((f / "model.safetensors").read_bytes() for f in (whole, broken))
    assert first == second
    assert read_journal(whole / "journal.jsonl") == read_journal(broken / "journal.jsonl")
    assert not (tmp_path / "broken.partial").exists()


def test_another_command_does_not_go_on_in_the_same_folder(folder: Path, tmp_path: Path) -> None:
    words = command(folder, tmp_path / "out")
    killed_at(12, words, tmp_path / "out.partial" / "seed-1-state")
    options = {"train": folder / "train.tsv", "dev": folder / "dev.tsv", "model": folder / "bert"}
    with pytest.raises(SettingsError, match=r"another way \(head-first then, full now\); repeat the first"):
        finetune("classification", **options, out=tmp_path / "out", precision="fp32", threads=1)
    shutil.rmtree(tmp_path / "out.partial")
    with pytest.raises(DataError):
        finetune("classification", **options | {"dev": tmp_path / "none.tsv"}, out=tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()
