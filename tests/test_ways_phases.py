"""What learns when, and how fast: phases, rates, schedules, and steps against the tokens' vectors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import small_model
from test_finetuning import reviews

from polyseme.checkpoints.loading import load
from polyseme.errors import SettingsError
from polyseme.models.batch import Batch
from polyseme.records import defaults_of, flat_names, from_flat
from polyseme.tasks import TASKS
from polyseme.tasks.classification import Classification
from polyseme.tasks.finetuning import Outcome, finetune
from polyseme.tasks.preparation import Preparation
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.task import settings_kind
from polyseme.tasks.ways.adversarial import Adversarial
from polyseme.tasks.ways.phases import Phase, optimizers, set_mode
from polyseme.tasks.ways.presets import PRESETS, with_preset
from polyseme.tasks.ways.way import make_way
from polyseme.training.schedules import Schedule


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("phases")
    reviews(target / "train.tsv", 64, seed=0)
    reviews(target / "dev.tsv", 20, seed=1)
    small_model(target, "bert", dropout=0.2, attention_dropout=0.2)
    small_model(target, "albert")
    return target


def tuned(folder: Path, out: Path | None, **options: object) -> Outcome:
    return finetune(
        "classification",
        train=folder / "train.tsv",
        dev=folder / "dev.tsv",
        model=folder / "bert",
        out=out,
        **{"epochs": 1, "batch_size": 16, "threads": 1, "precision": "fp32", **options},
    )


def prepared(folder: Path, family: str = "bert", **options: Any) -> tuple[Preparation, Any, list[Phase]]:
    """A way's network and its phases, with nothing trained."""
    settings = from_flat({"threads": 1, "precision": "fp32", **options}, FinetuneSettings, where="test")
    shared = Preparation(Classification(), folder / family, settings)
    shared.read(folder / "train.tsv", folder / "dev.tsv", None)
    module = shared.module()
    return shared, module, shared.way.phases(shared, module)


def test_the_slanted_triangle_is_the_published_equation() -> None:
    """ULMFiT's equation 3 by itself, and its values at a learning rate of 0.01."""
    for total, share in ((100, 0.1), (1000, 0.1), (40, 0.25)):
        schedule, cut = Schedule("slanted-triangular", total, share), int(total * share)
        for step in range(total + 1):
            p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / share - 1))
            assert schedule(step) == pytest.approx((1 + p * 31) / 32, abs=1e-12)
    schedule = Schedule("slanted-triangular", 1000, 0.1)
    found = [0.01 * schedule(round(1000 * part)) for part in (0, 0.05, 0.1, 0.5, 1)]
    assert found == pytest.approx([0.0003125, 0.00515625, 0.01, 0.0056944, 0.0003125], abs=1e-6)


def test_each_layer_learns_more_slowly_than_the_one_above(folder: Path) -> None:
    shared, module, (phase,) = prepared(folder, layer_decay=1 / 2.6, learning_rate=0.01)
    (member,) = optimizers(module, phase, shared.settings).members
    rate_of = {id(p): group["lr"] for group in member.param_groups for p in group["params"]}
    found = {name: rate_of[id(parameter)] for name, parameter in module.named_parameters()}
    steps = {"head.": 0, "backbone.pooler.": 1, "backbone.embeddings.": 4}
    steps |= {f"backbone.layers.{n}.": 3 - n for n in range(3)}
    for name, rate in found.items():
        (below,) = (count for start, count in steps.items() if name.startswith(start))
        assert rate == pytest.approx(0.01 / 2.6**below), name
    assert sum(len(group["params"]) for group in member.param_groups) == len(found)


def test_rates_of_embeddings_and_head_go_before_the_decay(folder: Path) -> None:
    _, _, (phase,) = prepared(folder, layer_decay=0.5, embedding_learning_rate=0.0, head_learning_rate=0.3)
    rates = {rate for name, rate in phase.rates.items() if name.startswith("backbone.embeddings.")}
    assert rates == {0.0}
    assert phase.rates["head.dense.weight"] == 0.3


def test_layers_begin_to_learn_from_above_one_each_stage(folder: Path) -> None:
    _, module, phases = prepared(folder, way="gradual", stage_epochs=2, epochs=5)
    assert [phase.epochs for phase in phases] == [2, 2, 2, 5]
    order = [
        "head.",
        "backbone.layers.2.",
        "backbone.layers.1.",
        "backbone.layers.0.",
        "backbone.embeddings.",
    ]
    for number, phase in enumerate(phases):
        for name, rate in phase.rates.items():
            rests = name.startswith(tuple(order[number + 2 :]))
            assert (rate == 0) == rests, (phase.name, name)
    assert set(phases[0].rates) == {name for name, _ in module.named_parameters()}


def test_what_rests_drops_nothing_and_what_learns_does(folder: Path) -> None:
    shared, module, phases = prepared(folder, way="gradual")
    optimizers(module, phases[1], shared.settings)
    set_mode(module)
    backbone = module.backbone
    assert not any(part.training for part in backbone.embeddings.modules())
    assert not any(part.training for part in backbone.layers[0].modules())
    assert all(part.training for part in (*backbone.layers[1].modules(), *backbone.layers[2].modules()))
    assert module.head.training


def test_the_backbone_is_bit_identical_after_the_head_s_own_phase(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen between the phases, and in a run whose joint phase has rates of 0."""
    source = load(folder / "bert").backbone.state_dict()
    seen: list[dict[str, torch.Tensor]] = []

    def spy(module: Any, phase: Phase, settings: FinetuneSettings) -> Any:
        seen.append({name: tensor.clone() for name, tensor in module.backbone.state_dict().items()})
        return optimizers(module, phase, settings)

    monkeypatch.setattr("polyseme.tasks.runs.optimizers", spy)
    tuned(folder, tmp_path / "out", way="head-first", head_epochs=4, head_patience=9)
    assert len(seen) == 2
    assert all(torch.equal(seen[1][name], source[name]) for name in source)
    lines = [json.loads(line) for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["head"] * 4 + ["joint"]
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 20]


def test_the_joint_phase_begins_with_the_best_head(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[dict[str, torch.Tensor]] = []

    def spy(module: Any, phase: Phase, settings: FinetuneSettings) -> Any:
        states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        return optimizers(module, phase, settings)

    monkeypatch.setattr("polyseme.tasks.runs.optimizers", spy)
    options = {"way": "head-first", "head_epochs": 6, "head_patience": 2, "learning_rate": 0.0}
    tuned(folder, tmp_path / "out", **options, head_learning_rate=1e-9)
    head = load(tmp_path / "out", heads=["classification"]).heads["classification"].state_dict()
    assert all(torch.equal(states[1][f"head.{name}"], head[name]) for name in head)
    lines = (tmp_path / "out" / "journal.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["phase"] == "head" for line in lines) == 3


def test_adversarial_steps_move_each_text_by_epsilon_and_leave_the_table_alone(folder: Path) -> None:
    _, module, _ = prepared(folder)
    module.eval()
    table = module.backbone.embeddings.tokens.weight
    before = table.detach().clone()
    batch = Batch(
        torch.randint(5, 90, (3, 7)),
        torch.arange(7) < torch.tensor([[7], [4], [6]]),
        labels=torch.tensor([0, 1, 1]),
    )
    loss = Adversarial(module, 0.5)(batch)
    loss.total.backward()
    assert torch.equal(table, before)
    vectors = torch.nn.functional.embedding(batch.input_ids, before).requires_grad_()
    handle = module.backbone.embeddings.tokens.register_forward_hook(lambda *arguments: vectors)
    clean = module(batch).total
    (gradient,) = torch.autograd.grad(clean, vectors)
    handle.remove()
    moved = vectors.detach().clone()
    for row in range(3):
        moved[row] += 0.5 * gradient[row] / gradient[row].norm()
    handle = module.backbone.embeddings.tokens.register_forward_hook(lambda *arguments: moved)
    attacked = module(batch).total
    handle.remove()
    assert loss.total.item() == pytest.approx((clean + attacked).item(), abs=1e-5)
    assert attacked > clean
    assert loss.parts["adversarial"].item() == pytest.approx(attacked.item(), abs=1e-5)
    assert not module.backbone.embeddings.tokens._forward_hooks


def test_adversarial_training_runs_in_every_phase(folder: Path) -> None:
    outcome = tuned(folder, None, way="head-first", head_epochs=1, adversarial=1.0)
    assert np.isfinite(outcome.dev["accuracy"].mean)
    with pytest.raises(SettingsError, match=r"adversarial 1.0 moves the tokens' vectors"):
        tuned(folder, None, way="frozen", adversarial=1.0)


def test_shared_layers_and_models_without_a_head_of_their_own_have_phases_too(folder: Path) -> None:
    _, module, phases = prepared(folder, "albert", way="gradual")
    assert len(phases) == 2
    assert all(rate > 0 for rate in phases[-1].rates.values())
    assert {name for name, _ in module.named_parameters()} == set(phases[0].rates)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_decay": 0.0}, "layer_decay must lie above 0 and up to 1, got 0.0"),
        ({"head_patience": 0}, "head_patience must be at least 1, got 0"),
        ({"adversarial": -1.0}, "adversarial must not be negative, got -1.0"),
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"way": "half"}, "Invalid enum value 'half'"),
    ],
)
def test_wrong_values_are_named(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        tuned(folder, None, **options)


def test_presets_are_settings_and_what_is_said_beside_them_goes_before() -> None:
    usual = defaults_of(FinetuneSettings)
    for name, options in PRESETS.items():
        pattern = {"pattern": "review"} if options.get("way") == "filling" else {}
        settings = from_flat(with_preset({"preset": name, **pattern}, usual), FinetuneSettings, where=name)
        assert make_way(settings).settings.preset == name
    said = with_preset({**usual, "preset": "ulmfit", "layer_decay": 0.9, "epochs": 7}, usual)
    assert (said["way"], said["layer_decay"], said["epochs"]) == ("gradual", 0.9, 7)
    assert said["schedule"] == "slanted-triangular"
    with pytest.raises(SettingsError, match=r"there is no preset 'ulmfi' .did you mean 'ulmfit'"):
        with_preset({"preset": "ulmfi"}, usual)


def test_settings_stay_short() -> None:
    assert len(FinetuneSettings.__struct_fields__) <= 24
    names = flat_names(FinetuneSettings)
    assert len(names) == len(set(names))
    for task in TASKS:
        shared = set(names) & set(settings_kind(task).__struct_fields__)
        assert not shared, f"{task} and fine-tuning both call something {shared}"
