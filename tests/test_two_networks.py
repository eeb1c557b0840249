"""Runs with a second network beside the model: a generator that is kept, a teacher that is not."""

import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from corpora import small_store
from foreign_models import one_thread, read_back
from safetensors import safe_open

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.saving import save
from polyseme.cli import main
from polyseme.errors import CheckpointError, SettingsError
from polyseme.models.transformer.model import Transformer
from polyseme.text.store import Store
from polyseme.training.building import Pretraining, build_objective, model_config
from polyseme.training.companions import provide
from polyseme.training.distilling import distill
from polyseme.training.journal import read_journal
from polyseme.training.optimizers import build_optimizers
from polyseme.training.pretraining import _Run, pretrain
from polyseme.training.recipes import changed, read_recipe, sized
from polyseme.training.settings import TrainingSettings
from polyseme.training.state import newest_state

__all__ = ["one_thread"]

SMALL = (
    "training.batch_size=4",
    "training.accumulation=1",
    "training.length=48",
    "training.held_out=0.05",
    "training.warmup=2",
    "sizes.tiny.hidden_size=32",
    "sizes.tiny.num_heads=4",
    "sizes.tiny.intermediate_size=64",
)
ELECTRA = (*SMALL, "training.optimizer=adamw", "sizes.tiny.embedding={size=16}", "sizes.tiny.dropout=0.1")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("networks"), documents=120)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def options(store: Store, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "recipe": "electra",
        "store": str(store.folder),
        "out": str(out),
        "size": "tiny",
        "threads": 1,
        "steps": 6,
        "change": list(ELECTRA),
        **more,
    }


@pytest.fixture(scope="module")
def electra(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("electra") / "run"
    pretrain(**options(store, folder))
    return folder


@pytest.fixture(scope="module")
def teacher(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of four layers; its weights are far from those of a fresh student."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    change = [*SMALL, "sizes.tiny.num_layers=4", "model.initial={range=0.1}"]
    pretrain(**options(store, folder, recipe="bert", steps=3, change=change))
    return folder


def digests(folder: Path) -> list[str]:
    files = (folder / "model.safetensors", folder / "generator" / "model.safetensors")
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_the_generator_is_a_model_folder_of_its_own_with_the_same_embeddings(electra: Path) -> None:
    model = load(electra, heads=["replaced-token"])
    generator = load(electra / "generator", heads=["masked-lm"])
    assert generator.card.family == model.card.family == "electra"
    assert generator.card.made["part"] == "generator"
    assert (generator.backbone.hidden_size, model.backbone.hidden_size) == (8, 32)
    ours, theirs = model.backbone.embeddings.state_dict(), generator.backbone.embeddings.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    read_back("ElectraForPreTraining", electra)
    read_back("ElectraForMaskedLM", electra / "generator")


def test_going_on_reads_both_networks(store: Store, electra: Path, tmp_path: Path) -> None:
    still = [*ELECTRA, "training.learning_rate=1e-12"]
    outcome = pretrain(**options(store, tmp_path / "on", steps=1, from_model=str(electra), change=still))
    assert outcome.finished
    for folder, head in ((Path(), "replaced-token"), (Path("generator"), "masked-lm")):
        before, after = (load(run / folder, heads=[head]) for run in (electra, tmp_path / "on"))
        for part in (lambda m: m.backbone, lambda m, h=head: m.heads[h]):  # type: ignore[misc]
            for name, tensor in part(before).state_dict().items():
                assert torch.allclose(tensor, part(after).state_dict()[name], atol=1e-6), name
    made = load(tmp_path / "on").card.made
    assert len(made["generator"]) == 64


def test_a_discriminator_alone_goes_on_with_a_fresh_generator_or_a_named_one(
    store: Store, electra: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in electra.iterdir():
        if file.is_file():
            (alone / file.name).write_bytes(file.read_bytes())
    still = [*ELECTRA, "training.learning_rate=1e-12"]
    words = options(store, tmp_path / "fresh", steps=1, from_model=str(alone), change=still)
    pretrain(**words)
    assert "generator" not in load(tmp_path / "fresh").card.made
    fresh, old = (load(run / "generator").backbone for run in (tmp_path / "fresh", electra))
    assert not torch.allclose(fresh.layers[0].attention.query.weight, old.layers[0].attention.query.weight)
    still.append(f"objectives.0.generator_from={electra / 'generator'}")
    pretrain(**(words | {"out": str(tmp_path / "named"), "change": still}))
    named = load(tmp_path / "named" / "generator").backbone
    assert torch.allclose(
        named.layers[0].attention.query.weight, old.layers[0].attention.query.weight, atol=1e-6
    )
    with pytest.raises(SettingsError, match="is not the backbone's, and they share all embeddings"):
        pretrain(**(words | {"out": str(tmp_path / "other"), "change": still, "from_model": None}))


def test_shared_tensors_are_one_in_a_state_and_under_the_optimizer(store: Store, electra: Path) -> None:
    found = newest_state(electra / "state")
    assert found is not None
    with safe_open(found / "weights.safetensors", "pt") as file:
        names = list(file.keys())
    assert "backbone.embeddings.tokens.weight" in names
    assert not [name for name in names if name.startswith("objective.generator.embeddings.")]
    recipe = changed(read_recipe("electra"), ELECTRA)
    torch.manual_seed(0)
    backbone = Transformer(model_config(recipe, "tiny", store))
    objective = build_objective(recipe, backbone.config, store)
    provide(objective, backbone, store, from_model=None, length=48, device=torch.device("cpu"))
    parameters = build_optimizers(Pretraining(backbone, objective), TrainingSettings()).parameters
    assert len(parameters) == len({id(parameter) for parameter in parameters})


def test_a_killed_run_of_two_networks_ends_with_the_same_weights(store: Store, tmp_path: Path) -> None:
    whole = options(store, tmp_path / "whole", steps=16, save_steps=2)
    pretrain(**whole)
    killed = whole | {"out": str(tmp_path / "killed")}
    kills = 0
    for wanted in (4, 10):
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import json, sys; from polyseme.training.pretraining import pretrain;"
                "pretrain(**json.loads(sys.argv[1]))",
                json.dumps(killed),
            ]
        )
        while process.poll() is None and _step(tmp_path / "killed") < wanted:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills
    outcome = pretrain(**killed)
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    last = [
        [line for line in read_journal(tmp_path / run / "journal.jsonl") if line["kind"] == "held-out"][-1]
        for run in ("killed", "whole")
    ]
    assert last[0] == last[1]
    assert last[0]["measures"] == outcome.measures
    assert 0 < outcome.measures["replaced-token roc-auc"] < 1


def _step(folder: Path) -> int:
    return max((int(path.name[5:]) for path in (folder / "state").glob("step-????????")), default=0)


def test_detection_learns_what_a_poor_generator_makes_up(store: Store, tmp_path: Path) -> None:
    change = [*ELECTRA, "training.batch_size=16", "training.learning_rate=2e-3", "training.warmup=10"]
    change += ["sizes.tiny.dropout=0.0", "objectives.0.generator_weight=0.0"]  # it stays as it was drawn
    outcome = pretrain(**options(store, tmp_path / "run", steps=100, change=change))
    assert outcome.measures["replaced-token roc-auc"] > 0.65


def test_a_family_without_the_head_is_refused_before_training(store: Store, tmp_path: Path) -> None:
    change = [*SMALL, "family=bert", "model.embedding={}"]
    with pytest.raises(CheckpointError, match="a bert folder cannot hold the heads replaced-token"):
        pretrain(**options(store, tmp_path / "run", change=change))
    with pytest.raises(CheckpointError, match="always has 'gelu'"):  # the generator's head, in this family
        pretrain(**options(store, tmp_path / "other", change=[*ELECTRA, "model.activation=relu"]))
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_an_objective_with_a_pass_of_its_own_shares_none(store: Store, tmp_path: Path) -> None:
    recipe = read_recipe("bert")
    objectives = [*recipe.objectives, {"name": "replaced-token"}]
    both = msgspec.structs.replace(recipe, objectives=objectives)
    with pytest.raises(
        SettingsError, match="replaced-token reads its batches in its own way and can share no"
    ):
        build_objective(both, model_config(both, "tiny", store), store)


@pytest.mark.parametrize(("recipe", "parts"), [("distilbert", 3), ("tinybert", 2)])
def test_a_student_learns_from_its_teacher_and_keeps_none_of_it(
    store: Store, teacher: Path, tmp_path: Path, recipe: str, parts: int
) -> None:
    change = [
        *SMALL, "training.optimizer=adamw", "training.learning_rate=1e-2", "sizes.tiny.num_layers=2",
    ]  # fmt: skip
    words = options(store, tmp_path / "run", recipe=recipe, steps=100, change=change)
    outcome = distill(str(teacher), **words)
    figures = [
        line["parts"]
        for line in read_journal(tmp_path / "run" / "journal.jsonl")
        if line["kind"] == "held-out"
    ]
    assert len(figures[-1]) == parts
    assert all(figures[-1][part] < figures[0][part] for part in figures[0])
    model = load(tmp_path / "run", heads=["masked-lm"] if recipe == "distilbert" else [])
    assert len(model.card.made["teacher"]) == 64
    assert not (tmp_path / "run" / "teacher").exists()
    found = newest_state(tmp_path / "run" / "state")
    assert found is not None
    assert (found / "weights.safetensors").stat().st_size < (teacher / "model.safetensors").stat().st_size
    assert (outcome.unigram is None) == (recipe == "tinybert")


def test_a_run_goes_on_with_the_same_teacher_only(store: Store, teacher: Path, tmp_path: Path) -> None:
    other = tmp_path / "teacher"
    shutil.copytree(teacher, other)
    words = options(store, tmp_path / "run", recipe="tinybert", steps=2, change=list(SMALL))
    distill(str(other), **words)
    model = load(other, heads=["masked-lm", "next-sentence"])
    with torch.no_grad():
        model.backbone.layers[0].attention.key.weight[0, 0] += 1
    (other / "polyseme.json").unlink()
    save(model, other, replace=True)
    with pytest.raises(SettingsError, match="was started with another teacher"):
        distill(str(other), **words)


def test_a_student_goes_on_from_layers_that_are_named(store: Store, teacher: Path, tmp_path: Path) -> None:
    still = [*SMALL, "training.learning_rate=1e-12"]
    words = options(store, tmp_path / "run", recipe="distilbert", steps=1, change=still)
    distill(str(teacher), **words, from_model=str(teacher), layers=(0, 2))
    ours, theirs = (load(folder).backbone for folder in (tmp_path / "run", teacher))
    for number, taken in ((0, 0), (1, 2)):
        one, other = (n.layers[i].attention.key.weight for n, i in ((ours, number), (theirs, taken)))
        assert torch.allclose(one, other, atol=1e-6)


def test_teachers_that_cannot_teach_are_refused_in_one_line(
    store: Store, teacher: Path, tmp_path: Path
) -> None:
    words = options(store, tmp_path / "run", recipe="distilbert", steps=1, change=list(SMALL))
    with pytest.raises(SettingsError, match="learns from a teacher, and none is named; pass --change objec"):
        pretrain(**words)
    other = small_store(_made(tmp_path / "other"), vocab_size=300)
    with pytest.raises(SettingsError, match="have different vocabularies; prepare the text again with --tok"):
        distill(str(teacher), **words | {"store": str(other.folder)})
    three = words | {"recipe": "tinybert", "change": [*SMALL, "sizes.tiny.num_layers=3"]}
    with pytest.raises(SettingsError, match="4 layers do not share out evenly among the student's 3"):
        distill(str(teacher), **three)
    with pytest.raises(SettingsError, match="teacher is not a setting here"):
        distill(str(teacher), **words | {"recipe": "bert"})


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_command_distils_and_says_the_figures(
    store: Store, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--quiet", "distill", str(teacher), str(store.folder), "--recipe", "tinybert"]
    words += ["--out", str(tmp_path / "run"), "--size", "tiny", "--steps", "2", "--threads", "1"]
    assert main([*words, "--change", *SMALL]) == 0
    said = capsys.readouterr().out
    assert re.search(r"run: 2 steps; held-out states \d+\.\d+, scores \d+\.\d+\n$", said)
    assert load(tmp_path / "run").backbone.hidden_size == 32


def test_pairs_are_scored_by_balanced_accuracy(teacher: Path) -> None:
    lines = [line for line in read_journal(teacher / "journal.jsonl") if line["kind"] == "held-out"]
    assert list(lines[-1]["measures"]) == ["next-sentence balanced accuracy"]
    assert 0 <= lines[-1]["measures"]["next-sentence balanced accuracy"] <= 1


def test_the_generators_of_the_recipe_have_the_published_sizes(store: Store) -> None:
    found = {}
    for size in ("small", "base", "large"):
        recipe = sized(read_recipe("electra"), size)
        with torch.device("meta"):
            objective = build_objective(recipe, model_config(recipe, None, store), store)
        config = objective.companions()["generator"].backbone.config
        found[size] = (config.hidden_size, config.intermediate_size, config.num_heads, config.embedding_size)
        assert objective.corruption.masking.settings.rate == (0.25 if size == "large" else 0.15)  # type: ignore[attr-defined]
    assert found == {
        "small": (64, 256, 1, 128),
        "base": (256, 1024, 4, 768),
        "large": (256, 1024, 4, 1024),
    }


def test_a_run_killed_anywhere_in_its_last_files_is_completed_by_the_same_command(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What says that a folder is complete is written last: until then nothing reads it."""
    ended: list[Path] = []

    def finish(run: Any) -> Any:
        """The end of a run in forked processes, each killed behind another call that changes the disk."""
        for number in itertools.count(1, step=4):
            folder = tmp_path / f"killed-{number}"
            shutil.copytree(run.folder, folder)
            run.folder = folder
            child = os.fork()
            if child == 0:
                die_behind_call(number)
                original(run)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            ended.append(folder)
            if os.waitstatus_to_exitcode(status) == 0:
                break
        return original(run)

    original = _Run._finish
    monkeypatch.setattr(_Run, "_finish", finish)
    monkeypatch.setattr("polyseme.training.pretraining.curves_of", lambda journal: b"<svg/>")
    pretrain(**options(store, tmp_path / "run", steps=1))
    monkeypatch.undo()
    whole = ended.pop()
    assert len(ended) > 15
    complete = 0
    for folder in ended:
        try:
            load(folder, heads=["replaced-token"])
            load(folder / "generator", heads=["masked-lm"])
        except CheckpointError:
            continue
        complete += 1
        assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
            path.name for path in whole.iterdir() if not path.name.startswith(".")
        }
    assert complete < 4
    for folder in ended[:: len(ended) // 4]:
        outcome = pretrain(**options(store, folder, steps=1))
        assert outcome.finished
        assert digests(folder) == digests(whole)
        assert sorted(path.name for path in folder.rglob("*")) == sorted(p.name for p in whole.rglob("*"))


def die_behind_call(number: int) -> None:
    """Let this process end, as if killed, behind its call of that number that changes the disk."""
    left = itertools.count(number - 1, -1)

    def dying(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            result = real(*arguments, **named)
            if next(left) == 0:
                os._exit(1)
            return result

        return call

    for name in ("open", "write", "fsync", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))
