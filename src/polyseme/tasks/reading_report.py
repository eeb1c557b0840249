"""What a file of examples was taken for, said in one line with the first example, before anything is done."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from polyseme import progress

E = TypeVar("E")

_SHOWN = 40


def announced(examples: Iterator[E], path: Path, describe: Callable[[E], str]) -> Iterator[E]:
    """The examples; before the first one, what `describe` makes of it is said about the file."""
    first = next(examples, None)
    if first is None:
        return
    progress.say(f"{path}: {describe(first)}")
    yield first
    yield from examples


def shortened(text: object) -> str:
    """A text for such a line, in quotes."""
    text = str(text)
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
