"""`polyseme evaluate perplexity`: how well a model predicts held-out text."""

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.cli.tables import print_json, print_table
from polyseme.evaluation.settings import PerplexitySettings
from polyseme.records import to_plain


class Options(PerplexitySettings, frozen=True, kw_only=True):
    """Score how well a model predicts a text; a masked model gets every token hidden once.

    Compare models with different vocabularies by the figures per word and per character, and only figures
    of one kind: a masked model sees both sides of a token.
    """

    file: Positional[str]
    """The text, or - for standard input."""
    model: str
    """A model folder, or a name on a hub: owner/name, owner/name@revision or modelscope:owner/name."""
    json: bool = False
    """The figures as JSON."""


def run(options: Options) -> None:
    """Score and print the figures as a table."""
    from polyseme.evaluation.perplexity import perplexity

    found = perplexity(**by_name(options, leave="json"))
    if options.json:
        print_json(to_plain(found))
        return
    print_table(
        [found.kind, ""],
        [
            ("per token", f"{found.per_token:,.2f}"),
            ("per word", f"{found.per_word:,.2f}"),
            ("per character", f"{found.per_character:,.3f}"),
            ("bits per character", f"{found.bits_per_character:.3f}"),
            ("tokens", f"{found.tokens:,}"),
            ("words", f"{found.words:,}"),
            ("characters", f"{found.characters:,}"),
            ("documents", f"{found.documents:,}"),
            ("unknown tokens", f"{found.unknown:,}"),
        ],
        numbers=("",),
    )
