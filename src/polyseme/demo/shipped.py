"""The text that ships: three corpora, sentences with chosen words, lines of poems with their sentiment."""

import lzma
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, TypeVar

from polyseme.files import write_whole

T = TypeVar("T")

FOLDER = Path(str(files("polyseme") / "demo" / "text"))
CORPORA = {"tech": "computing", "law": "law", "poetry": "classical poetry"}
DOMAINS = ("tech", "law")
"""Whose sentences are compared, in the order of the colours."""
PARTS = ("train", "dev", "test")
"""Of the lines of poems; each line has a sentiment from 1 (negative) to 5 (positive)."""


class Context(NamedTuple):
    """A sentence that holds a word exactly once; its document is in none of the corpora."""

    domain: str
    word: str
    sentence: str

    @property
    def place(self) -> tuple[int, int]:
        """Where the word stands, in characters."""
        begin = self.sentence.index(self.word)
        return begin, begin + len(self.word)


def corpora(folder: Path, *, share: float) -> list[Path]:
    """The files to learn from: those that ship, or their first documents written to `folder`."""
    if share == 1:
        return [FOLDER / f"{name}.txt.xz" for name in CORPORA]
    paths = []
    for name in CORPORA:
        documents = _read(f"{name}.txt.xz").split("\n\n")
        paths.append(folder / f"{name}.txt")
        write_whole(paths[-1], "\n\n".join(first(documents, share)) + "\n")
    return paths


def poems(folder: Path, *, share: float) -> dict[str, Path]:
    """The lines to train on, to choose by and to test on, or their first ones written to `folder`."""
    if share == 1:
        return {part: FOLDER / f"poems_{part}.tsv.xz" for part in PARTS}
    paths = {}
    for part in PARTS:
        lines = _read(f"poems_{part}.tsv.xz").splitlines()
        paths[part] = folder / f"poems_{part}.tsv"
        write_whole(paths[part], "\n".join([lines[0], *first(lines[1:], share, least=200)]) + "\n")
    return paths


def contexts(words: Sequence[str], *, share: float) -> list[Context]:
    """The sentences of these words, as many of both domains for each word."""
    rows = [Context(*line.split("\t")) for line in _read("contexts.tsv.xz").splitlines()[1:]]
    chosen = []
    for word in words:
        of_domains = [[row for row in rows if row[:2] == (domain, word)] for domain in DOMAINS]
        count = min(map(len, of_domains))
        chosen += [row for of_domain in of_domains for row in first(of_domain[:count], share, least=3)]
    return chosen


def first(items: Sequence[T], share: float, *, least: int = 1) -> Sequence[T]:
    """The first `share` of the items, at least `least`."""
    return items[: max(least, round(share * len(items)))]


def size(path: Path) -> int:
    """Bytes of a text once it is unpacked."""
    if path.suffix != ".xz":
        return path.stat().st_size
    with lzma.open(path, "rb") as file:
        return file.seek(0, 2)


def _read(name: str) -> str:
    with lzma.open(FOLDER / name, "rt", encoding="utf-8") as file:
        return file.read()
