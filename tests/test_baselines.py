"""Baselines and probes: honest scores, the strength chosen on dev."""

from pathlib import Path

import numpy as np
import pytest
from small_models import CHARACTERS, small_model

from polyseme.embedding.embedder import Embedder
from polyseme.errors import DataError
from polyseme.evaluation.baselines import tfidf
from polyseme.evaluation.linear import Split, best_linear
from polyseme.evaluation.probe import probe
from polyseme.tasks.labelled_texts import LabelledText, read_labelled
from polyseme.tasks.settings import ClassificationSettings
from polyseme.tasks.subsets import stratified

pytest.importorskip("sklearn")
DATA = Path(__file__).parents[2] / "shared" / "data" / "tasks_zh" / "chnsenticorp"


def examples(count: int, seed: int) -> list[LabelledText]:
    """Texts whose label is whether they hold the pair of characters 很好."""
    rng = np.random.default_rng(seed)
    texts = []
    for number in range(count):
        text = "".join(rng.choice(list(CHARACTERS), 12))
        middle = "很好" if number % 2 else "好很"
        texts.append(LabelledText(text[:6] + middle + text[6:], None, (str(number % 2),), f"line {number}"))
    return texts


@pytest.mark.parametrize("classifier", ["logistic", "svc"])
def test_character_n_grams_find_what_single_characters_cannot(classifier: str) -> None:
    train, dev, test = (examples(count, seed) for seed, count in enumerate((200, 60, 60)))
    scores = tfidf(train, dev, test, classifier=classifier)  # type: ignore[arg-type]
    assert scores.dev["accuracy"] > 0.9
    assert scores.test["accuracy"] > 0.9
    alone = tfidf(train, dev, test, classifier=classifier, longest=1)  # type: ignore[arg-type]
    assert alone.test["accuracy"] < 0.7


def test_the_strength_is_the_best_on_dev_and_test_chooses_nothing() -> None:
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(20)

    def split(count: int, noise: float) -> Split:
        features = rng.standard_normal((count, 20))
        scores = features @ direction + noise * rng.standard_normal(count)
        return Split(features, [str(int(score > 0)) for score in scores])

    train, dev, test = split(40, 3.0), split(200, 1.0), split(200, 1.0)
    strengths = (0.001, 0.1, 10.0)
    chosen = best_linear(train, dev, test, kind="logistic", strengths=strengths)
    each = {c: best_linear(train, dev, test, kind="logistic", strengths=[c]) for c in strengths}
    best = max(each[c].dev["accuracy"] for c in strengths)
    assert chosen == min(
        (each[c] for c in strengths if each[c].dev["accuracy"] == best),
        key=lambda scores: scores.inverse_regularization,
    )
    assert best_linear(train, dev, None, kind="logistic", strengths=strengths).test == {}


def test_a_text_without_one_label_is_named() -> None:
    good = examples(4, 0)
    with pytest.raises(DataError, match="line 9: a linear baseline needs exactly one label"):
        tfidf([*good, LabelledText("甲", None, ("a", "b"), "line 9")], good)


def test_frozen_vectors_are_probed_and_stay_frozen(tmp_path: Path) -> None:
    embedder = Embedder.load(small_model(tmp_path), threads=1, pooling="mean")
    labelled = [
        LabelledText(text, None, ("好" if "好" in text else "差",), "")
        for n in range(120)
        for text in (CHARACTERS[n : n + 8] + "好差"[n % 2],)
    ]
    before = embedder.sentences(["很好"])
    scores = probe(embedder, labelled[:80], labelled[80:100], labelled[100:])
    assert scores.dev["accuracy"] > 0.8
    np.testing.assert_array_equal(embedder.sentences(["很好"]), before)
    pair = LabelledText("甲", "乙", ("1",), "line 3")
    with pytest.raises(DataError, match="line 3: a probe reads single texts"):
        probe(embedder, [pair], labelled, labelled)


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_five_hundred_reviews_already_make_a_strong_baseline() -> None:
    settings = ClassificationSettings()
    train, dev = (
        list(read_labelled(DATA / name, settings, labelled=True)) for name in ("train.tsv.xz", "dev.tsv")
    )
    chosen = [train[n] for n in stratified([e.labels for e in train], 500, seed=0)]
    assert 0.75 < tfidf(chosen, dev[:300], longest=2).dev["accuracy"] < 0.95
