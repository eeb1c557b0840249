"""`polyseme show masks`: what an objective makes of a store."""

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.cli.tables import painted, print_json
from polyseme.inspection.masks import SeenToken, show_masks
from polyseme.records import Record, to_plain


class Options(Record, frozen=True, kw_only=True):
    """Show rows as the model reads them, hidden tokens beside what they were, and shares over many rows."""

    store: Positional[str]
    """The store to draw from."""
    recipe: str
    """The published system whose objective is asked, or a TOML file."""
    samples: int = 3
    """Rows to show."""
    seed: int = 0
    """Another seed, other rows and other masks."""
    progress: float = 0.0
    """How much of the training lies behind, from 0 to 1, where the rate or the unit changes on the way."""
    change: tuple[str, ...] = ()
    """Changes to the recipe, such as objectives.0.similar.vectors=vectors.txt."""
    json: bool = False
    """The same as JSON."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if not 0 <= self.progress <= 1:
            raise ValueError(f"progress must lie between 0 and 1, got {self.progress}")


def run(options: Options) -> None:
    """Print the rows, then the shares."""
    summary = show_masks(**by_name(options, leave="json"))
    if options.json:
        print_json(to_plain(summary))
        return
    for row in summary.rows:
        painted([piece for token in row.tokens for piece in _pieces(token)])
        if row.answer is not None:
            print(f"→ {row.answer}")
        print()
    print(
        f"{summary.counted} rows: {summary.hidden:.1%} of the tokens hidden; "
        f"of these {summary.masked:.1%} masked, {summary.random:.1%} replaced, {summary.kept:.1%} kept"
    )
    for name in ("words", "phrases", "entities"):
        if (cut := getattr(summary, f"{name}_cut")) is not None:
            print(f"{name} hidden in part: {cut}")


def _pieces(token: SeenToken) -> list[tuple[str, str]]:
    """«序→[MASK]» for a hidden token, the token itself for another; a blank before each word."""
    blank = [(" ", "")] if token.starts_word else []
    name = token.token.removeprefix("##")
    if token.fate == "read":
        return [*blank, (name, "")]
    return [*blank, (f"〔{name}→{token.shown}〕", _COLOURS[token.fate])]


_COLOURS = {"masked": "red", "random": "magenta", "kept": "yellow"}
