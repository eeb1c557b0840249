"""`polyseme fill`: blanks filled by a masked model, or by one that was trained on hidden spans."""

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.cli.tables import print_table
from polyseme.generation.settings import FillSettings


class Options(FillSettings, frozen=True, kw_only=True):
    """Fill the blanks of a text, written ___ or as the mask token; the likeliest texts come first."""

    text: Positional[str]
    """The text, or - for one a line from standard input."""
    model: str
    """The folder of a masked model or of a T5, or its name on a hub: owner/name, owner/name@revision or
    modelscope:owner/name."""
    out: str | None = None
    """Where the texts go, a line of JSON for each text that was read; None: they are printed."""


def run(options: Options) -> None:
    """Fill each text and print or write what was found."""
    from pathlib import Path

    import msgspec

    from polyseme.files import whole_file
    from polyseme.generation.filling import filler_of
    from polyseme.text.reading import read_lines

    words = by_name(options)
    filler = filler_of(options.model, **{name: words[name] for name in FillSettings.__struct_fields__})
    texts = list(read_lines("-")) if options.text == "-" else [options.text]
    if options.out is None:
        for text in texts:
            rows = [(f"{one.probability:.4f}", one.text) for one in filler.fill(text)]
            print_table(["", ""], rows)
            print(end="", flush=True)
        return
    with whole_file(Path(options.out)) as target:
        for text in texts:
            line = {"text": text, "fillings": filler.fill(text)}
            target.write(msgspec.json.encode(line) + b"\n")
    print(f"{options.out}: {len(texts):,} texts")
