"""Phrases or entities of a list: the longest entry from each word on."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from polyseme.errors import CheckpointError, DataError
from polyseme.files import refuse_lfs_pointer
from polyseme.input_files import MAX_LIST_BYTES, read_small

Finder = Callable[[Sequence[str]], list[tuple[int, int]]]
"""From the pieces of a text (words, blanks, signs) to the runs of pieces that are one unit."""


class UnitList:
    """Finds the entries of a list among the pieces of a text; an entry begins and ends with a word.

    From left to right, the longest entry wherever one begins, none overlapping. The work for each piece is
    bounded by the number of words of the longest entry that begins like it.

    >>> UnitList(["北京大学", "大学"])(["在", "北京", "大学", "学习"])
    [(1, 3)]
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._entries = frozenset(entry for entry in entries if entry)
        self._beginnings = {entry[:size] for entry in self._entries for size in range(1, len(entry) + 1)}

    def __call__(self, pieces: Sequence[str]) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        start = 0
        while start < len(pieces):
            text, stop, end = pieces[start], start + 1, 0
            while text in self._beginnings:
                if text in self._entries:
                    end = stop
                if stop == len(pieces):
                    break
                text += pieces[stop]
                stop += 1
            if end:
                found.append((start, end))
            start = end or start + 1
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (sorted(self._entries),)


def read_unit_list(path: Path, normalise: Callable[[str], str]) -> UnitList:
    """The list in a file, one entry a line, made alike as the text is; blank lines are left out."""
    refuse_lfs_pointer(path, DataError)
    try:
        lines = read_small(path, max_bytes=MAX_LIST_BYTES).decode("utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"there is no list of phrases or entities {path}") from error
    except CheckpointError as error:
        raise DataError(f"the list {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {path} cannot be read: {error}") from error
    entries = [entry for line in lines if (entry := normalise(line).strip())]
    if not entries:
        raise DataError(f"the list {path} has no entry; write one phrase or entity a line")
    return UnitList(entries)
