"""`polyseme show tokens`: how a text is cut."""

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.cli.tables import painted, print_json, print_table
from polyseme.inspection.tokens import CutText, show_tokens
from polyseme.records import Record, to_plain


class Options(Record, frozen=True, kw_only=True):
    """Show the tokens of a text, or of the first lines of a file: ids, places, words."""

    text: Positional[str | None] = None
    """The text itself."""
    file: str | None = None
    """A file with one text a line, instead of a text."""
    text_column: str | None = None
    """Of a file that is a table, the column that holds the text; usually known by its name."""
    tokenizer: str
    """A folder with a tokenizer (a model's, a store's), a tokenizer.json or a vocab.txt."""
    words: str = "rjieba"
    """What cuts words: rjieba, jieba, blanks, characters, "module:callable"; none: the tokenizer's own."""
    dictionary: str | None = None
    """A file of words that rjieba and jieba shall know, one a line."""
    phrases: str = "none"
    """What marks phrases: a file of them, one a line; markup: {{phrase}} in the text; none."""
    entities: str = "none"
    """What marks entities: a file of them, one a line; markup: [[entity]] in the text; none."""
    limit: int = 20
    """Lines of the file to show."""
    json: bool = False
    """The same as JSON."""

    def __post_init__(self) -> None:
        if (self.text is None) == (self.file is None):
            raise ValueError("give a text or --file, one of the two")
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")


def run(options: Options) -> None:
    """Print each text with its words in turning colours, then its tokens in a table."""
    texts = show_tokens(**by_name(options, leave="json"))
    if options.json:
        print_json([to_plain(cut) for cut in texts])
        return
    for cut in texts:
        _print(cut)


def _print(cut: CutText) -> None:
    pieces = [
        (token.token, "red" if token.unknown else _COLOURS[token.word % len(_COLOURS)])
        for token in cut.tokens
    ]
    painted(pieces, between=" ")
    marked = [
        name for name in ("phrase", "entity") if cut.tokens and getattr(cut.tokens[0], name) is not None
    ]
    print_table(
        ["token", "id", "characters", "text", "word", *marked],
        [
            (t.token, t.id, f"{t.begin}–{t.end}", t.text, t.word, *(getattr(t, name) for name in marked))
            for t in cut.tokens
        ],
        numbers=("id", "characters", "word", *marked),
    )


_COLOURS = ("cyan", "yellow", "green", "magenta")
