"""What may be made alike before a text is cut: each step by choice.

Every step looks first whether there is anything to do, since most lines need nothing.
"""

import functools
import hashlib
import re
import unicodedata
from array import array
from collections.abc import Callable

from polyseme.errors import MissingExtra
from polyseme.records import Record


class NormalisingSettings(Record, frozen=True, kw_only=True):
    """What is made alike in the text."""

    nfkc: bool = False
    """Unicode's NFKC: one form for every character that has several, full width and ligatures among them;
    Chinese punctuation of full width becomes ASCII too."""

    control: bool = True
    """Leave out control characters, marks of writing direction and blanks of no width; other line and
    paragraph separators become blanks."""

    full_width: bool = False
    """Letters, digits, blanks and signs of full width become ASCII; Chinese punctuation stays."""

    simplified: bool = False
    """Turn traditional Chinese into simplified, with opencc."""

    drop_repeated_lines: bool = False
    """Leave out every line that occurred before, character for character."""

    drop_repeated_documents: bool = False
    """Leave out every document that occurred before, character for character."""


def normaliser(settings: NormalisingSettings) -> Callable[[str], str]:
    """The function that applies the chosen steps to a line or a text; it can be pickled."""
    return _Normaliser(settings)


class _Normaliser:
    def __init__(self, settings: NormalisingSettings) -> None:
        chosen = (
            ("control", without_control),
            ("nfkc", nfkc),
            ("full_width", half_width),
            ("simplified", simplified),
        )
        self._steps = [step for name, step in chosen if getattr(settings, name)]

    def __call__(self, text: str) -> str:
        for step in self._steps:
            text = step(text)
        return text


# Tab and newline part words and lines, and the two joiners belong to scripts and emoji: they stay.
_CONTROL_CLASS = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb"
)
_SEPARATOR_CLASS = "\x0b\x0c\r\x85\u2028\u2029"
_CONTROL = re.compile(f"[{_CONTROL_CLASS}]+")
_SEPARATORS = re.compile(f"[{_SEPARATOR_CLASS}]+")
_UNWANTED = re.compile(f"[{_CONTROL_CLASS}{_SEPARATOR_CLASS}]")


def without_control(text: str) -> str:
    """The text without control characters; separators other than tab and newline become a blank."""
    if text.isprintable() or not _UNWANTED.search(text):
        return text
    return _SEPARATORS.sub(" ", _CONTROL.sub("", text))


# The changes that Chinese text is full of, made first: what is left mostly passes Unicode's quick check.
_FREQUENT = [(wide, unicodedata.normalize("NFKC", wide)) for wide in "，：；！？（）～％…\u3000"]


def nfkc(text: str) -> str:
    """The text in Unicode's normal form KC."""
    for wide, normal in _FREQUENT:
        text = text.replace(wide, normal)
    return unicodedata.normalize("NFKC", text)


_CHINESE_PUNCTUATION = "！（），：；？～"
_WIDE = {
    code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in _CHINESE_PUNCTUATION
} | {0x3000: " "}
_WIDE_CLASS = re.compile(f"[{''.join(map(chr, _WIDE))}]")


def half_width(text: str) -> str:
    """The text with full-width letters, digits, signs and blanks in ASCII; ！（），：；？～ stay Chinese."""
    return text.translate(_WIDE) if _WIDE_CLASS.search(text) else text


def simplified(text: str) -> str:
    """The text in simplified characters: opencc's `t2s`, which knows where a character stays (乾坤)."""
    return text if text.isascii() else _converter()(text)


@functools.cache
def _converter() -> Callable[[str], str]:
    try:
        from opencc import OpenCC
    except ImportError as error:
        raise MissingExtra("opencc", extra="chinese") from error
    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


class Repeats:
    """Remembers texts by digests of eight bytes, 12 to 24 bytes of memory each.

    Two of a hundred million different texts are taken for one another with a chance of 3 in 10,000.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 << 16))
        self._used = 0

    def seen(self, text: str) -> bool:
        """Whether `text` was asked for before; it is from now on."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if not self._add(int.from_bytes(digest, "little") or 1):  # Zero marks an empty slot.
            return True
        if 3 * self._used > 2 * len(self._slots):
            self._grow()
        return False

    def _add(self, key: int) -> bool:
        slots, last = self._slots, len(self._slots) - 1
        slot = key & last
        while slots[slot]:
            if slots[slot] == key:
                return False
            slot = (slot + 1) & last
        slots[slot] = key
        self._used += 1
        return True

    def _grow(self) -> None:
        keys = self._slots
        self._slots = array("Q", bytes(16 * len(keys)))
        self._used = 0
        for key in filter(None, keys):
            self._add(key)
