"""Scores agree with scikit-learn's."""

import numpy as np
import pytest

from polyseme.tasks.metrics import accuracy, by_label, confusion, macro_f1, micro_f1

sklearn = pytest.importorskip("sklearn.metrics")


def drawn(rng: np.random.Generator, labels: list[str]) -> tuple[list[str], list[str]]:
    size = int(rng.integers(1, 40))
    return [str(x) for x in rng.choice(labels, size)], [str(x) for x in rng.choice(labels, size)]


def test_scores_of_one_label_equal_scikit_learn() -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = [str(10 + n) for n in range(int(rng.integers(2, 7)))]
        given, true = drawn(rng, labels)
        ones, truths = [(g,) for g in given], [(t,) for t in true]
        assert accuracy(given, true) == pytest.approx(sklearn.accuracy_score(true, given))
        assert macro_f1(ones, truths, labels) == pytest.approx(
            sklearn.f1_score(true, given, average="macro", zero_division=0)
        )
        assert micro_f1(ones, truths, labels) == pytest.approx(accuracy(given, true))
        expected = sklearn.confusion_matrix(true, given, labels=labels)
        np.testing.assert_array_equal(confusion(given, true, labels), expected)
        tables = sklearn.precision_recall_fscore_support(true, given, labels=labels, zero_division=0)
        np.testing.assert_allclose(
            np.array(list(by_label(ones, truths, labels).values())).T, np.array(tables)
        )


def test_scores_of_several_labels_equal_scikit_learn() -> None:
    labels = ["体育", "财经", "科技"]
    for seed in range(100):
        rng = np.random.default_rng(seed)
        given, true = (rng.random((30, 3)) < 0.4 for _ in range(2))
        sets = [
            [tuple(np.array(labels)[row].tolist()) for row in matrix.astype(bool)] for matrix in (given, true)
        ]
        assert accuracy(sets[0], sets[1]) == pytest.approx(sklearn.accuracy_score(true, given))
        for score, average in ((macro_f1, "macro"), (micro_f1, "micro")):
            expected = sklearn.f1_score(true, given, average=average, zero_division=0)
            assert score(sets[0], sets[1], labels) == pytest.approx(expected)


def test_nothing_to_score_gives_zero() -> None:
    assert accuracy([], []) == macro_f1([], [], ["a"]) == micro_f1([], [], ["a"]) == 0.0
