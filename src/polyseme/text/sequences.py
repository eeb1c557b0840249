"""Lists of texts as callers give them: what is no list, or no text, is named before anything is read."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

from polyseme.errors import DataError


def check_texts(texts: Sequence[Any], name: str = "texts", *, each: str = "text") -> None:
    """Raises `DataError` unless `texts` is a list, array or column of str.

    A str alone would be read letter by letter, and a generator would be empty after this check.
    """
    if isinstance(texts, str | bytes):
        raise DataError(
            f"{name} is a list of {each}s, and this is one, {texts[:20]!r}; put it into a list: [{each}]"
        )
    _require_list(texts, name, each=each)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"{each} {number} is {_shown(text)} ({type(text).__name__}); a {each} is a str")


def _require_list(texts: Any, name: str, *, each: str) -> None:
    """Raises `DataError` for what can be read only once, as a generator, or is no list at all."""
    if not isinstance(texts, Sized) or not isinstance(texts, Iterable) or isinstance(texts, Mapping):
        raise DataError(f"{name} is of the type {type(texts).__name__}; give a list of {each}s: list(…)")


def check_cut_texts(texts: Sequence[Any]) -> None:
    """Raises `DataError` unless each of `texts` is a str or a sequence of its words."""
    if isinstance(texts, str | bytes):
        check_texts(texts)
    _require_list(texts, "texts", each="text")
    for number, text in enumerate(texts):
        if isinstance(text, str):
            continue
        if isinstance(text, bytes) or not isinstance(text, Sequence):
            raise DataError(
                f"text {number} is {_shown(text)} ({type(text).__name__}); a text is a str or its words"
            )
        for place, word in enumerate(text):
            if not isinstance(word, str):
                raise DataError(
                    f"word {place} of text {number} is {_shown(word)} ({type(word).__name__}), not a str"
                )


def check_text(text: Any) -> None:
    """Raises `DataError` for what is not one text."""
    if not isinstance(text, str):
        raise DataError(f"the text is {_shown(text)} ({type(text).__name__}); a text is a str")


def _shown(value: Any) -> str:
    return "a value" if isinstance(value, int) and abs(value) >= 1 << 64 else f"{value!r:.40}"
