"""Words of a text: cut by rjieba, jieba, blanks, characters, or any callable.

The pieces of a cutter always join to exactly the text, blanks included, so that words are known by
their character offsets and every tokenizer can be aligned with them.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from polyseme.errors import CheckpointError, DataError, MissingExtra, SettingsError
from polyseme.files import refuse_lfs_pointer
from polyseme.input_files import MAX_LIST_BYTES, read_small
from polyseme.records import nearest


class WordCutter(Protocol):
    """Cuts a text into pieces that join to exactly this text; it can be pickled, for worker processes."""

    def __call__(self, text: str) -> list[str]: ...


def word_cutter(name: str = "rjieba", *, dictionary: str | Path | None = None) -> WordCutter:
    """The cutter called `rjieba`, `jieba`, `blanks` or `characters`, or any callable as "module:name".

    `dictionary` is a file of words that `rjieba` and `jieba` shall know: one a line, then, if wanted, how
    often it occurs and its part of speech, separated by blanks. A word without a count is always kept whole.

    >>> word_cutter("rjieba")("我爱北京 天安门")
    ['我', '爱', '北京', ' ', '天安门']
    """
    if name in _WITH_DICTIONARY:
        words = read_dictionary(Path(dictionary)) if dictionary is not None else []
        return _WITH_DICTIONARY[name](words)
    if dictionary is not None:
        takers = " and ".join(_WITH_DICTIONARY)
        raise SettingsError(f"words={name!r} takes no dictionary; {takers} do")
    if name in _PLAIN:
        return _PLAIN[name]
    if ":" in name:
        return CallableCutter(name)
    known = [*_WITH_DICTIONARY, *_PLAIN]
    raise SettingsError(
        f"words={name!r} is not known{nearest(name, known)}; choose {', '.join(known)}, or name a callable "
        'as "module:name"'
    )


def word_starts(cutter: WordCutter, text: str) -> npt.NDArray[np.int64]:
    """The character offsets at which the pieces of `text` start, blanks being pieces of their own.

    Strictly increasing from 0; empty for the empty text.
    """
    words = cutter(text)
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    starts = np.zeros(len(words) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    if starts[-1] != len(text):
        raise DataError(
            f"the word cutter returned {starts[-1]} characters for a text of {len(text)}; "
            "its pieces must join to the text"
        )
    starts = starts[:-1]
    return starts if lengths.all() else starts[lengths > 0]


class RJiebaCutter:
    """jieba's algorithm in Rust: the default."""

    def __init__(self, words: Sequence["DictionaryWord"] = ()) -> None:
        self._words = tuple(words)
        self._cut: Callable[[str], list[str]] | None = None

    def __call__(self, text: str) -> list[str]:
        if self._cut is None:
            self._cut = self._load()
        return self._cut(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._words,)

    def _load(self) -> Callable[[str], list[str]]:
        import rjieba

        if not self._words:
            shared: Callable[[str], list[str]] = rjieba.cut
            return shared
        own = rjieba.Jieba()
        return _with_words(self._words, own.add_word, own.cut)


class JiebaCutter(RJiebaCutter):
    """The jieba package itself: slower by an order of magnitude; for cuts that equal those made elsewhere."""

    def _load(self) -> Callable[[str], list[str]]:
        try:
            import jieba
        except ImportError as error:
            raise MissingExtra("jieba", extra="chinese") from error
        jieba.setLogLevel("WARNING")  # It announces the loading of its dictionary on standard error.
        own = jieba.Tokenizer()
        return _with_words(self._words, own.add_word, own.lcut)


def _with_words(
    words: Sequence["DictionaryWord"], add: Callable[..., object], cut: Callable[[str], list[str]]
) -> Callable[[str], list[str]]:
    """`cut` after all `words` were added.

    jieba never joins across marks such as « · » or an emoji, so words that hold one are looked for first.
    """
    for word in words:
        add(*word)
    whole = [word for word, count, _ in words if count is None and cut(word) != [word]]
    if not whole:
        return cut
    find = re.compile(f"({'|'.join(re.escape(word) for word in sorted(whole, key=len, reverse=True))})").split

    def cut_around(text: str) -> list[str]:
        pieces: list[str] = []
        for index, part in enumerate(find(text)):
            if index % 2:
                pieces.append(part)
            elif part:
                pieces += cut(part)
        return pieces

    return cut_around


DictionaryWord = tuple[str, int | None, str | None]
"""A word, how often it occurs, its part of speech."""


def read_dictionary(path: Path) -> list[DictionaryWord]:
    """The words of a user dictionary; a `DataError` names file and line where it is none."""
    refuse_lfs_pointer(path, DataError)
    try:
        lines = read_small(path, max_bytes=MAX_LIST_BYTES).decode("utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"there is no dictionary {path}") from error
    except CheckpointError as error:
        raise DataError(f"the dictionary {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the dictionary {path} cannot be read: {error}") from error
    return [
        _dictionary_word(line.split(), path, number) for number, line in enumerate(lines, 1) if line.strip()
    ]


def _dictionary_word(parts: list[str], path: Path, line: int) -> DictionaryWord:
    word, rest = parts[0], parts[1:]
    count = int(rest.pop(0)) if rest and rest[0].isdecimal() and len(rest[0]) < 19 else None
    tag = rest.pop(0) if rest else None
    if rest or (tag and tag[0].isdecimal()):
        raise DataError(
            f"{path}, line {line}: {' '.join(parts)!r} is no dictionary entry; write the word, "
            "then, if wanted, its count and its part of speech"
        )
    return word, count, tag


class CallableCutter:
    """A cutter of the user's, imported by "module:name".

    What it leaves out between its words (as many cutters leave out blanks) comes back as pieces of their
    own; a word that is not in the text is a `DataError`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        module, _, attributes = name.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for attribute in attributes.split("."):
                found = getattr(found, attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise SettingsError(f"words={name!r} cannot be imported: {error}") from error
        if not callable(found):
            raise SettingsError(
                f"words={name!r} is a {type(found).__name__}; it must be callable with a text"
            )
        self._cut: Callable[[str], Iterable[str]] = found

    def __call__(self, text: str) -> list[str]:
        pieces, end = [], 0
        for word in self._cut(text):
            start = text.find(word, end)
            if start < 0:
                raise DataError(
                    f"the word cutter {self._name} returned {word!r}, which does not follow in the text "
                    f"{text[end : end + 20]!r}; its words must be parts of the text, in order"
                )
            if start > end:
                pieces.append(text[end:start])
            if word:
                pieces.append(word)
            end = start + len(word)
        if end < len(text):
            pieces.append(text[end:])
        return pieces

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._name,)


_BLANKS = re.compile(r"\s+|\S+")


def cut_at_blanks(text: str) -> list[str]:
    """Runs of blanks and runs of anything else."""
    return _BLANKS.findall(text)


def cut_characters(text: str) -> list[str]:
    """Every character alone."""
    return list(text)


_WITH_DICTIONARY: dict[str, Callable[[Sequence[DictionaryWord]], WordCutter]] = {
    "rjieba": RJiebaCutter,
    "jieba": JiebaCutter,
}
_PLAIN: dict[str, WordCutter] = {"blanks": cut_at_blanks, "characters": cut_characters}
