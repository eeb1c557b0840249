"""Less memory, other weights of the classes, and folds: the same learning, arranged in another way."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import small_model
from test_finetuning import reviews
from test_ways_phases import prepared
from torch.nn import functional as F

from polyseme.errors import SettingsError
from polyseme.models.batch import Batch
from polyseme.tasks.finetuning import Outcome, finetune
from polyseme.tasks.folds import folds
from polyseme.tasks.rows import collate
from polyseme.tasks.task import Row
from polyseme.tasks.ways.class_weights import class_weights
from polyseme.tasks.ways.smaller import compute_twice, in_parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("parts")
    reviews(target / "train.tsv", 70, seed=0)
    reviews(target / "dev.tsv", 20, seed=1)
    small_model(target, "bert")
    return target


def tuned(folder: Path, out: Path | None, **options: object) -> Outcome:
    return finetune(
        "classification",
        train=folder / "train.tsv",
        dev=folder / "dev.tsv",
        model=folder / "bert",
        out=out,
        **{"epochs": 2, "batch_size": 16, "threads": 1, "precision": "fp32", **options},
    )


def gradients(module: Any, batch: Batch, parts: Any) -> dict[str, torch.Tensor]:
    module.zero_grad()
    for part, share in parts:
        (module(part).total * share).backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("weights", [None, torch.tensor([0.3, 2.0])])
def test_parts_of_a_batch_and_layers_computed_twice_give_its_gradient(
    folder: Path, weights: torch.Tensor | None
) -> None:
    shared, module, _ = prepared(folder)
    if weights is not None:
        module.weigh(weights)
    rng = np.random.default_rng(0)
    rows = [
        Row(rng.integers(5, 90, int(rng.integers(2, 12))).astype(np.int32), label=np.array(label))
        for label in (0, 1, 1, 0, 1, 1, 1)
    ]

    def collated(of: Sequence[Row]) -> Batch:
        return collate(of, padding=0, config=shared.config)

    whole = gradients(module, collated(rows), [(collated(rows), 1.0)])
    split = in_parts(rows, 3, collated, weights=weights)
    assert [len(part.input_ids) for part, _ in split] == [3, 3, 1]
    assert sum(share for _, share in split) == pytest.approx(1)
    compute_twice(module.backbone)
    for parts in (split, [(collated(rows), 1.0)]):
        found = gradients(module, collated(rows), parts)
        assert all(torch.allclose(found[name], whole[name], atol=1e-6) for name in whole)


def test_layers_computed_twice_drop_the_same_numbers(tmp_path: Path) -> None:
    small_model(tmp_path, "bert", dropout=0.3, attention_dropout=0.3)
    reviews(tmp_path / "train.tsv", 8, seed=0)
    reviews(tmp_path / "dev.tsv", 8, seed=1)
    _, module, _ = prepared(tmp_path)
    batch = Batch(torch.randint(5, 90, (4, 9)), labels=torch.tensor([0, 1, 1, 0]))
    module.train()
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(gradients(module, batch, [(batch, 1.0)]))
        compute_twice(module.backbone)
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])


def test_tokens_count_by_their_labels_and_rows_that_belong_together_stay_together(folder: Path) -> None:
    shared, _, _ = prepared(folder)
    ids = np.array([5, 6, 7, 8], np.int32)

    def collated(of: Sequence[Row]) -> Batch:
        return collate(of, padding=0, config=shared.config)

    tagged = [
        Row(ids, token_labels=np.array(of)) for of in ([1, 1, 1, -100], [-100] * 4, [2, -100, -100, -100])
    ]
    assert [share for _, share in in_parts(tagged, 1, collated, weights=None)] == [0.75, 0.25]
    choices = [Row(ids, beside=(Row(ids),) * count) for count in (2, 1, 3)]
    split = in_parts(choices, 2, collated, weights=None)
    assert [(len(part.input_ids), share) for part, share in split] == [(5, 2 / 3), (4, 1 / 3)]


def test_class_weights_are_torchs_and_balanced_ones_scikit_learns(folder: Path) -> None:
    labels = np.array([0] * 9 + [1] * 3 + [2] * 2)
    rows = [Row(np.array([2, 3], np.int32), label=np.array(label)) for label in labels]
    weights = class_weights(("balanced",), ("甲", "乙", "丙", "丁"), rows)
    assert weights is not None
    assert weights.tolist() == pytest.approx([14 / 36, 14 / 12, 14 / 8, 1.0])
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    three = class_weights(("balanced",), ("甲", "乙", "丙"), rows)
    assert three is not None
    expected = sklearn.compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert three.tolist() == pytest.approx(expected.tolist())
    given = class_weights(("乙=3",), ("甲", "乙"), rows)
    assert given is not None
    assert given.tolist() == [1.0, 3.0]
    _, module, _ = prepared(folder, class_weights=("正=0.5", "负=4"))
    module.eval()
    batch = Batch(torch.randint(5, 90, (5, 9)), labels=torch.tensor([0, 1, 1, 0, 0]))
    logits = module.outputs(module.backbone(batch), batch)
    rates = torch.tensor([0.5, 4.0])
    each = F.cross_entropy(logits, batch.labels, reduction="none") * rates[batch.labels]
    assert module(batch).total.item() == pytest.approx(
        (each.sum() / rates[batch.labels].sum()).item(), abs=1e-6
    )


def test_class_weights_change_what_is_learned_and_a_wrong_one_is_named(folder: Path, tmp_path: Path) -> None:
    tuned(folder, tmp_path / "all", class_weights=("负=0",), learning_rate=5e-3)
    tuned(folder, tmp_path / "as", learning_rate=5e-3)
    first, second = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("all", "as"))
    assert first != second
    for wrong, message in (
        ("好=2", "'好=2' is not LABEL=WEIGHT of a known label"),
        ("正=x", "must be a number"),
    ):
        with pytest.raises(SettingsError, match=message):
            tuned(folder, None, class_weights=(wrong,))


def test_folds_hold_every_example_once_and_every_label_evenly() -> None:
    rng = np.random.default_rng(0)
    for seed, count in ((0, 2), (1, 5), (2, 7)):
        strata = [str(n) for n in rng.choice(3, 100, p=[0.7, 0.2, 0.1])]
        parts = folds(strata, count, seed=seed)
        assert sorted(n for part in parts for n in part) == list(range(100))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for label in set(strata):
            of_label = [sum(strata[n] == label for n in part) for part in parts]
            assert max(of_label) - min(of_label) <= 1
        assert parts == folds(strata, count, seed=seed) != folds(strata, count, seed=seed + 9)


def test_every_example_is_answered_by_the_run_that_did_not_learn_from_it(
    folder: Path, tmp_path: Path
) -> None:
    outcome = tuned(folder, tmp_path / "out", folds=3, seeds=(1, 2), epochs=1)
    assert len(outcome.dev["accuracy"].of_seeds) == 6
    assert len(outcome.out_of_fold["accuracy"].of_seeds) == 2
    answers = [
        json.loads(line) for line in (tmp_path / "out" / "out_of_fold.jsonl").read_text("utf-8").splitlines()
    ]
    truth = [line.split("\t")[0] for line in (folder / "train.tsv").read_text("utf-8").splitlines()[1:]]
    right = np.mean([answer["label"] == label for answer, label in zip(answers, truth, strict=True)])
    assert right == pytest.approx(outcome.out_of_fold["accuracy"].of_seeds[outcome.best_seed - 1])
