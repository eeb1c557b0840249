"""What needs no network: character n-grams, weighted, with a linear classifier."""

from collections.abc import Sequence
from typing import Any, Literal

from polyseme.errors import MissingExtra
from polyseme.evaluation.linear import LinearScores, Split, best_linear, labels_of
from polyseme.tasks.labelled_texts import LabelledText

_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


def tfidf(
    train: Sequence[LabelledText],
    dev: Sequence[LabelledText],
    test: Sequence[LabelledText] = (),
    *,
    classifier: Literal["logistic", "svc"] = "logistic",
    longest: int = 3,
    several: bool = False,
    pairs: Literal["joined", "compared"] = "joined",
) -> LinearScores:
    """The scores of TF-IDF over n-grams of 1 to `longest` characters; C is chosen on dev.

    The two texts of a pair are read one after the other (`joined`), or as what they have in common and what
    only one of them has (`compared`), which says more where the question is how they differ. With `several`
    a text may have any number of labels, each with a classifier of its own.

    >>> from polyseme.tasks.labelled_texts import LabelledText
    >>> good, bad = (LabelledText(text, None, (text[0],), "") for text in ("好书", "坏书"))
    >>> tfidf([good, bad], [good, bad]).dev["accuracy"]
    1.0
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise MissingExtra("scikit-learn", extra="baselines") from error
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, longest), sublinear_tf=True)
    features = _compared if pairs == "compared" else _joined
    vectorizer.fit(_texts(train))
    splits = [
        Split(features(vectorizer, part), labels_of(part, several=several))
        for part in (train, dev, test)
        if part
    ]
    return best_linear(
        splits[0], splits[1], splits[2] if test else None, kind=classifier, strengths=_STRENGTHS
    )


def _texts(examples: Sequence[LabelledText]) -> list[str]:
    return [
        example.text if example.pair is None else f"{example.text}\n{example.pair}" for example in examples
    ]


def _joined(vectorizer: Any, examples: Sequence[LabelledText]) -> Any:
    return vectorizer.transform(_texts(examples))


def _compared(vectorizer: Any, examples: Sequence[LabelledText]) -> Any:
    """The products, and the differences without their sign: `[pairs, 2 × n-grams]`."""
    from scipy.sparse import hstack

    first = vectorizer.transform([example.text for example in examples])
    second = vectorizer.transform([example.pair or "" for example in examples])
    return hstack([first.multiply(second), abs(first - second)]).tocsr()
