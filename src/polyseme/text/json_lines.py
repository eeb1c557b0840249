"""A line of JSON to its value, where half a character may be mended."""

import re
from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec

T = TypeVar("T")

_HIGH, _LOW = "u[dD][89abAB][0-9a-fA-F]{2}", "u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPES = re.compile(rf"\\(?:(?:{_HIGH}\\{_LOW})|(?P<half>{_HIGH}|{_LOW})|.)", re.DOTALL)


def decode_line(line: str, decode: Callable[[str], T], *, errors: Literal["strict", "replace"]) -> T:
    """What `decode` makes of the line; with errors "replace", � stands where a surrogate lacks its partner.

    Programs that count in UTF-16 cut texts between the two escapes of one character, and no Unicode string
    can hold what is left. Raises msgspec's `DecodeError`, also where the value is nested too deeply.
    """
    try:
        try:
            return decode(line)
        except (msgspec.DecodeError, UnicodeError):
            if errors == "strict" or not has_half_character(line):
                raise
            return decode(_ESCAPES.sub(_mended, line))
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error
    except UnicodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def has_half_character(line: str) -> bool:
    """Whether the line has an escaped surrogate that lacks its partner."""
    return any(escape["half"] for escape in _ESCAPES.finditer(line))


def why_not(line: str, error: Exception) -> str:
    """What is wrong with a line that is not JSON, for the end of a message."""
    if has_half_character(line):
        return "it has half of a surrogate pair; put � in its place with --errors replace"
    return str(error)


def _mended(escape: re.Match[str]) -> str:
    return "\\ufffd" if escape["half"] else escape[0]
