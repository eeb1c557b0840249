"""The command `embed`: a file of texts to a file of vectors, in flat memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from polyseme import progress
from polyseme.embedding.embedder import Embedder
from polyseme.embedding.files import vector_file
from polyseme.embedding.settings import EmbedSettings
from polyseme.records import from_plain, to_plain
from polyseme.text.reading import TextSettings, read_lines

_TEXTS, _CHARACTERS = 4096, 1 << 22
"""What is held at once at most: enough to find neighbours of like length, however long the texts are."""


def embed(text: str | Path, *, model: str | Path, out: str | Path, **options: Any) -> int:
    """Write one vector for each line of `text` (a file, or "-" for standard input) and return their number.

    An empty line keeps its row. The suffix of `out` names the format: .npy, .parquet or .jsonl. The
    options are those of `EmbedSettings`.

    >>> embed("lines.txt", model="models/mini", out="vectors.npy", pooling="mean")  # doctest: +SKIP
    1000
    """
    settings = from_plain(options, EmbedSettings, where="embed")
    reading = TextSettings(field=settings.field, encoding=settings.encoding, errors=settings.errors)
    embedder = Embedder.load(model, **to_plain(settings))
    total = 0
    with (
        vector_file(Path(out), width=embedder.width) as writer,
        progress.bar("embed", unit="texts") as work,
    ):
        for block in _blocks(read_lines(text, reading)):
            writer.write(block, embedder.sentences(block))
            work.advance(len(block))
            total += len(block)
    return total


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    characters = 0
    for line in lines:
        block.append(line)
        characters += len(line)
        if len(block) == _TEXTS or characters >= _CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block
