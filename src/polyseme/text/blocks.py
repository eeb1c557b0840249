"""The corpus in blocks of about equal size, whatever the sizes of its documents and lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from polyseme.text.normalising import NormalisingSettings, Repeats
from polyseme.text.reading import TextSettings, read_documents, size

BLOCK_CHARACTERS = 1 << 17
"""Large enough for vectors, small enough to keep the memory of all processes flat."""
LINE_CHARACTERS = 1 << 15
"""Longer lines are cut: after a sentence, else after a comma or blank, if one is in the second half."""
_CUTS = ("。！？!?…", "，、；,; \t\u3000")


class Block(NamedTuple):
    """Some lines of the corpus, with the numbers of the document and of the turn each belongs to."""

    lines: list[str]
    documents: list[int]
    turns: list[int]
    bytes_read: int
    """How much of the sources had been read when the block was complete."""


class Blocks:
    """The lines of all sources; the same blocks for any number of workers, so that the store is the same.

    Repeated lines and documents are dropped here, where all of the text passes in order. With `turns` each
    line is a turn. A row of the pairs format is a document of two turns, and repeated if both of its texts
    are.
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        text: TextSettings,
        normalising: NormalisingSettings,
        *,
        turns: bool = False,
    ) -> None:
        self.num_bytes = size(sources)
        """What `bytes_read` comes to at the end; None where nobody knows."""
        self._bytes_read = 0
        self._parts = read_documents(sources, text, advance=self._advance)
        self._line_is_turn = turns
        self._lines = Repeats() if normalising.drop_repeated_lines else None
        self._documents = Repeats() if normalising.drop_repeated_documents else None

    def __iter__(self) -> Iterator[Block]:
        lines: list[str] = []
        documents: list[int] = []
        turns: list[int] = []
        held = 0
        for document, turn, texts in self._turns():
            for text in texts:
                for line in _cut(text):
                    lines.append(line)
                    documents.append(document)
                    turns.append(turn)
                    held += len(line)
                    if held >= BLOCK_CHARACTERS:
                        yield Block(lines, documents, turns, self._bytes_read)
                        lines, documents, turns, held = [], [], [], 0
        yield Block(lines, documents, turns, self._bytes_read)

    def _turns(self) -> Iterator[tuple[int, int, list[str]]]:
        """The lines of each turn, with the numbers of its document and of itself."""
        document = turn = 0
        for part in self._parts:
            if part.side is None:
                document += not part.continues
                turn += not part.continues
                # A document of millions of characters comes, and is compared, in several parts.
                lines = [] if _seen(self._documents, part.lines) else part.lines
                kept = [line for line in lines if not _seen(self._lines, [line])]
                for lines in [[line] for line in kept] if self._line_is_turn else [kept]:
                    turn += self._line_is_turn
                    yield document, turn, lines
                continue
            for pair in zip(part.lines, part.side, strict=True):
                if not (_seen(self._documents, pair) or _seen(self._lines, pair)):
                    document += 1
                    yield document, turn + 1, [pair[0]]
                    yield document, turn + 2, [pair[1]]
                    turn += 2

    def _advance(self, count: int) -> None:
        self._bytes_read += count


def _seen(repeats: Repeats | None, texts: Sequence[str]) -> bool:
    return repeats is not None and repeats.seen("\n".join(texts))


def _cut(line: str) -> list[str]:
    """The line, in several pieces if it is too long."""
    if len(line) <= LINE_CHARACTERS:
        return [line]
    pieces, start = [], 0
    while len(line) - start > LINE_CHARACTERS:
        middle, stop = start + LINE_CHARACTERS // 2, start + LINE_CHARACTERS
        found = (max(line.rfind(mark, middle, stop) for mark in marks) for marks in _CUTS)
        end = next((position + 1 for position in found if position >= 0), stop)
        pieces.append(line[start:end])
        start = end
    return [*pieces, line[start:]]
