"""Linear classifiers over given features, their one strength chosen on dev."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polyseme.errors import DataError, MissingExtra
from polyseme.tasks.labelled_texts import LabelledText
from polyseme.tasks.metrics import accuracy, confusion, macro_f1, matthews, micro_f1


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
    """Features of texts, `[texts, width]`, and the label of each, or its labels where there are several."""

    features: Any
    labels: list[str] | list[tuple[str, ...]]


def labels_of(
    examples: Sequence[LabelledText], *, several: bool = False
) -> list[str] | list[tuple[str, ...]]:
    """The one label of each text, or all of them; a `DataError` names a text that has none or several."""
    if several:
        return [example.labels or () for example in examples]
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
    """Fit once for each of `strengths` (C) and keep what is best on dev by accuracy, or by micro F1 where
    texts have several labels; ties go to the smaller."""
    several = not all(isinstance(label, str) for label in train.labels)
    make = _Several if several else _One
    fitted = [(strength, make(_classifier(kind, strength), train)) for strength in sorted(strengths)]
    first = "micro_f1" if several else "accuracy"
    strength, best = max(fitted, key=lambda pair: pair[1].scores(dev)[first])
    return LinearScores(strength, best.scores(dev), best.scores(test) if test is not None else {})


class _One:
    """A classifier of texts with one label."""

    def __init__(self, classifier: Any, train: Split) -> None:
        self._classifier = classifier.fit(train.features, train.labels)

    def scores(self, split: Split) -> dict[str, float]:
        given = [str(label) for label in self._classifier.predict(split.features)]
        true = [str(label) for label in split.labels]
        labels = sorted({*given, *true})
        return {
            "accuracy": accuracy(given, true),
            "macro_f1": macro_f1([(g,) for g in given], [(t,) for t in true], labels),
            "matthews": matthews(confusion(given, true, labels)),
        }


class _Several:
    """A classifier for each label of texts with any number of them."""

    def __init__(self, classifier: Any, train: Split) -> None:
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.preprocessing import MultiLabelBinarizer

        self._names = MultiLabelBinarizer()
        answers = self._names.fit_transform(train.labels)
        self._classifier = OneVsRestClassifier(classifier).fit(train.features, answers)

    def scores(self, split: Split) -> dict[str, float]:
        answered = self._classifier.predict(split.features)
        given = [tuple(map(str, names)) for names in self._names.inverse_transform(answered)]
        true = [tuple(labels) for labels in split.labels]
        labels = sorted({label for names in (*given, *true) for label in names})
        return {
            "micro_f1": micro_f1(given, true, labels),
            "macro_f1": macro_f1(given, true, labels),
            "accuracy": accuracy([set(g) for g in given], [set(t) for t in true]),
        }


def _classifier(kind: Literal["logistic", "svc"], strength: float) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise MissingExtra("scikit-learn", extra="baselines") from error
    if kind == "logistic":
        return LogisticRegression(C=strength, max_iter=2000)
    return LinearSVC(C=strength, random_state=0)
