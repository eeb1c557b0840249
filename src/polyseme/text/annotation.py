"""Phrases and entities written into the text: `{{phrase}}` and `[[entity]]`.

The two pairs may hold and overlap one another, but not themselves; a pair lies inside one line. There is no
escape: text that has such brackets of its own is marked by a list or by statistics instead.
"""

import re
from typing import NamedTuple

from polyseme.errors import DataError

Spans = list[tuple[int, int]]

_BRACKETS = re.compile(r"\[\[|\]\]|\{\{|\}\}")
_OPENS = {"[[": "]]", "{{": "}}"}
_CLOSES = {close: open for open, close in _OPENS.items()}


class Annotated(NamedTuple):
    """A line without its brackets, and what stood between them, by characters of that line."""

    text: str
    phrases: Spans
    entities: Spans


def without_markup(line: str) -> Annotated:
    """The line without its brackets; a `DataError` quotes the place where they do not match."""
    found: dict[str, Spans] = {"[[": [], "{{": []}
    begun: dict[str, int] = {}
    pieces: list[str] = []
    length = at = 0
    for bracket in _BRACKETS.finditer(line):
        pieces.append(line[at : bracket.start()])
        length += bracket.start() - at
        at = bracket.end()
        sign = bracket[0]
        if sign in _OPENS:
            if sign in begun:
                raise DataError(_mismatch(line, bracket.start(), f"{sign} stands inside another {sign}"))
            begun[sign] = length
        elif _CLOSES[sign] in begun:
            begin = begun.pop(_CLOSES[sign])
            if begin < length:
                found[_CLOSES[sign]].append((begin, length))
        else:
            raise DataError(_mismatch(line, bracket.start(), f"{sign} closes nothing"))
    if begun:
        sign = min(begun, key=lambda name: begun[name])
        raise DataError(_mismatch(line, line.rfind(sign), f"{sign} is not closed on its line"))
    return Annotated("".join([*pieces, line[at:]]), found["{{"], found["[["])


def _mismatch(line: str, place: int, what: str) -> str:
    return (
        f"the markup does not match: {what} in {line[max(0, place - 10) : place + 20]!r}; "
        "mend it, or prepare without markup"
    )


def lines_without_markup(lines: list[str]) -> Annotated:
    """The lines joined by line feeds, and what stood between brackets by characters of all of it."""
    texts: list[str] = []
    phrases: Spans = []
    entities: Spans = []
    start = 0
    for line in lines:
        text, phrases_here, entities_here = without_markup(line)
        phrases += [(begin + start, end + start) for begin, end in phrases_here]
        entities += [(begin + start, end + start) for begin, end in entities_here]
        texts.append(text)
        start += len(text) + 1
    return Annotated("\n".join(texts), phrases, entities)
