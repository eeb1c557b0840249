"""Batches of texts of like length, so that little is padded."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WIDTHS = 8


def batches_by_length(
    lengths: Sequence[int] | NDArray[np.int64], *, max_tokens: int
) -> list[NDArray[np.int64]]:
    """Row numbers in batches of at most `max_tokens` tokens, padding included; the longest rows come first.

    A single row longer than that makes a batch of its own. Starting with the longest shows at once
    whether the memory suffices.
    """
    counts = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-counts, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        stop = start + max(1, max_tokens // max(int(counts[order[start]]), 1))
        batches.append(order[start:stop])
        start = stop
    return batches


def pad(
    rows: Sequence[NDArray[np.int32]], *, padding: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The rows as one matrix filled up with `padding`, and where it is real: both `[rows, width]`.

    The width is a multiple of 8 where the model reads so many tokens (`most`): shapes then repeat, and
    oneDNN, which keeps a compiled product for each of them, does not take more and more memory.
    """
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    longest = int(lengths.max())
    real = np.arange(max(longest, min(-(-longest // _WIDTHS) * _WIDTHS, most))) < lengths[:, None]
    matrix = np.full(real.shape, padding, dtype=np.int64)
    matrix[real] = np.concatenate(rows)
    return matrix, real
