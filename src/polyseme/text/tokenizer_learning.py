"""`learn_tokenizer`: files of text become a tokenizer's folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from polyseme import progress
from polyseme.files import whole_folder
from polyseme.records import from_flat
from polyseme.text.blocks import Blocks
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.normalising import NormalisingSettings, normaliser
from polyseme.text.reading import TextSettings
from polyseme.text.tokenizer import Tokenizer


class TokenizerSettings(LearningSettings, frozen=True, kw_only=True):
    """What vocabulary to learn, and how its text is read and made alike."""

    text: TextSettings = TextSettings()
    """How the text is read."""
    normalising: NormalisingSettings = NormalisingSettings()
    """What is made alike in the text: the same as for `prepare` later on."""


def learn_tokenizer(texts: Sequence[str | Path], *, out: str | Path, **options: Any) -> Tokenizer:
    """Learn a vocabulary from text and write the tokenizer to the folder `out`, which must not exist yet.

    `texts` are files, folders, globs or "-"; `options` are the fields of `LearningSettings`, `TextSettings`
    and `NormalisingSettings` by their own names. The same text and options give the same bytes.

    >>> learn_tokenizer(["wiki.txt"], out="vocab", vocab_size=8000).kind  # doctest: +SKIP
    'wordpiece'
    """
    settings = from_flat(options, TokenizerSettings, where="learn_tokenizer")
    with whole_folder(Path(out)) as building:
        tokenizer = learn(_lines(texts, settings), settings)
        tokenizer.save(building)
    progress.say(f"{tokenizer.vocab_size:,} tokens, kind {tokenizer.kind}")
    return tokenizer


def _lines(texts: Sequence[str | Path], settings: TokenizerSettings) -> Iterator[str]:
    blocks = Blocks(texts, settings.text, settings.normalising)
    normalise = normaliser(settings.normalising)
    with progress.bar("learn", total=blocks.num_bytes, unit="B") as bar:
        read = 0
        for block in blocks:
            yield from map(normalise, block.lines)
            bar.advance(block.bytes_read - read)
            read = block.bytes_read
