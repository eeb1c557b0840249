"""Tagged words a line: CoNLL columns, files of characters, and a file of words beside a file of tags."""

import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from polyseme.errors import DataError
from polyseme.tasks.skipping import parsed
from polyseme.tasks.tag_schemes import OUTSIDE
from polyseme.tasks.tagged_texts import TaggedText, from_words
from polyseme.tasks.tagging_settings import TaggingSettings
from polyseme.text.reading import TextSettings, read_lines

TAG = re.compile(r"O|[BIESMLU][-_]\S+|[BMES]")
CLEAR_TAG = re.compile(r"O|[BIESMLU][-_]\S+")
_WORD_AND_TAG = re.compile(r"\S+/[A-Za-z][A-Za-z0-9]{0,5}")
_BRAT = re.compile(r"[TREAMN*]\d*\t\S+ \S+.*|#\d+\t\S+ [TREAMN]\d+\t.*")
_LOOK = 1000
"""Sentences that are looked at to tell the form of a file."""
_APART = re.compile(r"[ \t]+")
_DOCUMENT = "-DOCSTART-"
_COMMENT = re.compile(r"# ?(newdoc|newpar|\S+ = )")


class _Line(NamedTuple):
    number: int
    cells: list[str]


def read_columns(path: Path, settings: TaggingSettings, *, labelled: bool) -> Iterator[TaggedText]:
    """The sentences between blank lines; the word is the first column and the tag the last, if not chosen.

    Lines of `-DOCSTART-` end a sentence, comments as in CoNLL-U are passed over. A file that looks like
    another form, or of another order of columns, is refused with what decides.
    """
    lines = enumerate(read_lines(path, plain_lines(settings)), 1)
    sentences = _sentences(lines)
    near = list(islice(sentences, _LOOK))
    if not near:
        raise DataError(f"{path} is empty; a file of examples needs at least one sentence")
    first = near[0]
    width = len(first[0].cells)
    if labelled:
        _refuse_other_forms(path, [line for sentence in near for line in sentence], settings)
    if labelled and width < 2 and settings.label_column is None:
        raise DataError(
            f"{path}, line {first[0].number}: there is no column of tags beside the words; a line is a word, "
            "blanks or a tab, and its tag"
        )

    def parse(sentence: list[_Line]) -> TaggedText:
        for line in sentence:
            if len(line.cells) != width:
                raise DataError(
                    f"{path}, line {line.number}: {len(line.cells)} columns where the first line has {width}"
                )
        word = _column(settings.text_column, "0", width, path)
        words = [line.cells[word] for line in sentence]
        tag = _column(settings.label_column, "-1", width, path)
        tags = [_read_as(line.cells[tag], settings.scheme) for line in sentence] if labelled else None
        return from_words(words, tags, where=f"{path}, line {sentence[0].number}")

    yield from parsed(chain(near, sentences), parse)


def read_parallel(path: Path, settings: TaggingSettings, *, labelled: bool) -> Iterator[TaggedText]:
    """The lines of a file of words and of its file of tags: `seq.in` and `seq.out`, or a folder with both."""
    words_file = path / "seq.in" if path.is_dir() else path
    tags_file = words_file.with_suffix(".out")
    reading = plain_lines(settings)
    words = list(read_lines(words_file, reading))
    tags = list(read_lines(tags_file, reading)) if labelled else [None] * len(words)
    if len(words) != len(tags):
        raise DataError(f"{words_file} has {len(words)} lines and {tags_file} {len(tags)}; they must agree")

    def parse(line: tuple[int, str, str | None]) -> TaggedText:
        number, said, tagged = line
        return from_words(
            said.split(), None if tagged is None else tagged.split(), where=f"{words_file}, line {number}"
        )

    numbered = ((n, *pair) for n, pair in enumerate(zip(words, tags, strict=True), 1))
    yield from parsed(numbered, parse)


def plain_lines(settings: TaggingSettings) -> TextSettings:
    """How the lines of a file are read."""
    return TextSettings(format="lines", encoding=settings.encoding, errors=settings.errors)


def cells_of(line: str) -> list[str]:
    """The columns of a line; a blank at its begin is the word itself, unless tabs part the columns."""
    if "\t" in line:
        word, *others = line.split("\t")
        return [word, *(cell.strip() for cell in others)]
    line = line.rstrip(" ") if not line[:1].isspace() else line
    if line[:1].isspace():
        return [line[0], *line[1:].split()]
    return _APART.split(line)


def _sentences(lines: Iterator[tuple[int, str]]) -> Iterator[list[_Line]]:
    sentence: list[_Line] = []
    for number, line in lines:
        ends = not line.strip() or line.startswith(_DOCUMENT)
        if ends and sentence:
            yield sentence
            sentence = []
        if ends or (not sentence and _COMMENT.match(line)):
            continue
        sentence.append(_Line(number, cells_of(line)))
    if sentence:
        yield sentence


def _refuse_other_forms(path: Path, lines: list[_Line], settings: TaggingSettings) -> None:
    """Refuse what is no word and its tag a line, and columns in an order that was not said."""
    first, cells = lines[0].number, lines[0].cells
    where = f"{path}, line {first}"
    if _BRAT.fullmatch("\t".join(cells)):
        raise DataError(
            f"{where}: a line of brat's standoff format, whose text lies in another file; write JSON lines "
            '{"text": …, "label": [[begin, end, type], …]} of both'
        )
    if all(_WORD_AND_TAG.fullmatch(cell) for line in lines[:20] for cell in line.cells if cell):
        raise DataError(
            f"{where}: {cells[0]!r} looks like word/tag; write a word, a blank and its tag a line, and a "
            "blank line between sentences"
        )
    if settings.text_column is not None or settings.label_column is not None or len(cells) < 2:
        return
    words, tags = [line.cells[0] for line in lines], [line.cells[-1] for line in lines]
    if all(map(CLEAR_TAG.fullmatch, words)) and any(word != "O" for word in words):
        raise DataError(
            f"{where}: the first column looks like tags ({words[0]}); say --text-column {len(cells) - 1} "
            "--label-column 0 if it is, or --text-column 0 --label-column -1 if these are words"
        )
    if len(words) > 1 and all(word.isdecimal() for word in words) and words[0] in ("0", "1"):
        raise DataError(
            f"{where}: the first column counts the words, as in CoNLL-U; say which columns are words and "
            "tags with --text-column and --label-column, numbers from 0"
        )
    if len(tags) > 1 and len(set(tags)) == 1 and tags[0] == "_":
        raise DataError(
            f"{where}: the last column has no tags, but _; name the column of the tags with --label-column"
        )


def _read_as(tag: str, scheme: str) -> str:
    """A tag of the file; where the scheme is said to be IO, a type alone is the inside of an entity."""
    alone = scheme == "io" and tag != OUTSIDE and not CLEAR_TAG.fullmatch(tag)
    return f"I-{tag}" if alone else tag


def _column(chosen: str | None, otherwise: str, width: int, path: Path) -> int:
    column = otherwise if chosen is None else chosen
    if not column.removeprefix("-").isdecimal() or not -width <= int(column) < width:
        raise DataError(f"{path} has no column {column!r}; its columns are 0 to {width - 1}")
    return int(column)
