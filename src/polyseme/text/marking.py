"""From lines of text to ids and marks: the work on one block, the same in every process."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from polyseme.text.blocks import Block
from polyseme.text.codepoints import codepoints
from polyseme.text.normalising import NormalisingSettings, normaliser
from polyseme.text.sentences import sentence_starts
from polyseme.text.store import Mark
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.words import word_cutter, word_starts

Int64s = npt.NDArray[np.int64]


class Marked(NamedTuple):
    """The tokens of a block, perhaps none. Its first token starts everything; `marks_after` knows better."""

    ids: npt.NDArray[np.int32]
    marks: npt.NDArray[np.uint8]
    first: tuple[int, int]
    """The numbers of the document and the turn of the first token."""
    last: tuple[int, int]
    num_characters: int
    bytes_read: int

    def marks_after(self, last: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The marks, where the block may go on with the document and the turn that ended in `last`."""
        marks = self.marks.copy()
        for mark, before, now in zip((Mark.DOCUMENT, Mark.TURN), last, self.first, strict=True):
            if before == now:
                marks[0] &= 0xFF ^ mark
        return marks


class Marker:
    """Turns blocks into tokens and marks.

    `words` names a word cutter, or is None: then no word marks are made, and the tokens of sub-word
    models may cross words.
    """

    def __init__(
        self,
        tokenizer: Path,
        words: str | None,
        dictionary: str | None,
        sentences: bool,
        normalising: NormalisingSettings,
    ) -> None:
        self._tokenizer = Tokenizer.load(tokenizer)
        self._cutter = None if words is None else word_cutter(words, dictionary=dictionary)
        self._sentences = sentences
        self._normalise = normaliser(normalising)
        self._is_blank = np.zeros(0x110000, dtype=np.bool_)  # [code points]
        self._is_blank[[point for point in range(0x3001) if chr(point).isspace()]] = True

    def __call__(self, block: Block) -> Marked:
        lines = [self._normalise(line) for line in block.lines]
        lengths = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines))
        text = "\n".join(lines)
        line_starts = np.cumsum(lengths + 1) - lengths - 1
        words = self._word_starts(lines)
        ids, begins, counts = self._tokenizer.encode_joined(lines, starts=words)
        characters = int(lengths.sum())
        if not len(ids):
            return Marked(ids, np.zeros(0, np.uint8), (0, 0), (0, 0), characters, block.bytes_read)
        line_of = np.repeat(np.arange(len(lines)), counts)  # [tokens]
        ends = self._ends(text, begins + line_starts[line_of])
        documents = np.asarray(block.documents)[line_of]
        turns = np.asarray(block.turns)[line_of]
        sentences = sentence_starts(text) if self._sentences else line_starts
        starts = {
            Mark.SENTENCE: _changes(_begun(sentences, ends)) | _changes(line_of),
            Mark.TURN: _changes(turns),
            Mark.DOCUMENT: _changes(documents),
        }
        if words is not None:
            shifted = np.concatenate(words) + np.repeat(line_starts, [len(line) for line in words])
            starts[Mark.WORD] = _changes(_begun(shifted, ends)) | starts[Mark.SENTENCE]
        marks = np.zeros(len(ids), dtype=np.uint8)
        for mark, where in starts.items():
            marks |= where.astype(np.uint8) * np.uint8(mark)
        first, last = ((int(documents[at]), int(turns[at])) for at in (0, -1))
        return Marked(ids, marks, first, last, characters, block.bytes_read)

    def _word_starts(self, lines: list[str]) -> list[Int64s] | None:
        if self._cutter is None:
            return None
        return [word_starts(self._cutter, line) for line in lines]

    def _ends(self, text: str, begins: Int64s) -> Int64s:
        """Where each token ends: before the next token or the next blank, whichever comes first."""
        blanks = np.flatnonzero(self._is_blank[codepoints(text + "\n")])
        ends = blanks[np.searchsorted(blanks, begins)]
        ends[:-1] = np.minimum(ends[:-1], begins[1:])
        # Tokens that are blanks, and the several tokens of one character, cover at least their character.
        return np.maximum(ends, begins + 1)


def _begun(starts: Int64s, ends: Int64s) -> Int64s:
    """How many units have begun before each token's end; the token where this grows starts one.

    So a unit whose first character is dropped starts with its first token, and one that starts inside
    a token starts with this token.
    """
    return np.searchsorted(starts, ends)


def _changes(numbers: Int64s) -> npt.NDArray[np.bool_]:
    """Where a number differs from the one before; the first always does."""
    changed = np.ones(len(numbers), dtype=np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=changed[1:])
    return changed
