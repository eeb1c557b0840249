"""`learn_tokenizer`: files of text become a tokenizer's folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from polyseme import progress
from polyseme.files import whole_folder
from polyseme.integrity import open_record, recorded
from polyseme.records import from_flat, to_json, to_plain
from polyseme.text.blocks import Blocks
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.normalising import NormalisingSettings, normaliser
from polyseme.text.reading import TextSettings
from polyseme.text.sources import fingerprint
from polyseme.text.tokenizer import Tokenizer

FORMAT_VERSION = 1
"""Of the record of a tokenizer's folder."""


class TokenizerSettings(LearningSettings, frozen=True, kw_only=True):
    """What vocabulary to learn, and how its text is read and made alike."""

    text: TextSettings = TextSettings()
    """How the text is read."""
    normalising: NormalisingSettings = NormalisingSettings()
    """What is made alike in the text: the same as for `prepare` later on."""


def learn_tokenizer(texts: Sequence[str | Path], *, out: str | Path, **options: Any) -> Tokenizer:
    """Learn a vocabulary from text and write the tokenizer to the folder `out`, which must not exist yet.

    A folder that the same call wrote before is left alone. `texts` are files, folders, globs or "-"; the
    options are the fields of `LearningSettings`, `TextSettings` and `NormalisingSettings` by their own names.
    The same text and options give the same bytes.

    >>> learn_tokenizer(["wiki.txt"], out="vocab", vocab_size=8000).kind  # doctest: +SKIP
    'wordpiece'
    """
    settings = from_flat(options, TokenizerSettings, where="learn_tokenizer")
    folder = Path(out)
    made = {"settings": to_plain(settings), "texts": fingerprint(texts)}
    if made["texts"] is not None and _made(folder) == msgspec.json.decode(msgspec.json.encode(made)):
        progress.say(f"{folder} is learned already, from this text with these settings")
        return Tokenizer.load(folder)
    with whole_folder(folder) as building:
        tokenizer = learn(_lines(texts, settings), settings)
        record = to_json({"format_version": FORMAT_VERSION, "kind": "tokenizer", "made": made})
        for name, content in recorded(tokenizer.files(), record).items():
            (building / name).write_bytes(content)
    progress.say(f"{tokenizer.vocab_size:,} tokens, kind {tokenizer.kind}")
    return tokenizer


def _made(folder: Path) -> Any:
    """How a tokenizer's folder was made, where `learn_tokenizer` wrote it."""
    found = open_record(folder)
    return found.plain.get("made") if found is not None and found.plain.get("kind") == "tokenizer" else None


def _lines(texts: Sequence[str | Path], settings: TokenizerSettings) -> Iterator[str]:
    blocks = Blocks(texts, settings.text, settings.normalising)
    normalise = normaliser(settings.normalising)
    with progress.bar("learn", total=blocks.num_bytes, unit="B") as bar:
        read = 0
        for block in blocks:
            yield from map(normalise, block.lines)
            bar.advance(block.bytes_read - read)
            read = block.bytes_read
