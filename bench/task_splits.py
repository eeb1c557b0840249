"""Training, dev and test files of the tasks' data, where the published ones do not suffice.

A test file is never trained or tuned on. Where a data set has no training file, its dev file is trained on
but for a fixed tenth, which is dev; where the test has no labels, dev is the test and a fixed tenth of train
is dev; a single file gives a tenth to dev and a tenth to the test. Larger files are thinned evenly, in units
that belong together: lines, sentences of tagged words, passages with their questions.
"""

import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

DEV, TEST = 3, 8
"""Of every ten units, which one is dev, and which one is the test where a single file is all there is."""


class Cut(NamedTuple):
    """How a file comes apart, and how some of its parts make a file again."""

    apart: Callable[[str], tuple[Any, list[Any]]]
    together: Callable[[Any, Sequence[Any]], str]


def _lines(text: str) -> tuple[str, list[str]]:
    return "", text.splitlines(keepends=True)


def _rows(text: str) -> tuple[str, list[str]]:
    header, *rows = text.splitlines(keepends=True)
    return header, rows


def _blocks(text: str) -> tuple[str, list[str]]:
    return "", [block.strip("\n") + "\n\n" for block in text.split("\n\n") if block.strip()]


def _joined(head: str, units: Sequence[str]) -> str:
    return head + "".join(units)


def _passages(text: str) -> tuple[dict[str, Any], list[Any]]:
    content = json.loads(text)
    return content, [
        article | {"paragraphs": [paragraph]}
        for article in content["data"]
        for paragraph in article["paragraphs"]
    ]


def _with_passages(content: dict[str, Any], units: Sequence[Any]) -> str:
    return json.dumps(content | {"data": list(units)}, ensure_ascii=False)


def _entries(text: str) -> tuple[None, list[Any]]:
    return None, json.loads(text)


def _list(head: None, units: Sequence[Any]) -> str:
    return json.dumps(list(units), ensure_ascii=False)


CUTS = {
    "lines": Cut(_lines, _joined),
    "rows": Cut(_rows, _joined),
    "blocks": Cut(_blocks, _joined),
    "passages": Cut(_passages, _with_passages),
    "entries": Cut(_entries, _list),
}
"""By the unit of a file: lines, lines below a header, blocks between blank lines, passages of SQuAD's layout,
entries of a list in JSON."""


def read(path: Path) -> str:
    """The text of a file, compressed or not; what is not UTF-8 is Latin-1, as the data's README says."""
    content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def without(path: Path, cut: str, *places: int) -> tuple[Any, list[Any]]:
    """The units but those at these places of every ten."""
    head, units = CUTS[cut].apart(read(path))
    return head, [unit for number, unit in enumerate(units) if number % 10 not in places]


def only(path: Path, cut: str, place: int) -> tuple[Any, list[Any]]:
    """The units at this place of every ten."""
    head, units = CUTS[cut].apart(read(path))
    return head, units[place::10]


def write(path: Path, cut: str, part: tuple[Any, list[Any]], *, most: int | None) -> int:
    """A file of the units, evenly thinned to `most`; their number."""
    head, units = part
    if most is not None and len(units) > most:
        units = [units[number * len(units) // most] for number in range(most)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CUTS[cut].together(head, units), encoding="utf-8")
    return len(units)
