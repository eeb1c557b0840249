"""Progress of long work: silent in the library, drawn where a reporter is set (the command line)."""

import contextlib
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
    """Where progress is shown; set by `reporting`."""

    def bar(
        self, label: str, *, total: float | None, unit: str
    ) -> contextlib.AbstractContextManager[Bar]: ...

    def say(self, line: str) -> None: ...


class _Silent:
    @contextlib.contextmanager
    def bar(self, label: str, *, total: float | None, unit: str) -> Iterator[Bar]:
        yield self

    def say(self, line: str) -> None:
        pass

    def advance(self, amount: float = 1, *, total: float | None = None, **figures: float | str) -> None:
        pass

    def note(self, line: str) -> None:
        pass


_reporter: ContextVar[Reporter] = ContextVar("reporter", default=_Silent())  # noqa: B039


@contextlib.contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Show all progress inside the block through `reporter`."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def bar(label: str, *, total: float | None = None, unit: str = "") -> contextlib.AbstractContextManager[Bar]:
    """A bar for one piece of work: `with bar("prepare", total=size, unit="B") as work: work.advance(n)`.

    `total` is None where the end is unknown; `unit` is "B" for bytes, else a plural noun.
    """
    return _reporter.get().bar(label, total=total, unit=unit)


def say(line: str) -> None:
    """One line for the user, outside any bar."""
    _reporter.get().say(line)


def warn(line: str) -> None:
    """Tell the user something that changes the result or costs time.

    The command line prints it; a program that uses the library gets a `PolysemeWarning` through `warnings`.
    """
    reporter = _reporter.get()
    if isinstance(reporter, _Silent):
        warnings.warn(line, PolysemeWarning, stacklevel=2)
    else:
        reporter.say(line)


def track(items: Iterable[T], label: str, *, total: float | None = None, unit: str = "") -> Iterator[T]:
    """The items, with a bar that goes on by one for each."""
    with bar(label, total=total, unit=unit) as work:
        for item in items:
            yield item
            work.advance()
