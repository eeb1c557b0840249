"""Weights of the classes in the loss, so that rare ones count more."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyseme.errors import SettingsError
from polyseme.models.batch import IGNORED
from polyseme.records import nearest
from polyseme.tasks.task import Row, TaskModule


def class_weights(chosen: Sequence[str], labels: Sequence[str], rows: Sequence[Row]) -> Tensor | None:
    """One weight a label, as `balanced` or written `label=weight` (the others have 1); None without any.

    Balanced is n / (k nᵢ) for n labels in all, k classes and nᵢ labels of class i, as scikit-learn has it; a
    class that does not occur gets 1.
    """
    if not chosen:
        return None
    if tuple(chosen) == ("balanced",):
        counts = label_counts(rows, len(labels))
        weights = np.where(counts > 0, counts.sum() / (len(labels) * np.maximum(counts, 1)), 1.0)
        return torch.from_numpy(weights.astype(np.float32))
    given = dict.fromkeys(labels, 1.0)
    for entry in chosen:
        label, equals, number = entry.rpartition("=")
        if not equals or label not in given:
            raise SettingsError(
                f"class_weights {entry!r} is not LABEL=WEIGHT of a known label"
                f"{nearest(label, list(labels))}; write balanced, or one such pair a label"
            )
        given[label] = _weight(entry, number)
    return torch.tensor(list(given.values()))


def label_counts(rows: Sequence[Row], count: int) -> NDArray[np.int64]:
    """How often each label is to be answered: of rows, of tokens, or of each of several a row."""
    counts = np.zeros(count, dtype=np.int64)
    for row in rows:
        labels = row.label if row.token_labels is None else row.token_labels
        if labels is None:
            continue
        if row.token_labels is None and not _are_classes(labels, count):
            raise SettingsError(
                "class_weights are for tasks whose labels are classes, which this task's are not"
            )
        if np.issubdtype(labels.dtype, np.floating):
            counts += (labels > 0.5).astype(np.int64)
        else:
            flat = np.atleast_1d(labels)
            counts += np.bincount(flat[flat != IGNORED], minlength=count)
    return counts


def _are_classes(labels: NDArray[np.generic], count: int) -> bool:
    """Whether they are the number of a class, or say of each class whether it holds."""
    if np.issubdtype(labels.dtype, np.floating):
        return labels.shape == (count,)
    return labels.ndim == 0 and int(labels) < count


def weigh(module: TaskModule, weights: Tensor | None, *, task: str) -> None:
    """Tell the network its weights; a `SettingsError` where its loss knows none."""
    if weights is None:
        return
    told = getattr(module, "weigh", None)
    if told is None:
        raise SettingsError(f"class_weights are for losses over classes, and {task} has none; leave them out")
    told(weights)


def _weight(entry: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    if not 0 <= weight < float("inf"):
        raise SettingsError(f"class_weights {entry!r}: the weight must be a number from 0 on")
    return weight
