"""What needs no network: character n-grams, weighted, with a linear classifier."""

from collections.abc import Sequence
from typing import Literal

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
) -> LinearScores:
    """The scores of TF-IDF over n-grams of 1 to `longest` characters; C is chosen on dev.

    The two texts of a pair are read one after the other.

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
    fitted = Split(vectorizer.fit_transform(_texts(train)), labels_of(train))
    others = [Split(vectorizer.transform(_texts(part)), labels_of(part)) for part in (dev, test) if part]
    return best_linear(fitted, others[0], others[1] if test else None, kind=classifier, strengths=_STRENGTHS)


def _texts(examples: Sequence[LabelledText]) -> list[str]:
    return [
        example.text if example.pair is None else f"{example.text}\n{example.pair}" for example in examples
    ]
