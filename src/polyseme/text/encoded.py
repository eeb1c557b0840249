"""A text as tokens: their ids, where each stands in the raw text, and the word it belongs to."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of one text. Offsets count characters of the text as it was given, before normalising."""

    ids: Int32s
    """`[tokens]`"""
    offsets: Int32s
    """Begin and end of each token: `[tokens, 2]`."""
    words: Int32s
    """The word of each token, counted from 0 along the text; -1 for special tokens: `[tokens]`."""

    def __len__(self) -> int:
        return len(self.ids)

    def word(self, index: int) -> Int64s:
        """The positions of the tokens of one word."""
        return np.flatnonzero(self.words == index)
