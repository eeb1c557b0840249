"""Bad examples left out instead of ending the work: what `--skip-bad` does, for the readers of all tasks.

Who runs a task opens `leaving_out`, and whoever reads or encodes examples inside it tells `bad` of each one
that does not fit, or lets `parsed` do so. Without `skip` the first bad example ends the work as ever.

>>> with leaving_out(True) as left:  # doctest: +SKIP
...     examples = list(task.read(path, labelled=True))
>>> left.errors  # doctest: +SKIP
["a.tsv, line 4: label is ''; every text here needs exactly one label"]
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

from polyseme import progress
from polyseme.errors import DataError

T = TypeVar("T")
E = TypeVar("E")

_SHOWN = 20


@dataclass
class LeftOut:
    """What was left out so far."""

    errors: list[str] = field(default_factory=list)
    """File, line and rule of each, in order."""
    _said: int = 0

    def say(self, name: str) -> None:
        """Say how many examples were left out since the last time, and which; `name` tells of what."""
        new = self.errors[self._said :]
        self._said = len(self.errors)
        if new:
            progress.say(f"{name}: {len(new)} bad examples were left out")
            for error in new[:_SHOWN]:
                progress.say(f"  {error}")
            if len(new) > _SHOWN:
                progress.say(f"  … and {len(new) - _SHOWN} more")


_LEFT: ContextVar[LeftOut | None] = ContextVar("left_out", default=None)


@contextlib.contextmanager
def leaving_out(skip: bool) -> Iterator[LeftOut]:
    """Inside, with `skip`, bad examples are noted here and left out; otherwise nothing changes."""
    left = LeftOut()
    before = _LEFT.set(left if skip else None)
    try:
        yield left
    finally:
        _LEFT.reset(before)


def bad(error: DataError) -> None:
    """Note an example that is left out; raise the error where none may be.

    The message begins with file and line.
    """
    left = _LEFT.get()
    if left is None:
        raise error
    left.errors.append(str(error))


def parsed(items: Iterable[T], parse: Callable[[T], E]) -> Iterator[E]:
    """What `parse` makes of each item; one for which it raises a `DataError` is `bad`."""
    for item in items:
        try:
            made = parse(item)
        except DataError as error:
            bad(error)
            continue
        yield made
