"""Scores of answers: accuracy, F1 by label, macro and micro, confusion, correlations."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class LabelScore(NamedTuple):
    """How well one label was found."""

    precision: float
    recall: float
    f1: float
    support: int
    """Examples that truly have it."""


def accuracy(given: Sequence[object], true: Sequence[object]) -> float:
    """Share of the answers that are right; for sets of labels, exactly right. 0 where there are none."""
    return sum(g == t for g, t in zip(given, true, strict=True)) / max(len(true), 1)


def confusion(given: Sequence[str], true: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """How often `true` (row) was answered as `given` (column): `[labels, labels]`."""
    place = {label: n for n, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, ([place[label] for label in true], [place[label] for label in given]), 1)
    return counts


def matthews(counts: NDArray[np.int64]) -> float:
    """The correlation of answers and truth, from a `confusion`; 0 where one of both never changes.

    Of two classes it is the coefficient (Matthews 1975) that scores CoLA; of more, R_K (Gorodkin 2004).
    """
    truth, answers = counts.sum(axis=1).astype(float), counts.sum(axis=0).astype(float)
    total, right = float(counts.sum()), float(np.trace(counts))
    spread = np.sqrt((total**2 - truth @ truth) * (total**2 - answers @ answers))
    return float((right * total - truth @ answers) / spread) if spread else 0.0


def pearson(given: Sequence[float], true: Sequence[float]) -> float:
    """The linear correlation of two rows of numbers; 0 where one of them never changes."""
    x, y = (np.asarray(values, dtype=np.float64) for values in (given, true))
    x, y = x - x.mean(), y - y.mean()
    spread = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread else 0.0


def spearman(given: Sequence[float], true: Sequence[float]) -> float:
    """The linear correlation of the ranks; equal numbers share the mean of their ranks."""
    return pearson(ranks(given).tolist(), ranks(true).tolist())


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """The rank of each number, from 1; equal numbers share the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return mean


def by_label(
    given: Sequence[Collection[str]], true: Sequence[Collection[str]], labels: Sequence[str]
) -> dict[str, LabelScore]:
    """Precision, recall and F1 of each label; 0 where nothing could be divided."""
    hits, answered, support = _counts(given, true, labels)
    return {
        label: LabelScore(
            _ratio(hits[n], answered[n]),
            _ratio(hits[n], support[n]),
            _ratio(2 * hits[n], answered[n] + support[n]),
            int(support[n]),
        )
        for n, label in enumerate(labels)
    }


def macro_f1(
    given: Sequence[Collection[str]], true: Sequence[Collection[str]], labels: Sequence[str]
) -> float:
    """The mean F1 of the labels that occur, as an answer or as the truth."""
    hits, answered, support = _counts(given, true, labels)
    scores = [_ratio(2 * h, a + s) for h, a, s in zip(hits, answered, support, strict=True) if a + s]
    return float(np.mean(scores)) if scores else 0.0


def micro_f1(
    given: Sequence[Collection[str]], true: Sequence[Collection[str]], labels: Sequence[str]
) -> float:
    """F1 of all labels counted together."""
    hits, answered, support = (counts.sum() for counts in _counts(given, true, labels))
    return _ratio(2 * hits, answered + support)


def _counts(
    given: Sequence[Collection[str]], true: Sequence[Collection[str]], labels: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each label: right answers, answers, examples that have it."""
    place = {label: n for n, label in enumerate(labels)}
    hits, answered, support = (np.zeros(len(labels), dtype=np.int64) for _ in range(3))
    for answer, truth in zip(given, true, strict=True):
        for label in answer:
            answered[place[label]] += 1
            hits[place[label]] += label in truth
        for label in truth:
            support[place[label]] += 1
    return hits, answered, support


def _ratio(part: int | np.int64, whole: int | np.int64) -> float:
    return float(part / whole) if whole else 0.0
