"""How well a word's vectors tell its two meanings apart: from the word's own vectors and nothing else."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polyseme.demo.shipped import DOMAINS, Context
from polyseme.embedding.embedder import Embedder
from polyseme.records import Record
from polyseme.seeding import generator

Vectors = NDArray[np.float32]

_RESAMPLES = 2000


class ToldApart(Record, frozen=True):
    """How often a word's vector lies nearer to its own domain's others than to the other domain's."""

    share: float
    """The mean over the words; 0.5 is chance."""
    low: float
    high: float
    """The middle 95 % of a bootstrap over the sentences of each word."""
    of_words: dict[str, float]


def word_vectors(embedder: Embedder, contexts: Sequence[Context]) -> Vectors:
    """The vector of each context's word in its sentence: `[contexts, width]`."""
    pieces = embedder.ranges([one.sentence for one in contexts], [[one.place] for one in contexts])
    return np.concatenate([piece.vectors for piece in pieces])


def static_vectors(vectors: Vectors, contexts: Sequence[Context]) -> Vectors:
    """What a model with one vector a word would give: each word's mean, the same in every sentence."""
    words = np.array([one.word for one in contexts])
    return np.stack([vectors[words == word].mean(axis=0) for word in words])


def told_apart(vectors: Vectors, contexts: Sequence[Context], *, seed: int) -> ToldApart:
    """For each word alone: is each vector nearer to the mean of its own domain's others?

    The vector itself is left out of its mean, so nothing is fitted to what is asked. A tie counts half.
    """
    words = np.array([one.word for one in contexts])
    domains = np.array([one.domain for one in contexts])
    outcomes = {}
    for word in dict.fromkeys(words.tolist()):
        own = words == word
        outcomes[word] = nearer_to_own(vectors[own], domains[own] == DOMAINS[0])
    rng = generator(seed, "bootstrap")
    resampled = [
        outcome[rng.integers(len(outcome), size=(_RESAMPLES, len(outcome)))].mean(axis=1)
        for outcome in outcomes.values()
    ]
    low, high = np.quantile(np.mean(resampled, axis=0), [0.025, 0.975]).tolist()
    of_words = {word: float(outcome.mean()) for word, outcome in outcomes.items()}
    return ToldApart(share=float(np.mean(list(of_words.values()))), low=low, high=high, of_words=of_words)


def nearer_to_own(vectors: Vectors, first: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 where a vector is nearer to the mean of its own group's others, 0 where not, 0.5 for a tie."""
    exact = vectors.astype(np.float64)
    distances = np.empty((2, len(exact)))
    for row, group in enumerate((first, ~first)):
        total, count = exact[group].sum(axis=0), group.sum()
        means = np.where(group[:, None], (total - exact) / max(count - 1, 1), total / count)
        distances[row] = np.linalg.norm(exact - means, axis=1)
    own, other = np.where(first, distances, distances[::-1])
    # Equal vectors differ by rounding alone, which must not decide.
    tie = np.isclose(own, other, rtol=1e-6, atol=1e-6 * np.abs(exact).max())
    return np.where(tie, 0.5, own < other)


def flat(vectors: Vectors) -> Vectors:
    """The two directions in which the vectors differ most (principal components): `[vectors, 2]`."""
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    points: Vectors = centred @ directions[:2].T
    return points


def fenced(points: Vectors) -> Vectors:
    """The points with those far out brought to the edge: beyond three times the middle half's width on either
    side of it (Tukey's outer fence), in each direction by itself. A few of them would else press all others
    into one spot."""
    low, high = np.quantile(points, [0.25, 0.75], axis=0)
    inside: Vectors = np.clip(points, low - 3 * (high - low), high + 3 * (high - low)).astype(points.dtype)
    return inside
