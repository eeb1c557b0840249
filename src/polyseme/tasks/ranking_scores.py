"""How well an order of candidates is: reciprocal rank, average precision, discounted gain.

Manning, Raghavan and Schütze 2008, "Introduction to Information Retrieval", section 8.4; Järvelin and
Kekäläinen 2002, "Cumulated Gain-Based Evaluation of IR Techniques", with the grade itself as the gain.
Queries without a candidate that suits say nothing of an order and are left out of all means.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def ranked(scores: Sequence[float], grades: Sequence[float]) -> NDArray[np.float64]:
    """The grades from the highest score down; of equal scores the lowest grade comes first.

    So a model that tells no candidates apart gains nothing from the order of the file.
    """
    order = np.lexsort((np.asarray(grades), -np.asarray(scores, dtype=np.float64)))
    return np.asarray(grades, dtype=np.float64)[order]


def reciprocal_rank(grades: NDArray[np.float64]) -> float:
    """One by the rank of the first candidate that suits; 0 where none does."""
    suits = np.flatnonzero(grades > 0)
    return 1 / (int(suits[0]) + 1) if len(suits) else 0.0


def average_precision(grades: NDArray[np.float64]) -> float:
    """The mean, over the candidates that suit, of the share of such candidates down to each."""
    suits = np.flatnonzero(grades > 0)
    return float(np.mean(np.arange(1, len(suits) + 1) / (suits + 1))) if len(suits) else 0.0


def ndcg(grades: NDArray[np.float64], *, at: int) -> float:
    """The gain of the first `at` candidates, discounted by the logarithm of the rank, of the best order's."""
    best = _gain(np.sort(grades)[::-1], at)
    return _gain(grades, at) / best if best else 0.0


def _gain(grades: NDArray[np.float64], at: int) -> float:
    first = grades[:at]
    return float((first / np.log2(np.arange(2, len(first) + 2))).sum())


def ranking_scores(scores: Sequence[Sequence[float]], grades: Sequence[Sequence[float]]) -> dict[str, float]:
    """MRR, MAP and nDCG@10: the means over the queries that have a candidate which suits."""
    orders = [
        ranked(of_scores, of_grades)
        for of_scores, of_grades in zip(scores, grades, strict=True)
        if max(of_grades) > 0
    ]
    count = max(len(orders), 1)
    return {
        "mrr": sum(map(reciprocal_rank, orders)) / count,
        "map": sum(map(average_precision, orders)) / count,
        "ndcg_at_10": sum(ndcg(order, at=10) for order in orders) / count,
    }
