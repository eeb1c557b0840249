"""`polyseme prepare`: text, read once, into a token store."""

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.text.preparing import PrepareSettings, prepare


class Options(PrepareSettings, frozen=True, kw_only=True):
    """Read text once and write it as numbers, with marks where words and sentences start.

    Every later command reads the store; the result is the same for any number of workers.
    """

    texts: Positional[tuple[str, ...]]
    """Files, folders, patterns, or - for standard input; .gz, .bz2 and .xz are unpacked on the way."""
    out: str
    """The folder of the store; it must not exist yet."""


def run(options: Options) -> None:
    """Prepare; the counts are said on the way."""
    prepare(**by_name(options))
    print(options.out)
