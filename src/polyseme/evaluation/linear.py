"""Linear classifiers over given features, their one strength chosen on dev."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polyseme.errors import DataError, MissingExtra
from polyseme.tasks.labelled_texts import LabelledText
from polyseme.tasks.metrics import accuracy, macro_f1


@dataclass(frozen=True)
class LinearScores:
    """How well the best linear classifier did."""

    inverse_regularization: float
    """scikit-learn's C, the best on dev."""
    dev: dict[str, float]
    test: dict[str, float]
    """Empty without test examples."""


@dataclass(frozen=True)
class Split:
    """Features of texts, `[texts, width]`, and the label of each."""

    features: Any
    labels: list[str]


def labels_of(examples: Sequence[LabelledText]) -> list[str]:
    """The one label of each text; a `DataError` names a text that has none or several."""
    labels = []
    for example in examples:
        if example.labels is None or len(example.labels) != 1:
            raise DataError(f"{example.where}: a linear baseline needs exactly one label for every text")
        labels.append(example.labels[0])
    return labels


def best_linear(
    train: Split,
    dev: Split,
    test: Split | None,
    *,
    kind: Literal["logistic", "svc"],
    strengths: Sequence[float],
) -> LinearScores:
    """Fit once for each of `strengths` (C) and keep what is most accurate on dev; ties go to the smaller."""
    fitted = [(strength, _classifier(kind, strength)) for strength in sorted(strengths)]
    for _, classifier in fitted:
        classifier.fit(train.features, train.labels)
    strength, best = max(fitted, key=lambda pair: _scores(pair[1], dev)["accuracy"])
    return LinearScores(strength, _scores(best, dev), _scores(best, test) if test is not None else {})


def _classifier(kind: Literal["logistic", "svc"], strength: float) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise MissingExtra("scikit-learn", extra="baselines") from error
    if kind == "logistic":
        return LogisticRegression(C=strength, max_iter=2000)
    return LinearSVC(C=strength, random_state=0)


def _scores(classifier: Any, split: Split) -> dict[str, float]:
    given = [str(label) for label in classifier.predict(split.features)]
    labels = sorted({*given, *split.labels})
    return {
        "accuracy": accuracy(given, split.labels),
        "macro_f1": macro_f1([(g,) for g in given], [(t,) for t in split.labels], labels),
    }
