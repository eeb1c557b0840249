"""How often each word occurs, of a text of any size, in bounded memory."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from polyseme.text.codepoints import CharacterTable, codepoints, pieces
from polyseme.text.table import alone
from polyseme.text.words import WordCutter, word_starts

_BATCH_CHARACTERS = 1 << 18
_LONGEST = 100
"""Words of more characters teach nothing: WordPiece takes them for unknown, and they are no words."""
_PARTS, _RUN = -1, -2


class WordCounter:
    """Counts words as a tokenizer's normalizer and cut make them.

    Without a cutter, characters that stand alone in any surroundings are counted by a table and only the
    runs between them as strings. With one, its pieces are counted. Normalising comes at the end, once for
    each distinct string. When there are more than `most` distinct strings the rarest are forgotten:
    whatever occurs less often than the threshold reached so far may be counted too low by as much.
    """

    def __init__(self, normalizer: Any, cut: Any, *, cutter: WordCutter | None, most: int) -> None:
        self._normalizer, self._cut = normalizer, cut
        self._cutter = cutter
        self._most = most
        self._forgotten = 0
        self._table = CharacterTable(self._code)
        self._alone = np.zeros(0x110000, dtype=np.int64)
        self._strings: Counter[str] = Counter()

    def add(self, texts: Sequence[str]) -> None:
        """Count what is in `texts`."""
        if self._cutter is None:
            self._add_runs("\n".join(texts))
        else:
            for text in texts:
                self._strings.update(pieces(text, word_starts(self._cutter, text))[0])
        while len(self._strings) > self._most:
            self._forgotten += 1
            kept = {string: n for string, n in self._strings.items() if n > self._forgotten}
            self._strings = Counter(kept)

    def words(self) -> Counter[str]:
        """The normalised words and their counts."""
        counted: Counter[str] = Counter()
        for point in np.flatnonzero(self._alone).tolist():
            counted[chr(point)] += int(self._alone[point])
        for string, count in self._strings.items():
            if len(string) <= _LONGEST:
                for word, _ in self._cut.pre_tokenize_str(self._normalizer.normalize_str(string)):
                    counted[word] += count
        return counted

    def _add_runs(self, text: str) -> None:
        codes = self._table[codepoints(text)]
        alone = np.bincount(codes[codes >= 0])
        self._alone[: len(alone)] += alone
        edges = np.flatnonzero(np.diff(codes == _RUN, prepend=False, append=False)).tolist()
        self._strings.update([text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)])

    def _code(self, character: str) -> int:
        token = alone(character, self._normalizer, self._cut)
        if token is None:
            return _RUN
        return ord(token) if token else _PARTS


def count_words(
    texts: Iterable[str], normalizer: Any, cut: Any, *, cutter: WordCutter | None, most: int
) -> Counter[str]:
    """The words of all texts and their counts; `WordCounter` says how."""
    counter = WordCounter(normalizer, cut, cutter=cutter, most=most)
    for batch in _batches(iter(texts)):
        counter.add(batch)
    return counter.words()


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(texts, 1)):
        size = len(batch[0])
        while size < _BATCH_CHARACTERS and (more := list(islice(texts, 64))):
            batch += more
            size += sum(map(len, more))
        yield batch
