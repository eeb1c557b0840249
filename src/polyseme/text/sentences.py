"""Sentences of Chinese and English text, as character ranges.

One regular expression finds the marks that may end a sentence, so a whole chunk of lines is cut in one call;
the end of a line always ends a sentence.
"""

import re

import numpy as np
import numpy.typing as npt

_MARKS = "。｡！？…!?."
_QUOTES = "\"'”’」』"
_BRACKETS = r")）\]】〕》〉}｝"
# A sentence goes on at these, whatever stands before them: “好！”，他说。
_GOES_ON = rf"，、；：,;:～~{_QUOTES}{_BRACKETS}"
_BLANKS = r"[^\S\n]*+"

# After the marks, quotes that close belong to the sentence. A bracket that closes ends it only where a blank
# or an opening quote follows: （真的吗？）然后 goes on.
_CLOSED = rf"[{_MARKS}]*+(?:[{_QUOTES}]*+(?![{_GOES_ON}])|[{_QUOTES}{_BRACKETS}]*+(?=\s|\Z|[“‘「『]))"

# The first character is one class, which lets the engine skip quickly to the next candidate. Only the first
# of several marks is one, so that a long row of them is read once and not from each of them. Where all are
# ASCII, the rules are the strictest; one mark of full width, or one …, in the row makes them milder.
_END = re.compile(
    rf"""[{_MARKS}\n] (?<![{_MARKS}][{_MARKS}])
    (?: (?<=\n)
      | (?:(?<=[。｡！？]) | [!?.…]*+[。｡！？]) {_CLOSED}
      | (?:(?<=…) | [!?.]*+…) {_CLOSED} (?!{_BLANKS}[a-z])
      | (?<=[!?.]) {_CLOSED} (?=\s|\Z|[^\x00-\x7f]) (?!{_BLANKS}[a-z])
    )
    (\s*+)""",
    re.VERBOSE,
)

# Words whose full stop never ends a sentence; then those where it does not before a number.
_TITLES = (
    "Mr Mrs Ms Messrs Mme Mlle Dr Prof Rev Hon Gen Col Capt Cmdr Lt Maj Sgt Sen Rep Gov Pres St Mt Ft "
    "vs cf ca al viz approx e.g i.e E.g I.e"
)
_NUMBERED = (
    "No Nos no nos p pp Vol vol Fig fig Figs figs Eq eq Eqs eqs Ref ref Refs refs Sec sec Ch ch Art art "
    "Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec"
)
# After an initial or a row of them (U.S., p.m.) only these begin a new sentence: names follow otherwise.
_FIRST_WORDS = (
    "The A An It He She We They You I This That These Those There In On At By For From If As But And "
    "So When While After Before However His Her Its Their Our My"
)
_NEVER_LAST = frozenset(_TITLES.split())
_BEFORE_NUMBERS = frozenset(_NUMBERED.split())
_BEGINNERS = frozenset(_FIRST_WORDS.split())
_INITIALS = re.compile(r"(?:[A-Za-z]\.)*[A-Za-z]")
_NUMBER = re.compile(r"\d{1,3}|[A-Za-z]|[ivxIVX]{1,5}")
_NEXT_WORD = re.compile(r"\w+")
_LONGEST_ABBREVIATION = 12


def sentences(text: str) -> list[tuple[int, int]]:
    """The sentences as ranges of characters, in order; only blanks lie outside them.

    Quotes and brackets that close belong to the sentence that they end; abbreviations, initials, decimals
    and numbers of list items do not end one.

    >>> [text[a:b] for text in ["“走吧！”他说。Dr. Li left at 3.5 p.m. today."] for a, b in sentences(text)]
    ['“走吧！”', '他说。', 'Dr. Li left at 3.5 p.m. today.']
    """
    ranges: list[tuple[int, int]] = []
    start = len(text) - len(text.lstrip())
    quotes = _QuoteParity(text)
    for match in _END.finditer(text):
        mark, end, after = match.start(), match.start(1), match.end()
        first = text[mark]
        if first == "\n":
            end = mark
        elif first == "." and end == mark + 1 and _stays_open(text, start, mark, after):
            continue
        elif end == after and text[end - 1] == '"' and quotes.opens(end - 1):
            end = after = end - 1
        if end > start:
            if text[end - 1].isspace():
                end = start + len(text[start:end].rstrip())
            ranges.append((start, end))
        start = after
    if rest := text[start:].rstrip():
        ranges.append((start, start + len(rest)))
    return ranges


def sentence_starts(text: str) -> npt.NDArray[np.int64]:
    """The character offsets at which the sentences of `text` start."""
    return np.fromiter((start for start, _ in sentences(text)), dtype=np.int64)


def _stays_open(text: str, start: int, mark: int, after: int) -> bool:
    """Whether the full stop at `mark` belongs to an abbreviation, an initial or a list item's number."""
    if "\n" in text[mark:after] or after == len(text):
        return False
    words = text[max(start, mark - _LONGEST_ABBREVIATION) : mark].split()
    if not words:
        return False
    last = words[-1].lstrip("(（[“‘\"'")
    if last in _NEVER_LAST:
        return True
    if last in _BEFORE_NUMBERS:
        return text[after].isdecimal()
    if mark - start <= 5 and _NUMBER.fullmatch(text, start, mark):
        return True
    if _INITIALS.fullmatch(last) and last != "I":
        word = _NEXT_WORD.match(text, after)
        return word is not None and word.group() not in _BEGINNERS
    return False


class _QuoteParity:
    """Whether a straight quotation mark opens: it does after an even number of them in its line.

    Counts on from the last question, so a text is read once in all.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._counted = 0
        self._open = False

    def opens(self, position: int) -> bool:
        line = self._text.rfind("\n", self._counted, position)
        if line >= 0:
            self._counted, self._open = line + 1, False
        self._open ^= self._text.count('"', self._counted, position) % 2 == 1
        self._counted = position
        return not self._open
