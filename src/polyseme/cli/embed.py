"""`polyseme embed`: a file of texts to a file of vectors."""

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.embedding.settings import EmbedSettings


class Options(EmbedSettings, frozen=True, kw_only=True):
    """Write one vector for each line of a text file; an empty line keeps its row."""

    text: Positional[str]
    """A file with one text a line, or - for standard input."""
    model: str
    """A model folder, of ours, transformers or sentence-transformers, or a hub name."""
    out: str
    """Where the vectors go; the suffix says how: .npy, .parquet or .jsonl."""


def run(options: Options) -> None:
    """Embed and say how many vectors were written."""
    from polyseme.embedding.embedding import embed

    count = embed(**by_name(options))
    print(f"{options.out}: {count:,} vectors")
