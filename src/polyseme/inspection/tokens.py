"""How a text is cut: tokens, their ids, their places, and the words that they belong to."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyseme.errors import SettingsError
from polyseme.records import Record
from polyseme.text.annotation import Annotated, without_markup
from polyseme.text.normalising import NormalisingSettings
from polyseme.text.reading import TextSettings, read_lines
from polyseme.text.store import Mark
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.unit_sources import UnitSources, unit_sources, with_borders
from polyseme.text.words import word_cutter, word_starts


class CutToken(Record, frozen=True, kw_only=True):
    """One token of a text."""

    token: str
    """As the vocabulary spells it."""
    id: int
    begin: int
    """Its first character in the text."""
    end: int
    """One past its last."""
    text: str
    """What it covers."""
    word: int
    """The number of its word, in a text whose blanks are words too."""
    unknown: bool
    phrase: int | None = None
    """The number of its phrase, a word outside of phrases being one; None where they are not marked."""
    entity: int | None = None
    """The number of its entity, in the same way."""


class CutText(Record, frozen=True, kw_only=True):
    """A text and its tokens."""

    text: str
    tokens: list[CutToken]


def cut_text(
    text: str,
    *,
    tokenizer: Tokenizer,
    words: str = "rjieba",
    dictionary: str | Path | None = None,
    units: UnitSources | None = None,
) -> CutText:
    """The tokens of one text, with the words that `words` cuts (none: the tokenizer's own), and with the
    phrases and entities that `units` finds among them."""
    units = units or UnitSources()
    annotated = without_markup(text) if units.markup else Annotated(text, [], [])
    text = annotated.text
    starts = None if words == "none" else word_starts(word_cutter(words, dictionary=dictionary), text)
    found: dict[Mark, npt.NDArray[np.int64]] = {}
    if starts is not None:
        starts = with_borders(starts, annotated)
        found = units.starts(annotated, starts)
    encoded = tokenizer.encode(text, starts=starts)
    unknown = tokenizer.unknown_id if "unknown" in tokenizer.special_tokens else None
    return CutText(
        text=text,
        tokens=[
            CutToken(
                token=token,
                id=index,
                begin=begin,
                end=end,
                text=text[begin:end],
                word=word,
                unknown=index == unknown,
                phrase=_number(found.get(Mark.PHRASE), begin),
                entity=_number(found.get(Mark.ENTITY), begin),
            )
            for token, index, (begin, end), word in zip(
                tokenizer.tokens(encoded.ids),
                encoded.ids.tolist(),
                encoded.offsets.tolist(),
                encoded.words.tolist(),
                strict=True,
            )
        ],
    )


def _number(starts: npt.NDArray[np.int64] | None, begin: int) -> int | None:
    return None if starts is None else int(np.searchsorted(starts, begin, side="right")) - 1


def show_tokens(
    text: str | None = None,
    *,
    tokenizer: str | Path,
    file: str | Path | None = None,
    words: str = "rjieba",
    dictionary: str | Path | None = None,
    phrases: str = "none",
    entities: str = "none",
    text_column: str | None = None,
    limit: int = 20,
) -> list[CutText]:
    """How `text`, or each of the first `limit` lines of `file`, is cut by the tokenizer of a folder.

    `phrases` and `entities` are as `prepare` takes them, without statistics; `text_column` is that of a file
    that is a table.

    >>> show_tokens("程序执行", tokenizer="vocab")[0].tokens[0].text  # doctest: +SKIP
    '程'
    """
    if (text is None) == (file is None):
        raise ValueError("give a text or a file, one of the two")
    if words == "none" and (phrases, entities) != ("none", "none"):
        raise SettingsError(
            'phrases and entities are made of words, and words is "none"; choose a word cutter'
        )
    units = unit_sources(phrases, entities, NormalisingSettings())
    cutter = Tokenizer.load(tokenizer)
    texts = [text] if text is not None else _first_lines(Path(str(file)), limit, text_column)
    return [
        cut_text(line, tokenizer=cutter, words=words, dictionary=dictionary, units=units) for line in texts
    ]


def _first_lines(file: Path, limit: int, text_column: str | None) -> list[str]:
    lines: list[str] = []
    for line in read_lines(file, TextSettings(encoding="auto", text_column=text_column)):
        if len(lines) == limit:
            break
        if line.strip():
            lines.append(line)
    return lines
