"""What would make saving fail after a long training fails before its first step."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import torch
from corpora import small_store, write_text
from small_models import SHAPES, small_model
from test_finetuning import reviews

from polyseme.checkpoints.formats import format_of
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.checkpoints.trial import try_saving
from polyseme.errors import CheckpointError, PolysemeWarning
from polyseme.models.heads import MaskedLMHead
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import TransformerConfig
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.together import finetune_together
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.preparing import prepare
from polyseme.text.store import Store
from polyseme.text.tokenizer_files import write_tokenizer
from polyseme.training import loop, pretraining
from polyseme.training.distilling import distill
from polyseme.training.pretraining import pretrain

SHORT = {"epochs": 1, "batch_size": 16, "threads": 1, "precision": "fp32"}
FEW: dict[str, Any] = {"size": "tiny", "steps": 1, "threads": 1}
TINY = (
    "training.batch_size=4",
    "training.length=48",
    "sizes.tiny.num_layers=1",
    "sizes.tiny.hidden_size=32",
    "sizes.tiny.num_heads=2",
    "sizes.tiny.intermediate_size=48",
)


class Ground(NamedTuple):
    folder: Path
    store: Store


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    target = tmp_path_factory.mktemp("trial")
    reviews(target / "train.tsv", 32, seed=0)
    reviews(target / "dev.tsv", 16, seed=1)
    small_model(target, "bert")
    store = small_store(target)
    config = TransformerConfig(
        vocab_size=store.vocab_size, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48
    )
    heads: dict[str, Any] = {"masked-lm": MaskedLMHead(config)}
    save(Model(build(config), Card(family="bert"), heads, store.tokenizer), target / "teacher")
    return Ground(target, store)


@pytest.fixture
def _no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever trains a step fails."""

    def train(*_: Any, **__: Any) -> None:
        raise AssertionError("a step was trained")

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(pretraining, "train", train)


def fine_tuned(ground: Ground, out: Path, *, model: Any = None, **more: Any) -> None:
    model = model or ground.folder / "bert"
    places = {"train": ground.folder / "train.tsv", "dev": ground.folder / "dev.tsv"}
    finetune("classification", model=model, out=out, **places, **SHORT, **more)


def fine_tuned_together(ground: Ground, out: Path, *, model: Any = None) -> None:
    places = {"train": ground.folder / "train.tsv", "dev": ground.folder / "dev.tsv"}
    tasks = {name: {"task": "classification", **places} for name in ("one", "two")}
    finetune_together(tasks, model=model or ground.folder / "bert", out=out, **SHORT)


def pretrained(ground: Ground, out: Path, recipe: str = "bert") -> None:
    pretrain(recipe, ground.store.folder, out=out, change=TINY, **FEW)


def pretrained_with_a_companion(ground: Ground, out: Path) -> None:
    pretrained(ground, out, "electra")


def distilled(ground: Ground, out: Path) -> None:
    distill(str(ground.folder / "teacher"), ground.store.folder, out=out, change=TINY, **FEW)


TRAININGS: list[Callable[[Ground, Path], None]] = [
    fine_tuned,
    fine_tuned_together,
    pretrained,
    pretrained_with_a_companion,
    distilled,
]


@pytest.mark.usefixtures("_no_step")
@pytest.mark.parametrize("training", TRAININGS)
def test_a_tokenizer_that_would_not_be_read_back_stops_a_training(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: Callable[[Ground, Path], None]
) -> None:
    """Two cases: it is read as another one, or not at all."""

    def without_separator(definition: Any, roles: dict[str, str], **options: Any) -> dict[str, bytes]:
        mask = roles["mask"]
        return write_tokenizer(definition, {**roles, "separator": mask}, **options)

    def cut_off(definition: Any, roles: dict[str, str], **options: Any) -> dict[str, bytes]:
        files = write_tokenizer(definition, roles, **options)
        return files | {"tokenizer.json": files["tokenizer.json"][:-9]}

    for broken, message in (
        (
            without_separator,
            "could not be saved to .*: its tokenizer would not be the same after reading the",
        ),
        (cut_off, "could not be saved to .*out.*/tokenizer.json is damaged"),
    ):
        monkeypatch.setattr("polyseme.text.tokenizer.write_tokenizer", broken)
        with pytest.raises(CheckpointError, match=message):
            training(ground, tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if "trial" in path.name]


@pytest.mark.usefixtures("_no_step")
@pytest.mark.parametrize("training", [fine_tuned, fine_tuned_together])
def test_a_network_that_its_family_cannot_say_stops_a_training(
    ground: Ground, tmp_path: Path, training: Callable[..., None]
) -> None:
    model = load(ground.folder / "bert")
    config = TransformerConfig(
        vocab_size=model.backbone.config.vocab_size,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        positions="rotary",
    )
    with pytest.raises(CheckpointError, match="a bert folder cannot say positions='rotary'"):
        training(ground, tmp_path / "out", model=Model(build(config), model.card, tokenizer=model.tokenizer))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("training", TRAININGS)
def test_a_disk_without_room_is_told_before_the_training(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: Callable[[Ground, Path], None]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    with pytest.warns(PolysemeWarning, match="GiB free, and the weights alone take .* GiB; make room"):
        training(ground, tmp_path / "out")


@pytest.mark.parametrize("family", sorted(SHAPES))
def test_every_family_passes_and_no_weight_is_read_or_left(
    ground: Ground, tmp_path: Path, family: str
) -> None:
    model = load(small_model(tmp_path, family))
    # As it is in pre-training: how fresh weights begin is written into no folder.
    config = model.backbone.config
    fresh_only = "initial.scaled_outputs" in format_of(family).fresh_only
    if fresh_only and config.norm_position == "before":
        initial = msgspec.structs.replace(config.initial, scaled_outputs=True)
        model.backbone.config = msgspec.structs.replace(config, initial=initial)
    read = try_saving(model, tmp_path / "out", folder=tmp_path / "tried")
    assert all(tensor.is_meta for tensor in read.backbone.state_dict().values())
    names = {name: tensor.shape for name, tensor in model.backbone.state_dict().items()}
    assert names == {name: tensor.shape for name, tensor in read.backbone.state_dict().items()}
    assert not (tmp_path / "tried").exists()
    assert not (tmp_path / "out").exists()
    assert not any(torch.is_tensor(tensor) and tensor.is_meta for tensor in model.backbone.parameters())


def test_what_a_killed_trial_left_behind_goes(ground: Ground, tmp_path: Path) -> None:
    left = tmp_path / "out.partial" / "trial"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{")
    fine_tuned(ground, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_table_of_its_own_is_no_reason_to_stop(tmp_path: Path) -> None:
    """T5 1.1 writes both tables; that they differ is told by numbers, which a trial does not have."""
    text = write_text(tmp_path / "text.txt")
    settings = LearningSettings(kind="unigram", vocab_size=300, sentinels=100)
    learn(text.read_text("utf-8").splitlines(), settings).save(tmp_path / "vocabulary")
    store = prepare([text], tokenizer=tmp_path / "vocabulary", out=tmp_path / "store")
    change = (*TINY, "training.held_out=0.05", "sizes.tiny.decoder={num_layers=1}")
    pretrain("t5-1.1", store.folder, out=tmp_path / "out", change=change, **FEW)
    assert not load(tmp_path / "out", heads=["seq2seq-lm"]).backbone.config.embedding.tied
