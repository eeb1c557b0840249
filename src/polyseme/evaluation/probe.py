"""What frozen vectors hold: a linear classifier over them, and nothing of the network trained."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polyseme.embedding.embedder import Embedder
from polyseme.errors import DataError
from polyseme.evaluation.linear import LinearScores, Split, best_linear, labels_of
from polyseme.tasks.labelled_texts import LabelledText

_STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def probe(
    embedder: Embedder,
    train: Sequence[LabelledText],
    dev: Sequence[LabelledText],
    test: Sequence[LabelledText] = (),
) -> LinearScores:
    """The scores of logistic regression on the texts' vectors, each number standardised on train.

    C is chosen on dev. Single texts only.
    """
    parts = [_vectors(embedder, part) for part in (train, dev, test)]
    mean, deviation = parts[0].mean(axis=0), parts[0].std(axis=0)
    deviation[deviation == 0] = 1.0
    splits = [
        Split((vectors - mean) / deviation, labels_of(part))
        for vectors, part in zip(parts, (train, dev, test), strict=True)
    ]
    return best_linear(
        splits[0], splits[1], splits[2] if test else None, kind="logistic", strengths=_STRENGTHS
    )


def _vectors(embedder: Embedder, examples: Sequence[LabelledText]) -> NDArray[np.float32]:
    pair = next((example for example in examples if example.pair is not None), None)
    if pair is not None:
        raise DataError(f"{pair.where}: a probe reads single texts, and this is a pair")
    return embedder.sentences([example.text for example in examples])
