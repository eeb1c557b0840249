"""Phrases of a corpus: readings before the one that writes the store, spread over processes."""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path

from polyseme import progress
from polyseme.errors import SettingsError
from polyseme.text.annotation import lines_without_markup
from polyseme.text.blocks import Block, Blocks
from polyseme.text.normalising import NormalisingSettings, normaliser
from polyseme.text.parallel import in_order
from polyseme.text.phrases import BlockCounts, Counts, PhraseSettings, PhraseTable, count
from polyseme.text.reading import TextSettings
from polyseme.text.sources import STANDARD_INPUT
from polyseme.text.words import word_cutter


class _Counter:
    """Counts the words and pairs of a block: the same in every process."""

    def __init__(
        self,
        table: PhraseTable,
        words: str,
        dictionary: str | None,
        markup: bool,
        normalising: NormalisingSettings,
    ) -> None:
        self._table = table
        self._cutter = word_cutter(words, dictionary=dictionary)
        self._markup = markup
        self._normalise = normaliser(normalising)

    def __call__(self, block: Block) -> tuple[BlockCounts, int]:
        lines = [self._normalise(line) for line in block.lines]
        if self._markup:
            lines = lines_without_markup(lines).text.split("\n")
        runs = [stretch for line in lines for stretch in self._table.runs(self._cutter(line))]
        return count(runs), block.bytes_read


def count_phrases(
    texts: Sequence[str | Path],
    settings: PhraseSettings,
    *,
    text: TextSettings,
    normalising: NormalisingSettings,
    words: str,
    dictionary: str | None,
    markup: bool,
    workers: int,
) -> PhraseTable:
    """Read the corpus once for each pass; the phrases are the same for any number of workers."""
    if STANDARD_INPUT in map(Path, texts):
        raise SettingsError(
            "phrases by statistics read the text several times, and standard input can be read only once; "
            "write it to a file first"
        )
    table = PhraseTable()
    for number in range(settings.phrase_passes):
        blocks = Blocks(texts, text, normalising)
        make = functools.partial(_Counter, table, words, dictionary, markup, normalising)
        counts, read = Counts(), 0
        with (
            progress.bar("phrases", total=blocks.num_bytes, unit="B") as bar,
            contextlib.closing(in_order(make, blocks, workers=workers)) as results,
        ):
            for part, bytes_read in results:
                counts.add(part)
                bar.advance(bytes_read - read)
                read = bytes_read
        found = counts.phrases(settings)
        progress.say(f"pass {number + 1}: {len(found):,} phrases in {counts.total:,} words")
        table = PhraseTable([*table.passes, found])
    return table
