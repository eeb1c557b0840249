"""Texts with their entities, from any of the usual files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyseme.embedding.alignment import join_words
from polyseme.errors import DataError
from polyseme.tasks.tag_schemes import Span, spans
from polyseme.text.codepoints import plain_word_starts


class Entity(NamedTuple):
    """The characters from `start` to before `end` of a text."""

    type: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TaggedText:
    """One example."""

    text: str
    """As it is given; of words that come apart, these joined."""
    words: NDArray[np.int64]
    """Where each word begins and ends in the text: `[words, 2]`."""
    entities: tuple[Entity, ...] | None
    """None where the file does not say."""
    where: str
    """File and line, for messages."""
    tags: tuple[str, ...] | None = None
    """Of the words, as the file has them; None where it has ranges of characters."""
    cells: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Of an example to answer, what else stands in its object."""

    def word_spans(self) -> list[Span]:
        """The entities by the words that they touch, in order; the longer first where two begin together."""
        first = np.searchsorted(self.words[:, 1], [e.start for e in self.entities or ()], side="right")
        last = np.searchsorted(self.words[:, 0], [e.end for e in self.entities or ()], side="left")
        found = [
            Span(entity.type, int(start), int(stop))
            for entity, start, stop in zip(self.entities or (), first, last, strict=True)
            if start < stop
        ]
        return sorted(found, key=lambda span: (span.start, -span.stop))


def from_text(text: str, entities: Sequence[Entity] | None, *, where: str) -> TaggedText:
    """A text whose words are cut here: ideographs and signs alone, letters and digits together."""
    starts = plain_word_starts(text)
    ranges = np.stack([starts, np.append(starts, len(text))[1:]], axis=1)
    blank = [text[start:end].isspace() for start, end in ranges.tolist()]
    ranges = ranges[~np.array(blank, dtype=bool)]
    if entities is not None and not len(ranges):
        raise DataError(f"{where}: the text is empty; every example needs a word")
    for entity in entities or ():
        if not 0 <= entity.start < entity.end <= len(text):
            raise DataError(
                f"{where}: the range {entity.start}:{entity.end} of {entity.type} does not lie in the text, "
                f"which has the characters 0 to {len(text)}"
            )
    return TaggedText(text, ranges, None if entities is None else tuple(entities), where)


def from_words(words: Sequence[str], tags: Sequence[str] | None, *, where: str) -> TaggedText:
    """A text of words that are cut already, each with its tag."""
    text, ranges = join_words(words)
    if tags is None:
        return TaggedText(text, ranges, None, where)
    if len(tags) != len(words):
        raise DataError(f"{where}: {len(tags)} tags for {len(words)} words; every word needs one")
    if not words:
        raise DataError(f"{where}: the text is empty; every example needs a word")
    entities = tuple(
        Entity(span.type, int(ranges[span.start, 0]), int(ranges[span.stop - 1, 1])) for span in spans(tags)
    )
    return TaggedText(text, ranges, entities, where, tuple(tags))


def tagged_of(given: Any, where: str) -> TaggedText:
    """An example to tag from a text, a list of words, or an object with `text` or `tokens`."""
    match given:
        case {"tokens": words}:
            given = words
        case {"text": text}:
            given = text
    if isinstance(given, str):
        return from_text(given, None, where=where)
    if isinstance(given, list | tuple) and given and all(isinstance(word, str) for word in given):
        return from_words(given, None, where=where)
    raise DataError(f"{where} is {given!r:.60}; it must be a text, or a list of words")
