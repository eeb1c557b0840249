"""Fine-tuning trains the rows of the token table that occur; the others end as with the whole table."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import small_model
from test_finetuning import reviews
from test_ways_resuming import killed_at
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.saving import save
from polyseme.errors import SettingsError
from polyseme.models.heads import MaskedLMHead
from polyseme.models.transformer.used_rows import UsedRows
from polyseme.records import from_flat
from polyseme.tasks import preparation
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.preparation import Preparation
from polyseme.tasks.runs import run
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.task import make_task
from polyseme.tasks.together import finetune_together
from polyseme.tasks.ways.phases import optimizers
from polyseme.training import loop
from polyseme.training.schedules import Schedule

TABLE = "embeddings.tokens.weight"
STRONG = {"learning_rate": 1e-3, "weight_decay": 0.5, "warmup": 0.3}
"""So much decay that the rows which only decay are seen to."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models whose table has far more rows than the texts have different characters."""
    target = tmp_path_factory.mktemp("rows")
    reviews(target / "train.tsv", 48, seed=0)
    reviews(target / "dev.tsv", 20, seed=1)
    model = load(small_model(target, "bert", vocab_size=5000, num_layers=2))
    torch.manual_seed(0)
    model.heads["masked-lm"] = MaskedLMHead(model.backbone.config)
    save(model, target / "bert", replace=True)
    small_model(target, "gpt2", vocab_size=5000, num_layers=2)
    small_model(target, "roberta", vocab_size=5000, num_layers=2)
    return target


def options(folder: Path, family: str = "bert", **more: Any) -> dict[str, Any]:
    places = {"train": folder / "train.tsv", "dev": folder / "dev.tsv", "model": folder / family}
    few = {"epochs": 2, "batch_size": 16, "threads": 1, "precision": "fp32"}
    return places | few | STRONG | more


def prepared(folder: Path, family: str = "bert", task: str = "classification", **more: Any) -> Preparation:
    of_task = {name: more.pop(name) for name in ("lm_weight",) if name in more}
    chosen = {name: value for name, value in options(folder, **more).items() if name not in PLACES}
    settings = from_flat(chosen, FinetuneSettings, where="test")
    shared = Preparation(make_task(task, of_task), folder / family, settings)
    shared.read(folder / "train.tsv", folder / "dev.tsv", None)
    return shared


PLACES = ("train", "dev", "model")


def backbone(folder: Path) -> dict[str, Tensor]:
    return load(folder).backbone.state_dict()


def both(
    monkeypatch: pytest.MonkeyPatch, out: Path, tune: Callable[[Path], Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights after the rows that occur were trained, and after the whole table was."""
    tune(out / "rows")
    monkeypatch.setattr(preparation, "LEAST_UNUSED", 10**9)
    tune(out / "whole")
    return backbone(out / "rows"), backbone(out / "whole")


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("bert", {}),
        ("roberta", {"clip": None}),
        ("bert", {"way": "head-first", "head_epochs": 1}),
        ("bert", {"way": "gradual"}),
        ("bert", {"way": "filling", "pattern": "review-zh", "label_words": ("正=好", "负=差")}),
        ("bert", {"adversarial": 1.0, "embedding_learning_rate": 1e-2}),
        ("bert", {"embedding_learning_rate": 0.0}),
        ("bert", {"weight_decay": 0.0, "seeds": (1, 2), "folds": 2}),
        ("gpt2", {"lm_weight": 0.5}),
    ],
    ids=str,
)
def test_all_weights_end_as_with_the_whole_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, more: dict[str, Any]
) -> None:
    def tune(out: Path) -> None:
        finetune("classification", out=out, **options(folder, family, **more))

    rows, whole = both(monkeypatch, tmp_path, tune)
    before = backbone(folder / family)
    # A key's bias has no gradient but rounding, which AdamW makes large where a norm rounds otherwise.
    for name in whole:
        assert name.endswith("key.bias") or torch.allclose(rows[name], whole[name], atol=1e-6, rtol=0), name
    assert rows[TABLE].shape == before[TABLE].shape
    kept = [torch.equal(table[TABLE][-1], before[TABLE][-1]) for table in (rows, whole)]
    assert kept[0] == kept[1]


def test_the_rows_are_those_of_torchs_own_optimizer_on_the_whole_table(folder: Path) -> None:
    """A hundred steps under a schedule, against torch.optim.AdamW on a table with all rows."""
    shared = prepared(folder, weight_decay=0.2, learning_rate=3e-3)
    assert shared.used_ids is not None
    module: Any = shared.module()
    (phase,) = shared.way.phases(shared, module)
    ours = optimizers(module, phase, shared.settings)
    few = module.backbone.embeddings.tokens
    assert isinstance(few, UsedRows)
    table = shared.base.backbone.embeddings.tokens.weight.detach().clone().requires_grad_()
    theirs = torch.optim.AdamW([table], lr=3e-3, weight_decay=0.2)
    schedule, generator = Schedule("linear", 100, 0.1), torch.Generator().manual_seed(0)
    for step in range(100):
        ids = shared.used_ids[torch.randint(len(shared.used_ids), (9,), generator=generator)]
        pull = torch.randn(9, table.size(1), generator=generator)
        (few(ids) * pull).sum().backward()
        (nn.functional.embedding(ids, table) * pull).sum().backward()
        norms = [loop.gradient_norm(ours.parameters, 1.0), float(nn.utils.clip_grad_norm_([table], 1.0))]
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
        ours.step(factor=schedule(step))
        ours.zero_grad()
        theirs.param_groups[0]["lr"] = 3e-3 * schedule(step)
        theirs.step()
        theirs.zero_grad()
    ended = shared.whole(module.state_dict())[f"backbone.{TABLE}"]
    assert torch.allclose(ended, table, atol=1e-6, rtol=0)
    assert float(few.decay) < 0.98


def test_a_step_that_is_left_out_shrinks_nothing(folder: Path) -> None:
    shared = prepared(folder)
    module: Any = shared.module()
    (phase,) = shared.way.phases(shared, module)
    optimizers(module, phase, shared.settings).step(factor=1.0)
    assert float(module.backbone.embeddings.tokens.decay) == 1.0


def test_several_tasks_train_the_rows_of_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews(folder / "other.tsv", 24, seed=7)
    tasks = {
        name: {"task": "classification", "train": folder / f"{file}.tsv", "dev": folder / "dev.tsv"}
        for name, file in (("one", "train"), ("two", "other"))
    }
    few = {"epochs": 1, "batch_size": 16, "threads": 1, "precision": "fp32", **STRONG}

    def tune(out: Path) -> None:
        finetune_together(tasks, model=folder / "bert", out=out, **few)

    rows, whole = both(monkeypatch, tmp_path, tune)
    assert all(
        name.endswith("key.bias") or torch.allclose(rows[name], whole[name], atol=1e-6, rtol=0)
        for name in whole
    )


def test_a_kill_changes_no_bit_of_any_row(folder: Path, tmp_path: Path) -> None:
    words = options(folder, dropout=0.2, save_steps=1)
    finetune("classification", out=tmp_path / "whole", **words)
    for step in (2, 5):
        killed_at(step, {**words, "out": tmp_path / "broken"}, tmp_path / "broken.partial" / "seed-1-state")
    states = list((tmp_path / "broken.partial").glob("seed-1-state/step-*/weights.safetensors"))
    assert states
    assert all(state.stat().st_size < 5000 * 32 * 4 for state in states)  # less than the table alone
    finetune("classification", out=tmp_path / "broken", **words)
    whole, broken = (path / "model.safetensors" for path in (tmp_path / "whole", tmp_path / "broken"))
    assert whole.read_bytes() == broken.read_bytes()


def test_a_model_in_memory_is_left_as_it_was(folder: Path, tmp_path: Path) -> None:
    model = load(folder / "bert")
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    words = options(folder) | {"model": model}
    finetune("classification", out=tmp_path / "out", **words)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.backbone.state_dict().items())


def test_the_whole_table_is_trained_where_every_row_gets_a_gradient_or_few_rest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepared(folder).used_ids is not None
    assert prepared(folder, "gpt2", lm_weight=0.5).used_ids is None
    assert prepared(folder, fresh=True).used_ids is None
    assert prepared(folder, way="frozen").used_ids is None
    monkeypatch.setattr(preparation, "LEAST_UNUSED", 4999)
    assert prepared(folder).used_ids is None


def test_an_id_outside_of_the_data_is_never_another_row() -> None:
    rows = UsedRows(torch.randn(50, 4), torch.tensor([3, 7, 20]))
    assert torch.equal(rows(torch.tensor([[20, 3]])), rows.weight[[2, 0]][None])
    with pytest.raises(IndexError):
        rows(torch.tensor([8]))


class Drawn(TorchDispatchMode):
    """Counts the random numbers that are drawn for weights with memory."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.normal_, torch.ops.aten.uniform_) and not args[0].is_meta:
            self.count += args[0].numel()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("way", ["full", "frozen"])
def test_no_weights_are_drawn_that_the_model_has(folder: Path, tmp_path: Path, way: str) -> None:
    with Drawn() as drawn:
        finetune("classification", out=tmp_path / "out", **options(folder, way=way, epochs=1))
    head = 2 * 32
    assert head <= drawn.count <= 20 * head  # drawn once by torch, once by us, and for the trial of saving


def test_a_run_does_not_load_torchs_compiler(folder: Path) -> None:
    words = {
        name: str(value) if isinstance(value, Path) else value for name, value in options(folder).items()
    }
    code = (
        "import sys; from polyseme.tasks.finetuning import finetune; "
        f"finetune('classification', out=None, **{words!r}); print('torch._dynamo' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


def test_a_state_of_the_whole_table_is_not_gone_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = options(folder, save_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "LEAST_UNUSED", 10**9)
        killed_at(2, {**words, "out": tmp_path / "out"}, tmp_path / "out.partial" / "seed-1-state")
    with pytest.raises(SettingsError, match="was started with another number of trained token rows"):
        finetune("classification", out=tmp_path / "out", **words)


def test_a_run_keeps_only_the_rows_that_it_trains(folder: Path) -> None:
    shared = prepared(folder, epochs=1)
    data = shared.read(folder / "train.tsv", folder / "dev.tsv", None)
    assert shared.used_ids is not None
    assert len(run(shared, 1, data).tensors[f"backbone.{TABLE}"]) == len(shared.used_ids) < 500
