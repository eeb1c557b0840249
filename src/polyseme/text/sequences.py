"""Lists of texts as callers give them: what is no list, or no text, is named before anything is read."""

from collections.abc import Sequence
from typing import Any

from polyseme.errors import DataError


def check_texts(texts: Sequence[Any], name: str = "texts") -> None:
    """Raises `DataError` unless `texts` is a sequence of str: a str alone would be read letter by letter."""
    if isinstance(texts, str | bytes):
        raise DataError(
            f"{name} is a list of texts, and this is one text, {texts[:20]!r}; put it into a list: [text]"
        )
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"text {number} is {_shown(text)} ({type(text).__name__}); a text is a str")


def check_text(text: Any) -> None:
    """Raises `DataError` for what is not one text."""
    if not isinstance(text, str):
        raise DataError(f"the text is {_shown(text)} ({type(text).__name__}); a text is a str")


def _shown(value: Any) -> str:
    return "a value" if isinstance(value, int) and abs(value) >= 1 << 64 else f"{value!r:.40}"
