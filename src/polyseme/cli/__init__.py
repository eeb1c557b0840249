"""The command line: parse and print, nothing else; `polyseme` and `python -m polyseme` call `main`."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; `arguments` default to the process's own."""
    from polyseme.cli.running import run

    return run(arguments)
