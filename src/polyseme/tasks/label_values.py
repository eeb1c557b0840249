"""Labels as files have them: those that stand for none, and whole numbers that became 1.0."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from polyseme import progress
from polyseme.errors import DataError

_WHOLE = re.compile(r"([+-]?\d+)\.0+")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def whole(label: str) -> str:
    """A whole number without its decimals; anything else as it is.

    >>> whole("1.0"), whole("1.5"), whole("a")
    ('1', '1.5', 'a')
    """
    found = _WHOLE.fullmatch(label)
    return label if found is None else found[1].removeprefix("+")


def merged_numbers(labels: Collection[str]) -> set[str]:
    """The labels, of which those that are one number are one: pandas writes 1.0 where a column has gaps.

    Where all are whole numbers they are written so; a change is said.
    """
    if not all(_NUMBER.fullmatch(label) for label in labels):
        return set(labels)
    all_whole = all(_NUMBER.fullmatch(whole(label)) and "." not in whole(label) for label in labels)
    spelt = {label: whole(label) for label in labels}
    repeated = {name for name, count in Counter(spelt.values()).items() if count > 1}
    merged = {spelt[label] if all_whole or spelt[label] in repeated else label for label in labels}
    if merged != set(labels):
        shown = ", ".join(sorted(label for label in labels if label not in merged)[:5])
        progress.say(f"labels that are whole numbers are read without decimals: {shown}")
    return merged


def known_label(label: str, known: Collection[str]) -> str:
    """The label as it is spelt among the known ones: 1.0 is 1."""
    if label in known:
        return label
    number = whole(label)
    return next((name for name in known if whole(name) == number), label)


def refuse_doubtful(labels: Mapping[str, int], skip_label: str | None) -> None:
    """Refuse a label that probably stands for none, unless the user has decided; `labels` has the counts."""
    doubtful = doubtful_label(labels) if skip_label is None else None
    if doubtful is not None:
        others = ", ".join(repr(label) for label in sorted(labels) if label != doubtful)
        raise DataError(
            f"the label {doubtful!r} of {labels[doubtful]:,} examples, beside {others[:60]}, usually means "
            f"that there is no label: skip these examples with --skip-label {doubtful}, or keep them as a "
            "class of their own with --skip-label none"
        )


def doubtful_label(labels: Collection[str]) -> str | None:
    """The label that probably stands for none: -, or -1 where the others are no scale around 0.

    >>> doubtful_label({"0", "1", "-1"}), doubtful_label({"1", "-1"}), doubtful_label({"-2", "-1", "0"})
    ('-1', None, None)
    """
    if len(labels) > 1 and "-" in labels:
        return "-"
    minus_one = next((label for label in labels if whole(label) == "-1"), None)
    others = {whole(label) for label in labels} - {"-1"}
    if minus_one is None or not others or others == {"1"} or any(label[:1] == "-" for label in others):
        return None
    return minus_one


def is_skipped(skip_label: str | None, marks: Iterable[Any]) -> bool:
    """Whether one of the marks of an example is the label to leave out."""
    if skip_label in (None, "none"):
        return False
    return any(whole(str(mark).strip()) == whole(str(skip_label)) for mark in marks)


def say_skipped(path: Path, skip_label: str | None, count: int) -> None:
    """Say how many examples of a file were left out for their label."""
    if count:
        progress.say(f"{path}: {count:,} examples with the label {skip_label!r} were left out")
