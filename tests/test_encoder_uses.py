"""Every family of encoders gives vectors, learns to classify, and scores held-out text."""

import math
from pathlib import Path

import numpy as np
import pytest
from small_models import CHARACTERS, small_model
from test_finetuning import FAST, reviews
from test_perplexity import TEXT, masked_model

from polyseme.checkpoints.formats import format_of
from polyseme.checkpoints.loading import load
from polyseme.embedding.embedder import Embedder
from polyseme.evaluation.perplexity import perplexity
from polyseme.models.heads import ClassificationHead
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.predicting import evaluate

FAMILIES = ("ernie", "roberta", "xlm-roberta", "albert", "electra", "distilbert")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_has_the_same_vector_alone_and_in_any_batch(family: str, tmp_path: Path) -> None:
    folder = small_model(tmp_path, family)
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list(CHARACTERS), int(rng.integers(1, 60)))) for _ in range(12)]
    together = Embedder.load(folder, threads=1, batch_tokens=100_000).sentences(texts)
    alone = Embedder.load(folder, threads=1, batch_tokens=1)
    assert np.isfinite(together).all()
    np.testing.assert_allclose(
        np.concatenate([alone.sentences([text]) for text in texts]), together, atol=1e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_learns_and_its_folder_scores_as_it_did(family: str, tmp_path: Path) -> None:
    model = small_model(tmp_path, family)
    train = reviews(tmp_path / "train.tsv", 320, seed=0, longest=6)
    dev = reviews(tmp_path / "dev.tsv", 40, seed=1, longest=6)
    out = tmp_path / "tuned"
    options = {**FAST, "epochs": 5}
    outcome = finetune("classification", train=train, dev=dev, model=model, out=out, **options)
    assert outcome.dev["accuracy"].mean > 0.8
    report = evaluate("classification", dev, model=out, threads=1)
    assert report["accuracy"] == outcome.dev["accuracy"].mean


@pytest.mark.parametrize(("family", "published"), [("albert", 0.1), ("distilbert", 0.2), ("ernie", 0.4)])
def test_a_classifier_drops_as_its_family_does(family: str, published: float, tmp_path: Path) -> None:
    config = load(small_model(tmp_path, family, dropout=0.4)).backbone.config
    format = format_of(family)
    reading = {"pooling": next(iter(format.poolings)), **format.classifier}
    head = ClassificationHead(config, 3, **reading)
    assert head.dropout.p == published
    if family == "distilbert":  # It has none before the dense layer.
        assert head.transform.dropout.p == 0


def test_the_dropout_of_fine_tuning_reaches_the_classifier(tmp_path: Path) -> None:
    model, rows = small_model(tmp_path, "albert"), reviews(tmp_path / "rows.tsv", 16, seed=0, longest=6)
    folders = []
    for name, dropout in (("as-published", None), ("none", 0.0), ("again", 0.0)):
        options = {**FAST, "epochs": 1, "dropout": dropout, "out": tmp_path / name}
        finetune("classification", train=rows, dev=rows, model=model, **options)
        folders.append((tmp_path / name / "model.safetensors").read_bytes())
    assert folders[0] != folders[1] == folders[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_text_is_scored_alike_in_any_batch(family: str, tmp_path: Path) -> None:
    folder = masked_model(tmp_path, family, activation="gelu")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    text = tmp_path / "text.txt"
    figures = [perplexity(text, model=folder, threads=1, batch_tokens=budget) for budget in (64, 4096)]
    assert figures[0].nats == pytest.approx(figures[1].nats, rel=1e-5)
    assert math.isfinite(figures[0].nats)
