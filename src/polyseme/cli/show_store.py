"""`polyseme show store`: what a token store holds."""

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.cli.reporter import amount
from polyseme.cli.tables import print_json, print_table
from polyseme.inspection.store import show_store
from polyseme.records import Record, to_plain


class Options(Record, frozen=True, kw_only=True):
    """Show a store's counts and marks, its most frequent tokens, and how some documents begin."""

    store: Positional[str]
    """The folder of the store."""
    samples: int = 3
    """Documents to look at."""
    frequent: int = 20
    """Tokens to list, the most frequent first."""
    seed: int = 0
    """Another seed, other documents."""
    json: bool = False
    """The same as JSON."""

    def __post_init__(self) -> None:
        if min(self.samples, self.frequent) < 0:
            raise ValueError(
                f"samples and frequent must not be negative, got {self.samples}, {self.frequent}"
            )


def run(options: Options) -> None:
    """Print counts, frequent tokens and samples."""
    summary = show_store(**by_name(options, leave="json"))
    if options.json:
        print_json(to_plain(summary))
        return
    print_table(
        ["", ""],
        [
            ("tokens", f"{summary.tokens:,}"),
            ("words", f"{summary.words:,}" if "WORD" in summary.marks else "not marked"),
            ("sentences", f"{summary.sentences:,}"),
            ("documents", f"{summary.documents:,}"),
            ("characters", f"{summary.characters:,}"),
            ("vocabulary", f"{summary.used:,} of {summary.vocab_size:,} tokens occur"),
            ("unknown", f"{summary.unknown_share:.3%} of the tokens"),
            ("marks", " ".join(name.lower() for name in summary.marks)),
            ("on disk", amount(summary.bytes, "B")),
            ("fingerprint", summary.fingerprint[:16]),
        ],
    )
    if summary.frequent:
        print("\nmost frequent: " + "  ".join(f"{token} {count:,}" for token, count in summary.frequent))
    for sample in summary.samples:
        print(f"\n{sample}")
