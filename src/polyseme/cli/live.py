"""The bar that a terminal shows, made of rich's columns; imported when the first bar is drawn."""

from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
)
from rich.text import Text

from polyseme.cli.reporter import amount, duration


class _Pace(ProgressColumn):
    """How fast, and how long still (or since when, where the end is unknown)."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        rate = f"{amount(speed, str(task.fields['unit']))}/s" if speed else ""
        if task.finished or task.time_remaining is None:
            time = duration(task.elapsed or 0)
        else:
            time = f"{duration(task.time_remaining)} left"
        return Text("  ".join(part for part in (rate, time) if part), style="progress.remaining")


def live_progress(stream: TextIO) -> Progress:
    """Bars with label, percent, figures, rate and time left; tasks carry `unit` and `figures`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}", style="cyan"),
        _Pace(),
        console=Console(file=stream),
        speed_estimate_period=20,
        refresh_per_second=4,
    )
