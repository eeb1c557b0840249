"""Words, ranges of characters and tokens, matched by character offsets into the raw text."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polyseme.errors import DataError
from polyseme.text.words import WordCutter

Ranges = NDArray[np.int64]
"""Begin and end of each range of characters: `[ranges, 2]`."""

_UNSPACED = re.compile("[\u2e80-\ua4cf\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
"""Scripts written without blanks: Chinese and Japanese. Korean (from U+AC00) has blanks."""


def cut_ranges(text: str, cutter: WordCutter) -> Ranges:
    """The ranges of the words of `text`; blanks are no words."""
    ranges = []
    start = 0
    for word in cutter(text):
        if word and not word.isspace():
            ranges.append((start, start + len(word)))
        start += len(word)
    return np.array(ranges, dtype=np.int64).reshape(-1, 2)


def join_words(words: Sequence[str]) -> tuple[str, Ranges]:
    """A text of words that are already cut, and where each stands in it.

    A blank goes between two letters or digits unless one is Chinese or Japanese, so that Latin words
    stay apart and Chinese ones stay as they are written.

    >>> join_words(["我", "用", "Mac", "OS", "。"])[0]
    '我用Mac OS。'
    """
    pieces: list[str] = []
    ranges = []
    end, before = 0, ""
    for word in words:
        if before and word and _apart(before, word[0]):
            pieces.append(" ")
            end += 1
        pieces.append(word)
        ranges.append((end, end + len(word)))
        end += len(word)
        before = word[-1:] or before
    return "".join(pieces), np.array(ranges, dtype=np.int64).reshape(-1, 2)


def _apart(before: str, after: str) -> bool:
    return before.isalnum() and after.isalnum() and not (_UNSPACED.match(before) or _UNSPACED.match(after))


def check_ranges(text: str, ranges: Sequence[tuple[int, int]], *, number: int) -> Ranges:
    """The ranges as an array; a `DataError` names the first that does not lie in text `number`."""
    checked = np.array(list(ranges), dtype=np.int64).reshape(-1, 2)
    for begin, end in checked.tolist():
        if not 0 <= begin < end <= len(text):
            raise DataError(
                f"the range {begin}:{end} does not lie in text {number}, "
                f"which has the characters 0 to {len(text)}"
            )
    return checked


def mean_by_range(
    vectors: NDArray[np.float32], offsets: NDArray[np.int32], ranges: Ranges
) -> NDArray[np.float32]:
    """The mean of the tokens that touch each range: `[ranges, width]`.

    A range without tokens (blanks, or characters that the tokenizer drops) gets zeros.
    """
    means = np.zeros((len(ranges), vectors.shape[1]), dtype=np.float32)
    first = np.searchsorted(offsets[:, 1], ranges[:, 0], side="right")
    last = np.searchsorted(offsets[:, 0], ranges[:, 1], side="left")
    for row, (start, stop) in enumerate(zip(first, last, strict=True)):
        if start < stop:
            means[row] = vectors[start:stop].mean(axis=0)
    return means
