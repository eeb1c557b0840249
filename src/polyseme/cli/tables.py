"""Results on standard output: tables for people, JSON for programs."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from polyseme.records import to_json

WIDE = 10_000
"""A file or a pipe has no width: nothing is wrapped or cut there."""


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()
) -> None:
    """A table; columns named in `numbers` stand to the right; without names there is no first line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        show_header=any(columns),
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    Console(width=_width(), highlight=False).print(table)


def painted(pieces: Iterable[tuple[str, str]], *, between: str = "") -> None:
    """One line of pieces, each in its colour ("" for none); colours only on a terminal."""
    from rich.console import Console
    from rich.text import Text

    line = Text(between).join(Text(text, style=colour) for text, colour in pieces)
    Console(width=_width(), highlight=False).print(line, soft_wrap=True)


def print_json(value: Any) -> None:
    """Indented JSON, Chinese as it is."""
    print(to_json(value).decode(), end="")


def _width() -> int | None:
    """None: the terminal's."""
    try:
        return None if sys.stdout.isatty() else WIDE
    except (AttributeError, ValueError):  # closed, or an object that is no stream
        return WIDE
