"""From lines of text to ids and marks: the work on one block, the same in every process."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from polyseme.text.annotation import Annotated, lines_without_markup
from polyseme.text.blocks import Block
from polyseme.text.codepoints import codepoints
from polyseme.text.normalising import NormalisingSettings, normaliser
from polyseme.text.sentences import sentence_starts
from polyseme.text.store import Mark
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.unit_sources import UnitSources, with_borders
from polyseme.text.words import WordCutter, word_cutter

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
    models may cross words. `units` says what marks phrases and entities; where their brackets are written
    into the text, these are left out, and begin and end words.
    """

    def __init__(
        self,
        tokenizer: Path,
        words: str | None,
        dictionary: str | None,
        sentences: bool,
        normalising: NormalisingSettings,
        units: UnitSources | None = None,
    ) -> None:
        self._tokenizer = Tokenizer.load(tokenizer)
        self._cutter = None if words is None else word_cutter(words, dictionary=dictionary)
        self._sentences = sentences
        self._normalise = normaliser(normalising)
        self._units = units or UnitSources()
        self._is_blank = np.zeros(0x110000, dtype=np.bool_)  # [code points]
        self._is_blank[[point for point in range(0x3001) if chr(point).isspace()]] = True

    def __call__(self, block: Block) -> Marked:
        lines = [self._normalise(line) for line in block.lines]
        annotated = Annotated("\n".join(lines), [], [])
        if self._units.markup:
            annotated = lines_without_markup(lines)
            lines = annotated.text.split("\n")
        text = annotated.text  # All offsets below count its characters.
        lengths = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines))
        line_starts = np.cumsum(lengths + 1) - lengths - 1
        words = None if self._cutter is None else with_borders(_word_starts(self._cutter, lines), annotated)
        ids, begins, counts = self._tokens(lines, line_starts, words)
        characters = int(lengths.sum())
        if not len(ids):
            return Marked(ids, np.zeros(0, np.uint8), (0, 0), (0, 0), characters, block.bytes_read)
        line_of = np.repeat(np.arange(len(lines)), counts)  # [tokens]
        ends = self._ends(text, begins + line_starts[line_of])
        documents = np.asarray(block.documents)[line_of]
        turns = np.asarray(block.turns)[line_of]
        sentences = sentence_starts(text) if self._sentences else line_starts
        sentence = _starting(sentences, ends) | _changes(line_of)
        marks = sentence * np.uint8(Mark.SENTENCE)
        marks |= _changes(turns) * np.uint8(Mark.TURN)
        marks |= _changes(documents) * np.uint8(Mark.DOCUMENT)
        if words is not None:
            marks |= (_starting(words, ends) | sentence) * np.uint8(Mark.WORD)
            for mark, starts in self._units.starts(annotated, words).items():
                marks |= (_starting(starts, ends) | sentence) * np.uint8(mark)
        first, last = ((int(documents[at]), int(turns[at])) for at in (0, -1))
        return Marked(ids, marks, first, last, characters, block.bytes_read)

    def _tokens(
        self, lines: list[str], line_starts: Int64s, words: Int64s | None
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Int64s]:
        """Ids, begins in the token's line, and tokens per line; with `words`, no token crosses them."""
        if words is None or not self._tokenizer.crosses_words:
            return self._tokenizer.encode_joined(lines)
        cuts = np.searchsorted(words, line_starts)
        starts = [
            part[part < start + len(line)] - start  # The last piece of a line is the line feed.
            for part, start, line in zip(np.split(words, cuts[1:]), line_starts, lines, strict=True)
        ]
        return self._tokenizer.encode_joined(lines, starts=starts)

    def _ends(self, text: str, begins: Int64s) -> Int64s:
        """Where each token ends: before the next token or the next blank, whichever comes first."""
        is_blank = self._is_blank[codepoints(text + "\n")]
        blanks = np.append(np.flatnonzero(is_blank), len(text))
        ends: Int64s = blanks[np.cumsum(is_blank)[begins] - is_blank[begins]]
        ends[:-1] = np.minimum(ends[:-1], begins[1:])
        # Tokens that are blanks, and the several tokens of one character, cover at least their character.
        return np.maximum(ends, begins + 1)


def _word_starts(cutter: WordCutter, lines: list[str]) -> Int64s:
    """Where words start in the joined lines; the line feeds are words too."""
    lengths: list[int] = []
    for line in lines:
        lengths.extend(map(len, cutter(line)))
        lengths.append(1)
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
    return ends - lengths


def _starting(starts: Int64s, ends: Int64s) -> npt.NDArray[np.bool_]:
    """Which tokens start a unit: those before whose end more units have begun than before the last one's.

    So a unit whose first character is dropped starts with its first token, and one that starts inside
    a token starts with this token.
    """
    begun = np.zeros(ends[-1] + 1, dtype=np.int32)
    begun[starts[starts < ends[-1]] + 1] = 1
    return _changes(np.cumsum(begun)[ends])


def _changes(numbers: Int64s) -> npt.NDArray[np.bool_]:
    """Where a number differs from the one before; the first always does."""
    changed = np.ones(len(numbers), dtype=np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=changed[1:])
    return changed
