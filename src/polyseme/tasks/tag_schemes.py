"""Tags of words and the entities they say: BIO in both kinds, IO, BIOES, BMES, BILOU, and plain classes.

Ramshaw and Marcus 1995 (IOB1: B only between two neighbours of one type), Tjong Kim Sang and Veenstra 1999
(IOB2: B at every begin; BIO for short), Ratinov and Roth 2009 (BILOU; with other letters BIOES and BMES).
Whatever the scheme, tags are read as conlleval reads them, so that tags that break its rules say something.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from polyseme.errors import DataError

OUTSIDE = "O"
_TAG = re.compile(r"([BIESMLU])(?:[-_](.+))?")
_PLAIN_LETTERS = {"M": "I", "L": "E", "U": "S"}


class Span(NamedTuple):
    """The words from `start` to before `stop` are one entity."""

    type: str
    start: int
    stop: int


class Scheme(NamedTuple):
    """The letter of a word by its place in an entity."""

    begin: str
    inside: str
    end: str
    single: str

    @property
    def letters(self) -> tuple[str, ...]:
        """Each letter once, in this order."""
        return tuple(dict.fromkeys(self))


SCHEMES: dict[str, Scheme] = {
    "bio": Scheme("B", "I", "I", "B"),
    "io": Scheme("I", "I", "I", "I"),
    "bioes": Scheme("B", "I", "E", "S"),
    "bmes": Scheme("B", "M", "E", "S"),
    "bilou": Scheme("B", "I", "L", "U"),
    "plain": Scheme("", "", "", ""),
}
"""By name. `plain`: a tag is the type of its word alone, as parts of speech are."""


@cache
def split_tag(tag: str) -> tuple[str, str]:
    """Letter, in BIOES, and type of a tag: "M-PER" gives "I" and "PER"; the letter O where it is outside.

    A tag of no scheme is a class of its own: a single word of that type.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    found = _TAG.fullmatch(tag)
    if found is None:
        return "S", tag
    return _PLAIN_LETTERS.get(found[1], found[1]), found[2] or ""


def spans(tags: Iterable[str]) -> list[Span]:
    """The entities, as conlleval finds them: a change of type ends one, and I or E alone begins one.

    >>> spans(["O", "I-PER", "I-PER", "B-PER", "I-LOC"])
    [Span(type='PER', start=1, stop=3), Span(type='PER', start=3, stop=4), Span(type='LOC', start=4, stop=5)]
    """
    found: list[Span] = []
    start, before, place = 0, (OUTSIDE, ""), -1
    for place, tag in enumerate(tags):
        letter, kind = split_tag(tag)
        goes_on = letter in "IE" and before[0] in "BI" and kind == before[1]
        if not goes_on:
            if before[0] != OUTSIDE:
                found.append(Span(before[1], start, place))
            start = place
        before = letter, kind
    if before[0] != OUTSIDE:
        found.append(Span(before[1], start, place + 1))
    return found


def tags_of(entities: Iterable[Span], length: int, scheme: str) -> list[str]:
    """The tag of each of `length` words; of entities that overlap the first one keeps the words."""
    letters = SCHEMES[scheme]
    tags = [OUTSIDE] * length
    for kind, start, stop in entities:
        if any(tag != OUTSIDE for tag in tags[start:stop]):
            continue
        for place in range(start, stop):
            letter = letters.begin if place == start else letters.inside
            if place == stop - 1:
                letter = letters.single if place == start else letters.end
            tags[place] = joined(letter, kind)
    return tags


def joined(letter: str, kind: str) -> str:
    """The tag of a letter and a type, of which one may be empty."""
    return f"{letter}-{kind}" if letter and kind else letter or kind


def all_tags(types: Iterable[str], scheme: str) -> tuple[str, ...]:
    """O, and every tag that the types can have: those of one type beside each other."""
    return OUTSIDE, *(joined(letter, kind) for kind in types for letter in SCHEMES[scheme].letters)


def scheme_of(tags: Iterable[str]) -> str:
    """The scheme that the tags of a file or of a model belong to, by their letters; IOB1 counts as `bio`.

    >>> scheme_of(["O", "B-NAME", "M-NAME", "E-NAME"])
    'bmes'
    """
    found = [_TAG.fullmatch(tag) for tag in set(tags) - {OUTSIDE}]
    letters = {match[1] for match in found if match}
    if not all(found):
        return "plain"
    return next((name for mark, name in _MARKS if not letters.isdisjoint(mark)), "bio")


def refuse_mixed(tags: Collection[str]) -> None:
    """Refuse tags of which it is not clear how they say entities: types alone beside O, or a foreign scheme.

    >>> refuse_mixed({"O", "B-PER", "I-PER"})
    >>> refuse_mixed({"NN", "VV"})
    """
    inside = sorted(set(tags) - {OUTSIDE})
    foreign = [tag for tag in inside if not _TAG.fullmatch(tag)]
    classes = len(foreign) == len(inside) and OUTSIDE not in tags
    if not foreign or (classes and not any(_OTHER_SCHEME.fullmatch(tag) for tag in foreign)):
        return
    shown = ", ".join(foreign[:5])
    if len(foreign) < len(inside):
        known = next(tag for tag in inside if tag not in foreign)
        what = f"some tags are of a scheme, such as {known}, and others are not, such as {shown}"
    elif all(_OTHER_SCHEME.fullmatch(tag) for tag in foreign):
        what = f"the tags {shown} are of no scheme that is read; write B-TYPE, I-TYPE and O"
    else:
        what = f"beside O stand types without B- or I-: {shown}"
    raise DataError(
        f"{what}: say --scheme io if neighbours of one type are one entity, or --scheme plain if each word "
        "is of a class of its own; name another column with --label-column"
    )


_OTHER_SCHEME = re.compile(r".+[-_:](?:[BIESMLU]|begin|inside|end)|[BIESMLU][:/].+|[biesmlu]-[A-Za-z]\w*")
"""Tags of schemes that are written otherwise: PER-B, B:PER, b-per."""
_MARKS = (("M", "bmes"), ("LU", "bilou"), ("ES", "bioes"), ("B", "bio"), ("I", "io"))
"""The letters that only one scheme has, given that no earlier one was met."""


class Allowed(NamedTuple):
    """What a scheme lets stand where."""

    first: list[bool]
    between: list[list[bool]]
    """`[from][to]`"""
    last: list[bool]


def allowed(tags: Sequence[str], scheme: str) -> Allowed:
    """Which of the `tags` may begin a sentence, follow each other, and end it."""
    letters = SCHEMES[scheme]
    closes = letters.end != letters.inside
    parts = [split_tag(tag) for tag in tags]
    begins = [letter not in "IE" or letters.begin == letters.inside for letter, _ in parts]
    done = [not (closes and letter in "BI") for letter, _ in parts]
    between = [
        [
            (may_begin and is_done) or (after[0] in "IE" and before[0] in "BI" and after[1] == before[1])
            for after, may_begin in zip(parts, begins, strict=True)
        ]
        for before, is_done in zip(parts, done, strict=True)
    ]
    return Allowed(begins, between, done)
