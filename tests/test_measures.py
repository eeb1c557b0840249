"""Measures of decisions against their definitions."""

import numpy as np
import pytest
import torch

from polyseme.models.batch import Loss
from polyseme.training.measures import Decisions, balanced_accuracy, roc_auc


def test_roc_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        scores = rng.integers(0, 2 + seed, size=40).astype(np.float32)  # with many ties
        truth = rng.integers(0, 2, size=40)
        truth[:2] = 0, 1
        ones, zeros = scores[truth == 1], scores[truth == 0]
        right = (ones[:, None] > zeros).mean() + 0.5 * (ones[:, None] == zeros).mean()
        assert roc_auc(scores, truth) == pytest.approx(right)
    assert roc_auc(np.zeros(4), np.array([0, 1, 0, 1])) == 0.5


def test_balanced_accuracy_gives_each_class_the_same_weight() -> None:
    truth = np.array([0] * 90 + [1] * 10)
    assert balanced_accuracy(np.zeros(100, dtype=np.int64), truth) == 0.5
    assert balanced_accuracy(truth, truth) == 1.0


def test_decisions_are_collected_over_batches_and_named_by_their_measure() -> None:
    decisions = Decisions()
    nothing = torch.zeros(())
    for scores, truth in (([0.1, 0.9], [0, 1]), ([0.95, 0.2], [0, 1])):
        decisions.add(
            Loss(
                nothing,
                decisions={
                    "replaced-token": (torch.tensor(scores), torch.tensor(truth)),
                    "next-sentence": (torch.tensor([[0.0, s] for s in scores]), torch.tensor(truth)),
                    "one-sided": (torch.tensor(scores), torch.zeros(2)),
                },
            )
        )
    assert decisions.measures() == {
        "replaced-token roc-auc": 0.5,
        "next-sentence balanced accuracy": 0.5,
    }
