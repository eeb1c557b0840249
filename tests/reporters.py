"""A reporter of progress that remembers what was said."""

from collections.abc import Iterator
from contextlib import contextmanager


class Said:
    """Reporter and bar in one; `lines` is all that was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def bar(self, label: str, *, total: float | None, unit: str) -> Iterator["Said"]:
        yield self

    def advance(self, amount: float = 1, *, total: float | None = None, **figures: float | str) -> None:
        """Advances are not remembered."""

    def say(self, line: str) -> None:
        self.lines.append(line)

    note = say
