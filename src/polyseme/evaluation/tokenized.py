"""Held-out text as a model's tokens, with the counts that do not depend on the model."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyseme.errors import DataError, SettingsError
from polyseme.evaluation.settings import PerplexitySettings
from polyseme.text.reading import Document, read_documents
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.words import WordCutter, word_cutter, word_starts


@dataclass(frozen=True)
class TokenizedText:
    """The tokens of one document: its lines, one after the other."""

    ids: npt.NDArray[np.int32]
    """`[tokens]`"""
    words: npt.NDArray[np.int64]
    """The word that each token begins in, counted from 0 along the document: `[tokens]`."""
    num_words: int
    """Words and signs, as the cutter has them; blanks are none."""
    num_characters: int
    """Characters that are not blank."""
    source: npt.NDArray[np.int32] | None = None
    """The tokens of the text beside it, which is given: `[tokens]`."""


def tokenized(
    file: str | Path, tokenizer: Tokenizer, settings: PerplexitySettings, *, pairs: bool = False
) -> list[TokenizedText]:
    """The documents of the file up to `most_tokens`; those without a token are left out.

    With `pairs` the second texts of pairs, each beside its first.

    Raises `DataError` where no token is found.
    """
    cutter = word_cutter(settings.words, dictionary=settings.dictionary)
    texts: list[TokenizedText] = []
    left = settings.most_tokens
    for source, document in _sided(read_documents([file], settings.text)):
        if source is not None and not pairs:
            raise SettingsError(
                "format pairs has two texts a line; perplexity reads one, so choose lines, or a model that "
                "writes one text from another"
            )
        text = _tokenized(document, tokenizer, cutter, most=left)
        if source is not None:
            text = replace(text, source=tokenizer.encode(source).ids)
        if len(text.ids):
            texts.append(text)
        left = None if left is None else left - len(text.ids)
        if left is not None and left <= 0:
            break
    if not texts:
        raise DataError(f"{file}: no token in all the text; check the file and its format")
    return texts


def _sided(documents: Iterable[Document]) -> Iterator[tuple[str | None, Document]]:
    """Each document, or each second text of pairs as one, with the first text beside it."""
    for document in documents:
        if document.side is None:
            yield None, document
        else:
            for first, second in zip(document.lines, document.side, strict=True):
                yield first, Document([second])


def _tokenized(
    document: Document, tokenizer: Tokenizer, cutter: WordCutter, *, most: int | None
) -> TokenizedText:
    ids: list[npt.NDArray[np.int32]] = []
    words: list[npt.NDArray[np.int64]] = []
    pieces = num_words = num_characters = found = 0
    for lines in _batches(document.lines, 1 if most is not None else _LINES):
        new, begins, counts = tokenizer.encode_joined(lines)
        line_ends = np.cumsum(counts)
        for line, end, count in zip(lines, line_ends, counts, strict=True):
            starts = word_starts(cutter, line)
            own = begins[end - count : end]
            words.append(np.searchsorted(starts, own, side="right") - 1 + pieces)
            pieces += len(starts)
            ends = [*starts[1:].tolist(), len(line)]
            num_words += sum(not line[a:b].isspace() for a, b in zip(starts.tolist(), ends, strict=True))
            num_characters += len("".join(line.split()))
        ids.append(new)
        found += len(new)
        if most is not None and found >= most:
            break
    return TokenizedText(np.concatenate(ids), np.concatenate(words), num_words, num_characters)


_LINES = 1024


def _batches(lines: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(lines), size):
        yield lines[start : start + size]
