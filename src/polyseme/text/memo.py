"""What has been tokenised before, remembered as flat arrays within bounded memory."""

from collections.abc import Callable, Sequence

import numpy as np

from polyseme.text.encoded import Int32s, Int64s

_MOST_ENTRIES = 1 << 18
_MOST_CHARACTERS = 1 << 23


class Memo:
    """Strings that come again and again (words, runs of letters), each encoded once.

    When it is full it forgets everything: the next batch fills it with what is in use.
    """

    def __init__(self, encode: Callable[[str], tuple[Sequence[int], Sequence[tuple[int, int]]]]) -> None:
        self._encode = encode
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}
        self._characters = 0
        self._starts = np.zeros(1, dtype=np.int64)  # [entries + 1]
        self._ids = np.zeros(0, dtype=np.int32)
        self._offsets = np.zeros((0, 2), dtype=np.int32)

    def encode(self, strings: Sequence[str], begins: Int64s) -> tuple[Int32s, Int32s, Int64s]:
        """Ids, offsets and number of tokens of the strings, which begin at `begins` in the text."""
        if len(self._numbers) > _MOST_ENTRIES or self._characters > _MOST_CHARACTERS:
            self._forget()
        known = self._numbers
        entries = [known.get(string, -1) for string in strings]
        if -1 in entries:
            self._learn(list(dict.fromkeys(string for string in strings if string not in known)))
            entries = [known[string] for string in strings]
        numbers = np.asarray(entries, dtype=np.int64)
        first = self._starts[numbers]
        counts = self._starts[numbers + 1] - first  # [strings]
        place = np.cumsum(counts) - counts
        at = np.repeat(first - place, counts) + np.arange(counts.sum())  # [tokens]
        offsets = self._offsets[at] + np.repeat(begins, counts).astype(np.int32)[:, None]
        return self._ids[at], offsets, counts

    def _learn(self, strings: list[str]) -> None:
        lengths: list[int] = []
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for string in strings:
            string_ids, string_offsets = self._encode(string)
            self._numbers[string] = len(self._numbers)
            self._characters += len(string)
            lengths.append(len(string_ids))
            ids.extend(string_ids)
            offsets.extend(string_offsets)
        ends = self._starts[-1] + np.cumsum(np.asarray(lengths, dtype=np.int64))
        self._starts = np.concatenate([self._starts, ends])
        self._ids = np.concatenate([self._ids, np.asarray(ids, dtype=np.int32)])
        self._offsets = np.concatenate([self._offsets, np.asarray(offsets, dtype=np.int32).reshape(-1, 2)])
