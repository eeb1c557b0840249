"""How well the cosines of two sentences' vectors rank pairs by likeness, with nothing trained."""

from collections.abc import Sequence

import numpy as np

from polyseme.embedding.embedder import Embedder
from polyseme.errors import DataError
from polyseme.tasks.metrics import pearson, spearman
from polyseme.tasks.regression import ScoredText


def score_cosines(embedder: Embedder, examples: Sequence[ScoredText]) -> dict[str, float]:
    """The correlations, of ranks and of numbers, between the cosine of each pair and its score."""
    scores, pairs = [], []
    for example in examples:
        if example.pair is None or example.score is None:
            raise DataError(f"{example.where}: likeness is of two texts with a score")
        scores.append(example.score)
        pairs += [example.text, example.pair]
    vectors = embedder.sentences(pairs).astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = (vectors[::2] * vectors[1::2]).sum(axis=1).tolist()  # [pairs]
    return {"spearman": spearman(cosines, scores), "pearson": pearson(cosines, scores)}
