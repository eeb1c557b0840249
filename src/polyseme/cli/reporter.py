"""Progress on standard error: a live bar on a terminal, a plain line now and then elsewhere."""

import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from polyseme.progress import Bar, set_reporter

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FIRST_LINE_AFTER, SHARE_BETWEEN_LINES = 5.0, 0.05
"""Seconds before the first plain line; then a line comes each 5 % of the time gone by, so logs stay short."""


class TerminalReporter:
    """A `progress.Reporter`; bars may lie inside bars, the inner ones leave no line behind."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """`stream` is standard error unless it is given; where that is closed, nothing is shown."""
        self._stream = stream or sys.stderr
        self._live: Progress | None = None
        self._depth = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """One line, above a bar that is being drawn."""
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print_line(self._stream, line)

    @contextlib.contextmanager
    def bar(self, label: str, *, total: float | None, unit: str) -> Iterator[Bar]:
        """Show one piece of work until the block ends."""
        if self._stream is None or not shows_bars(self._stream):
            with _PlainBar(self._stream, label, total=total, unit=unit) as plain:
                yield plain
            return
        live = self._live or self._start()
        task = live.add_task(label, total=total, unit=unit, figures="")
        self._depth += 1
        try:
            yield _LiveBar(live, task)
        finally:
            self._depth -= 1
            if self._depth:
                live.remove_task(task)
            elif self._live is not None:
                live.stop()
                self._live = None

    def _start(self) -> "Progress":
        from polyseme.cli.live import live_progress

        assert self._stream is not None
        self._live = live_progress(self._stream)
        self._live.start()
        return self._live


class _LiveBar:
    def __init__(self, live: "Progress", task: "TaskID") -> None:
        self._live, self._task = live, task

    def advance(self, amount: float = 1, *, total: float | None = None, **figures: float | str) -> None:
        if figures:
            self._live.update(self._task, figures=in_words(figures))
        self._live.update(self._task, advance=amount, total=total)

    def note(self, line: str) -> None:
        self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)


class _PlainBar:
    """Lines for a log: what, how far, how fast, how long still."""

    def __init__(self, stream: TextIO | None, label: str, *, total: float | None, unit: str) -> None:
        self._stream, self._label, self._total, self._unit = stream, label, total, unit
        self._done = 0.0
        self._figures: dict[str, float | str] = {}

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._next = self._began + FIRST_LINE_AFTER
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            seconds = duration(time.monotonic() - self._began)
            self._print(f"{self._label}: {amount(self._done, self._unit)} in {seconds}")

    def advance(self, amount: float = 1, *, total: float | None = None, **figures: float | str) -> None:
        self._done += amount
        self._total = total or self._total
        self._figures.update(figures)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + max(FIRST_LINE_AFTER, SHARE_BETWEEN_LINES * (now - self._began))
            self._print(self._line(now - self._began))

    def note(self, line: str) -> None:
        print_line(self._stream, line)

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds
        far = amount(self._done, self._unit)
        parts = [f"{amount(rate, self._unit)}/s"]
        if self._total:
            far = f"{self._done / self._total:4.0%} of {amount(self._total, self._unit)}"
            if rate > 0:
                parts.append(f"{duration(max(0.0, self._total - self._done) / rate)} left")
        return f"{self._label}: {far}, {', '.join(parts)}"

    def _print(self, line: str) -> None:
        figures = in_words(self._figures)
        print_line(self._stream, line + (f"; {figures}" if figures else ""))


class show_progress:
    """Show bars and messages on standard error, or below the cell of a notebook, in the whole program.

    Called alone it holds from then on, `False` turns it off; as a context manager it holds inside the block.

    >>> with show_progress():
    ...     pass
    """

    def __init__(self, enabled: bool = True) -> None:
        self._before = set_reporter(TerminalReporter() if enabled else None)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        set_reporter(self._before)


def print_line(stream: TextIO | None, line: str) -> None:
    """One line, unless the stream is missing or closed: what is computed matters more than what is told."""
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=stream, flush=True)


def shows_bars(stream: TextIO) -> bool:
    """Whether bars can be redrawn there: on a terminal, or in a notebook that has widgets."""
    try:
        if stream.isatty():
            return True
    except (AttributeError, ValueError):
        return False
    return "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets") is not None


def in_words(figures: dict[str, float | str]) -> str:
    """«loss 3.214  tokens/s 11,480»"""
    names = {name: name.replace("_per_second", "/s").replace("_", " ") for name in figures}
    return "  ".join(f"{names[name]} {number(value)}" for name, value in figures.items())


def number(value: float | str) -> str:
    """Four digits that matter; thousands get their commas."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 0.001 else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def amount(value: float, unit: str) -> str:
    """`value` in its unit: bytes as MB or GB, other things counted."""
    if unit == "B":
        for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if value >= size:
                return f"{value / size:.1f} {name}"
        return f"{value:.0f} B"
    digits = 0 if value >= 10 or value == int(value) else 1
    return f"{value:,.{digits}f} {unit}".rstrip()


def duration(seconds: float) -> str:
    """«2 h 05 min», «3 min 20 s» or «12 s»"""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
