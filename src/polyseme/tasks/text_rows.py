"""A text, or a pair of texts, as rows of tokens: cut to what a model reads, or by windows."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyseme.embedding.windows import windows
from polyseme.errors import SettingsError
from polyseme.tasks.task import Row
from polyseme.text.tokenizer import Tokenizer


def text_rows(
    text: str,
    pair: str | None,
    label: NDArray[Any] | None,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    by_windows: bool = False,
) -> list[Row]:
    """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP], of which the longer text is cut first.

    A single text that is longer may be read by windows that share a quarter; each row has the label.
    """
    if pair is not None:
        first, second = tokenizer.encode_batch([text, pair])
        return [_pair_row(first, second, label, tokenizer, max_length)]
    (ids,) = tokenizer.encode_batch([text])
    size = max_length - tokenizer.frame.size
    if by_windows:
        cut = windows(len(ids), size=size, overlap=size // 4)
        return [_row(ids[window.start : window.stop], label, tokenizer) for window in cut]
    return [_row(ids[:size], label, tokenizer, cut=max(len(ids) - size, 0))]


def chosen_pooling(chosen: str | None, poolings: Iterable[str]) -> str:
    """The chosen pooling, or the folder's first; one that the folder cannot say is refused."""
    possible = list(poolings)
    chosen = chosen or ("mean" if "mean" in possible else possible[0])
    if chosen not in possible:
        raise SettingsError(
            f"a classifier of this family cannot pool by {chosen!r}: its folder has no word for it; "
            f"choose {' or '.join(possible)}"
        )
    return chosen


def _row(ids: NDArray[np.int32], label: NDArray[Any] | None, tokenizer: Tokenizer, *, cut: int = 0) -> Row:
    row = tokenizer.framed(ids)
    return Row(row, tokenizer.frame.segments(len(row)), label, cut)


def _pair_row(
    first: NDArray[np.int32],
    second: NDArray[np.int32],
    label: NDArray[Any] | None,
    tokenizer: Tokenizer,
    max_length: int,
) -> Row:
    room = max_length - tokenizer.frame.pair_size
    keep_first = max(room - len(second), min(len(first), (room + 1) // 2))
    keep_second = max(room - len(first), min(len(second), room // 2))
    cut = max(len(first) - keep_first, 0) + max(len(second) - keep_second, 0)
    input_ids, types = tokenizer.frame.pair(first[:keep_first], second[:keep_second])
    return Row(input_ids, types, label, cut)
