"""`polyseme embed`: texts of any size to a file of vectors."""

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.embedding.settings import EmbedSettings, OutputSettings
from polyseme.text.table_texts import TextColumnSettings


class Options(EmbedSettings, frozen=True, kw_only=True):
    """Write one vector for each line of text; an empty line keeps its row.

    A command that was stopped, killed even, goes on where it was when it is given again.
    """

    text: Positional[str]
    """A file with one text a line, or a table with one a row (.csv, .tsv); a folder or pattern of such files,
    or - for standard input."""
    model: str
    """A model folder, of ours, transformers or sentence-transformers, or a name on a hub: owner/name,
    owner/name@revision or modelscope:owner/name."""
    out: str
    """Where the vectors go; the suffix says how: .npy, .parquet or .jsonl."""
    replace: bool = False
    """Begin anew, whatever an earlier command began or finished under this name."""
    output: OutputSettings = OutputSettings()
    table: TextColumnSettings = TextColumnSettings()


def run(options: Options) -> None:
    """Embed and say how many vectors were written."""
    from polyseme.embedding.embedding import embed

    count = embed(**by_name(options))
    print(f"{options.out}: {count:,} vectors")
