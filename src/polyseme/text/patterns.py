"""Regular expressions that a `tokenizer.json` brings, accepted only where matching takes linear time.

The `tokenizers` library matches by backtracking, so that `(a+)+$` takes exponential and `a+b` quadratic time
on a text made for it. A text cannot be matched under a time limit inside the library; a pattern can be judged
before it is used. Accepted are the patterns of published models, word for word, and those whose every branch
has at most one repetition without a bound, of a single character or class, at its very end: whatever such a
repetition reads belongs to the match, and is read once.
"""

from math import prod

_ENDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_BLANKS = r"\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

PUBLISHED = frozenset(
    {
        # GPT-2, RoBERTa
        rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{_BLANKS}",
        # cl100k_base, Llama 3
        rf"{_ENDS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|\s*[\r\n]+|{_BLANKS}",
        rf"{_ENDS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|\s*[\r\n]|{_BLANKS}",
        # Qwen 2, Qwen 3.5
        rf"{_ENDS}|{_WORDS}|\p{{N}}|{_SIGNS}|\s*[\r\n]+|{_BLANKS}",
        rf"{_ENDS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_BLANKS}",
        # o200k_base
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDS}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|{_BLANKS}",
        # BLOOM
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
    }
)
"""The cuts of published models; a test measures that none of them takes more than linear time."""

_MOST_CHARACTERS, _MOST_BRANCHES, _MOST_DIVISIONS = 1000, 100, 1000
_UNBOUNDED = 0


class Unbounded(ValueError):
    """A pattern whose time is not known to be linear in the text; the message says why."""


def check_pattern(pattern: str) -> None:
    """Raises `Unbounded` for a pattern that is neither published nor of the linear kind."""
    if pattern not in PUBLISHED:
        _Checker(pattern).check()


class _Checker:
    def __init__(self, pattern: str) -> None:
        if not pattern:
            raise Unbounded("it is empty")
        if len(pattern) > _MOST_CHARACTERS:
            raise Unbounded(f"it has {len(pattern)} characters, more than {_MOST_CHARACTERS}")
        self._pattern, self._at, self._branches = pattern, 0, 0

    def check(self) -> None:
        self._alternatives(inside=False)
        if self._at < len(self._pattern):
            raise Unbounded("a parenthesis is closed that was not opened")

    def _alternatives(self, *, inside: bool) -> int:
        """Reads branches to the end or the closing parenthesis: in how many ways the widest may match."""
        divisions = [self._branch(inside=inside)]
        while self._peek() == "|":
            self._at += 1
            divisions.append(self._branch(inside=inside))
        self._branches += len(divisions)
        if self._branches > _MOST_BRANCHES:
            raise Unbounded(f"it has more than {_MOST_BRANCHES} branches")
        return sum(divisions)

    def _branch(self, *, inside: bool) -> int:
        divisions, ended = [1], False
        while (character := self._peek()) and character not in "|)":
            if ended:
                raise Unbounded("something follows a repetition without a bound")
            group = self._item()
            counts = self._counts()
            if counts == (_UNBOUNDED, _UNBOUNDED):
                if group > 1 or inside:
                    raise Unbounded("a repetition without a bound stands in or behind a group")
                ended = True
            elif counts != (1, 1):
                if group > 1 and counts != (0, 1):
                    raise Unbounded("a group with alternatives is repeated")
                divisions.append(counts[1] - counts[0] + 1)
            divisions.append(max(group, 1))
            if prod(divisions) > _MOST_DIVISIONS:
                raise Unbounded(f"it may match in more than {_MOST_DIVISIONS} ways at one place")
        return prod(divisions)

    def _item(self) -> int:
        """Reads one character, class or group; returns in how many ways it may match."""
        character = self._next()
        if character == "\\":
            self._escape()
        elif character == "[":
            self._class()
        elif character == "(":
            return self._group()
        elif character in "*+?{":
            raise Unbounded(f"{character!r} repeats nothing")
        return 1

    def _group(self) -> int:
        if self._peek() == "?":
            begin = next(
                (begin for begin in ("?:", "?i:", "?!", "?=") if self._pattern.startswith(begin, self._at)),
                None,
            )
            if begin is None:
                raise Unbounded("of groups that begin with (? only (?:, (?i:, (?! and (?= are judged")
            self._at += len(begin)
        divisions = self._alternatives(inside=True)
        if self._next() != ")":
            raise Unbounded("a parenthesis is not closed")
        return max(divisions, 2)

    def _class(self) -> None:
        if self._peek() == "^":
            self._at += 1
        first = True
        while (character := self._next()) != "]" or first:
            if character == "\\":
                self._escape()
            elif character == "[" and self._peek() != ":":
                self._class()
            first = False

    def _escape(self) -> None:
        character = self._next()
        if character in "pPxu" and self._peek() == "{":
            self._at = self._pattern.find("}", self._at) + 1
            if not self._at:
                raise Unbounded("a brace is not closed")
        elif character.isdigit() or character in "kgKGXRyY":
            raise Unbounded(
                f"\\{character} refers to another part of the pattern or reads several characters"
            )

    def _counts(self) -> tuple[int, int]:
        """The least and most repetitions of what was read; both 0 where there is no bound."""
        character, counts = self._peek(), (1, 1)
        if character in ("*", "+", "?"):
            self._at += 1
            counts = (0, 1) if character == "?" else (_UNBOUNDED, _UNBOUNDED)
        elif character == "{":
            end = self._pattern.find("}", self._at)
            least, comma, most = self._pattern[self._at + 1 : max(end, self._at + 1)].partition(",")
            if not all(part.isascii() and part.isdigit() for part in (least or "0", most or "0")) or end < 0:
                raise Unbounded("a brace opens no number of repetitions")
            if max(len(least), len(most)) > 3:
                raise Unbounded("it repeats something more than 999 times")
            self._at = end + 1
            counts = (int(least or 0), int(most or 0) if comma else int(least or 0))
            counts = (_UNBOUNDED, _UNBOUNDED) if comma and not most else counts
            if counts != (_UNBOUNDED, _UNBOUNDED) and counts[0] > counts[1]:
                raise Unbounded("a number of repetitions runs backwards")
        if counts != (1, 1) and self._peek() in ("*", "+", "?", "{"):
            raise Unbounded("a repetition is repeated")
        return counts

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self) -> str:
        character = self._peek()
        if not character:
            raise Unbounded("it ends in the middle")
        self._at += 1
        return character
