"""Progress of long work: drawn where a reporter is set, by the command line or by `polyseme.show_progress()`.

Without one, information goes to Python's `logging` (the logger "polyseme", level INFO), and what changes a
result or costs time to `warnings`. The library itself configures neither.
"""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Protocol, TypeVar

from polyseme.errors import PolysemeWarning

T = TypeVar("T")


class Bar(Protocol):
    """One piece of work that goes on."""

    def advance(self, amount: float = 1, *, total: float | None = None, **figures: float | str) -> None:
        """Go on by `amount`; `figures` (loss, tokens a second …) stand beside the bar.

        `total` is the end as it is now known, where it moves or was not known before.
        """

    def note(self, line: str) -> None:
        """Say one line above the bar."""


class Reporter(Protocol):
    """Where progress is shown; set by `reporting` or `set_reporter`."""

    def bar(
        self, label: str, *, total: float | None, unit: str
    ) -> contextlib.AbstractContextManager[Bar]: ...

    def say(self, line: str) -> None: ...


class _Silent:
    """No bars; lines go to the log."""

    @contextlib.contextmanager
    def bar(self, label: str, *, total: float | None, unit: str) -> Iterator[Bar]:
        yield self

    def say(self, line: str) -> None:
        _LOGGER.info(line)

    def advance(self, amount: float = 1, *, total: float | None = None, **figures: float | str) -> None:
        pass

    def note(self, line: str) -> None:
        _LOGGER.info(line)


_LOGGER = logging.getLogger("polyseme")
_SILENT = _Silent()
_OURS = ("polyseme", "contextlib", "functools", "threading", "concurrent")
"""Modules that stand between a warning and the program that it is for."""

_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)
_warned: ContextVar[set[str] | None] = ContextVar("warned", default=None)
_everywhere: Reporter | None = None
"""The reporter of all threads that have none of their own."""


def set_reporter(reporter: Reporter | None) -> Reporter | None:
    """Show the progress of the whole program through `reporter`, or nothing; returns the one before."""
    global _everywhere
    before, _everywhere = _everywhere, reporter
    return before


def _current() -> Reporter:
    return _reporter.get() or _everywhere or _SILENT


@contextlib.contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Show all progress inside the block through `reporter`."""
    token, of_warned = _reporter.set(reporter), _warned.set(set())
    try:
        yield
    finally:
        _reporter.reset(token)
        _warned.reset(of_warned)


def bar(label: str, *, total: float | None = None, unit: str = "") -> contextlib.AbstractContextManager[Bar]:
    """A bar for one piece of work: `with bar("prepare", total=size, unit="B") as work: work.advance(n)`.

    `total` is None where the end is unknown; `unit` is "B" for bytes, else a plural noun.
    """
    return _current().bar(label, total=total, unit=unit)


def say(line: str) -> None:
    """One line of information for the user, outside any bar."""
    _current().say(line)


def warn(line: str) -> None:
    """Tell the user something that changes the result or costs time.

    The command line prints it, the same line once; a program that uses the library gets a `PolysemeWarning`
    through `warnings`, at its own line that called the library.
    """
    reporter, said = _reporter.get(), _warned.get()
    if reporter is None or said is None:
        warnings.warn(line, PolysemeWarning, stacklevel=_levels_to_caller())
    elif line not in said:
        said.add(line)
        reporter.say(line)


def _levels_to_caller() -> int:
    """How many calls lie between `warn` and the program that called the library."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _OURS:
        level, frame = level + 1, frame.f_back
    return level


def track(items: Iterable[T], label: str, *, total: float | None = None, unit: str = "") -> Iterator[T]:
    """The items, with a bar that goes on by one for each."""
    with bar(label, total=total, unit=unit) as work:
        for item in items:
            yield item
            work.advance()
