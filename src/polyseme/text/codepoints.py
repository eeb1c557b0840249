"""Text as arrays of code points, and tables over them that fill themselves."""

import unicodedata
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from polyseme.errors import DataError
from polyseme.text.encoded import Int32s, Int64s

Codepoints = npt.NDArray[np.uint32]

_UNKNOWN = np.iinfo(np.int32).min
_IDEOGRAPHS = (
    # The blocks that BERT's tokenizer takes for Chinese characters, each a word of its own.
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def codepoints(text: str) -> Codepoints:
    """The code points of `text`; a lone surrogate, which is no character, is a `DataError`."""
    try:
        return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}, "
            "which is half a character; read the file with --errors replace"
        ) from error


class CharacterTable:
    """A number for each character, asked of `number` when the character is first met."""

    def __init__(self, number: Callable[[str], int]) -> None:
        self._number = number
        self._table = np.full(0x110000, _UNKNOWN, dtype=np.int32)

    def __getitem__(self, points: Codepoints) -> Int32s:
        numbers = self._table[points]
        missing = points[numbers == _UNKNOWN]
        if not len(missing):
            return numbers
        for point in np.unique(missing).tolist():
            self._table[point] = self._number(chr(point))
        return self._table[points]


def is_ideograph(character: str) -> bool:
    """Whether BERT's tokenizer takes the character for Chinese, a word of its own."""
    point = ord(character)
    return any(first <= point <= last for first, last in _IDEOGRAPHS)


BLANK, SINGLE, RUN = 0, 1, 2


def _sort(character: str) -> int:
    category = unicodedata.category(character)
    if character.isspace() or category[0] == "Z":
        return BLANK
    return SINGLE if category[0] in "PS" or is_ideograph(character) else RUN


@cache
def _sorts() -> CharacterTable:
    return CharacterTable(_sort)


def plain_word_starts(text: str) -> Int64s:
    """Where words start if nobody says otherwise: ideographs and signs alone, letters and digits together.

    Blanks are words too, so that every character belongs to one.
    """
    sorts = _sorts()[codepoints(text)]
    if not len(sorts):
        return np.zeros(0, dtype=np.int64)
    new = np.ones(len(sorts), dtype=bool)
    new[1:] = (sorts[1:] != sorts[:-1]) | (sorts[1:] == SINGLE)
    return np.flatnonzero(new)


def visible(text: str) -> Int64s:
    """The positions of the characters that are not blanks."""
    return np.flatnonzero(_sorts()[codepoints(text)] != BLANK)


def pieces(text: str, starts: Int64s) -> tuple[list[str], Int64s]:
    """The words that start at `starts`, blanks joined to the word after them, and where these begin.

    Sub-word models write the blank before a word as a part of that word, so it must not be cut off.
    """
    kept = [start for start in starts.tolist() if start > 0 and not text[start - 1].isspace()]
    bounds = [0, *kept, len(text)] if text else [0]
    return [text[a:b] for a, b in pairwise(bounds)], np.asarray(bounds[:-1], np.int64)
