"""`polyseme tokenizer learn`: a vocabulary from text."""

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.text.tokenizer_learning import TokenizerSettings, learn_tokenizer


class Options(TokenizerSettings, frozen=True, kw_only=True):
    """Learn a vocabulary from text; the same text gives the same bytes."""

    texts: Positional[tuple[str, ...]]
    """Files, folders, patterns, or - for standard input; .gz, .bz2 and .xz are unpacked on the way."""
    out: str
    """The folder of the tokenizer; it must not exist yet."""


def run(options: Options) -> None:
    """Learn; the size is said on the way."""
    learn_tokenizer(**by_name(options))
    print(options.out)
