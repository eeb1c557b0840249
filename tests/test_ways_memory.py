"""A limit of memory: the first way that fits, the same learning, and estimates beside measured peaks."""

import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from reporters import Said
from small_models import small_model
from test_finetuning import reviews
from test_ways_phases import prepared

from polyseme import progress
from polyseme.checkpoints.loading import load
from polyseme.errors import SettingsError
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.runs import run
from polyseme.tasks.ways import memory
from polyseme.tasks.ways.memory import Fit, halvings, held_now, measured
from polyseme.tasks.ways.settings import in_bytes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("memory")
    reviews(target / "train.tsv", 64, seed=0, longest=90)
    reviews(target / "dev.tsv", 4, seed=1)
    small_model(
        target, "bert", hidden_size=128, num_layers=4, intermediate_size=512, max_position_embeddings=96
    )
    return target


def peak_of(folder: Path, queue: Any, rows: int, twice: bool) -> None:
    """Train one epoch of one batch, and tell the estimate and the most memory held meanwhile."""
    torch.set_num_threads(1)
    shared, _, _ = prepared(folder, batch_size=64, epochs=1, batch_tokens=256)
    data = shared.read(folder / "train.tsv", folder / "dev.tsv", None)
    need = measured(shared, data["train"], twice=twice)
    assert need is not None
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            peak[0] = max(peak[0], held_now(CPU))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run(shared, 1, data, fit=Fit(rows=rows, twice=twice))
    ended.set()
    watcher.join()
    queue.put((need.peak(rows), peak[0]))


@pytest.mark.parametrize(("rows", "twice"), [(64, False), (64, True)])
def test_the_estimate_is_near_the_measured_peak(folder: Path, rows: int, twice: bool) -> None:
    """In a process of its own, whose memory nothing else has touched; within a factor of about two."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=peak_of, args=(folder, queue, rows, twice))
    process.start()
    estimate, peak = queue.get(timeout=120)
    process.join()
    assert 0.8 < estimate / peak < 2.2


def test_smaller_parts_come_first_then_layers_computed_twice_then_frozen_features(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "held_now", lambda device: 0)
    shared, _, _ = prepared(folder, batch_size=16)
    data = shared.read(folder / "train.tsv", folder / "dev.tsv", None)
    once, twice = (measured(shared, data["train"], twice=kind) for kind in (False, True))
    assert once is not None
    assert twice is not None
    assert twice.a_row < once.a_row
    weights = sum(tensor.numel() for tensor in load(folder / "bert").backbone.parameters())
    assert once.fixed > 20 * weights
    budgets = {
        once.peak(16): "16 of 16 texts at once;",
        once.peak(5): "4 of 16 texts at once;",
        once.peak(1) - 1: "of 16 texts at once, layers computed twice;",
        twice.peak(1) - 1: "features of the frozen network fit;",
    }
    options = {"train": folder / "train.tsv", "dev": folder / "dev.tsv", "model": folder / "bert"}
    options |= {"epochs": 1, "batch_size": 16, "threads": 1, "precision": "fp32", "learning_rate": 1e-3}
    outcomes = {}
    for number, (budget, line) in enumerate(budgets.items()):
        said, out = Said(), tmp_path / str(number)
        with progress.reporting(said):
            finetune("classification", **options, out=out, memory=f"{budget / 1024}K")
        assert line in said.lines[-1], said.lines
        outcomes[number] = load(out).backbone.state_dict()
    finetune("classification", **options, out=tmp_path / "without")
    expected, before = (load(f).backbone.state_dict() for f in (tmp_path / "without", folder / "bert"))
    # A key's bias has no gradient but rounding, which AdamW makes large.
    names = [name for name in expected if not name.endswith("key.bias")]
    for number in (0, 1, 2):
        assert all(torch.allclose(outcomes[number][name], expected[name], atol=2e-4) for name in names)
    assert not all(torch.allclose(before[name], expected[name], atol=4e-4) for name in expected)
    assert all(torch.equal(outcomes[3][name], before[name]) for name in outcomes[3])
    with pytest.raises(SettingsError, match="memory 8K is too little: this network needs at least"):
        finetune("classification", **options, out=None, memory="8K")


def test_sizes_are_written_with_their_unit() -> None:
    assert in_bytes("11G") == 11 << 30
    assert in_bytes("0.5m") == 1 << 19
    assert list(halvings(20)) == [20, 10, 5, 3, 2, 1]
    for wrong in ("11", "G", "-1G", "many", ""):
        with pytest.raises(ValueError, match="memory must be a size such as 11G or 800M"):
            in_bytes(wrong)
