"""How good decisions are, from all of their scores together: what a mean over batches cannot say."""

import numpy as np
import numpy.typing as npt
from torch import Tensor

from polyseme.models.batch import Loss

Scores = npt.NDArray[np.floating]
Truth = npt.NDArray[np.integer]


class Decisions:
    """The decisions of many batches, collected by name."""

    def __init__(self) -> None:
        self._scores: dict[str, list[Tensor]] = {}
        self._truth: dict[str, list[Tensor]] = {}

    def add(self, loss: Loss) -> None:
        """Take the decisions of one more batch."""
        for name, (scores, truth) in loss.decisions.items():
            self._scores.setdefault(name, []).append(scores.float().cpu())
            self._truth.setdefault(name, []).append(truth.cpu())

    def measures(self) -> dict[str, float]:
        """`… roc-auc` where a decision has one score, `… balanced accuracy` where each class has its own.

        A measure is left out while the truth shows a single class, since it is then not defined.
        """
        found: dict[str, float] = {}
        for name, batches in self._scores.items():
            scores = np.concatenate([batch.numpy() for batch in batches])
            truth = np.concatenate([batch.numpy() for batch in self._truth[name]]).astype(np.int64)
            if len(np.unique(truth)) < 2:
                continue
            if scores.ndim == 1:
                found[f"{name} roc-auc"] = roc_auc(scores, truth)
            else:
                found[f"{name} balanced accuracy"] = balanced_accuracy(scores.argmax(axis=1), truth)
        return found


def roc_auc(scores: Scores, truth: Truth) -> float:
    """The share of pairs of a 1 and a 0 in which the 1 has the higher score; equal scores count half.

    From ranks, as Wilcoxon's statistic: Hanley and McNeil 1982, "The Meaning and Use of the Area under a
    Receiver Operating Characteristic (ROC) Curve".
    """
    positive = truth.astype(np.bool_)
    ones, zeros = int(positive.sum()), int((~positive).sum())
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # of each different score, the mean of its places from 1
    return float((ranks[place][positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def balanced_accuracy(given: Truth, truth: Truth) -> float:
    """The mean over the classes of the share of their members that were found."""
    return float(np.mean([(given[truth == label] == label).mean() for label in np.unique(truth)]))
