"""Documents and lines from text of any source and form, streamed: memory does not grow with the text."""

import codecs
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from polyseme import progress
from polyseme.errors import DataError, SettingsError
from polyseme.text.column_names import known_as
from polyseme.text.delimited import suffix_of
from polyseme.text.encodings import decoded, split_lines, whole_lines
from polyseme.text.json_lines import decode_line, why_not
from polyseme.text.sources import Advance, expand, read_blocks, shown, size
from polyseme.text.table_texts import TextColumnSettings, table_texts
from polyseme.text.wikipedia import articles

__all__ = ["Advance", "Document", "TextSettings", "expand", "read_documents", "read_lines", "size"]

Format = Literal["auto", "plain", "lines", "pairs", "jsonl", "table", "wikipedia"]

_STRETCH = 1 << 20
_LONGEST_LINE = 1 << 22
MAX_LINE = 1 << 24
"""Characters of a line that is one text, a pair or an object; plain text may have longer lines."""


class TextSettings(TextColumnSettings, frozen=True, kw_only=True):
    """How text is read."""

    format: Format = "auto"
    """plain: a blank line between documents; lines: a document a line; pairs: two texts a line, split by a
    tab; jsonl: an object a line; table: a column of a CSV or TSV file; wikipedia: an XML dump; auto: a table
    by the suffix .csv or .tsv, jsonl and wikipedia by what the file begins with, else plain."""

    field: str = "text"
    """The field of JSON lines that holds the text: a string, or a list of strings, one a line."""

    encoding: str = "utf-8"
    """The encoding of the text, for instance gb18030; auto guesses it for each file."""

    errors: Literal["strict", "replace"] = "strict"
    """What happens to bytes that are not in the encoding, and to half characters in JSON: strict stops,
    replace puts � in their place."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_column is not None and self.format not in ("auto", "table", "jsonl"):
            raise ValueError(
                f"text_column is a column of tables and JSON lines, and format is {self.format!r}; leave one "
                "out"
            )
        if self.encoding == "auto":
            return
        try:
            "".encode(self.encoding)
        except LookupError as error:
            raise ValueError(
                f"encoding {self.encoding!r} is not known; for instance utf-8, gb18030, big5, utf-16, or auto"
            ) from error


class Document(NamedTuple):
    """Lines that belong together, none of them blank.

    A document longer than about a million characters comes in several stretches, so that it never has to be
    held whole: all but the first have `continues` set.
    """

    lines: list[str]
    side: list[str] | None = None
    """The second texts of pairs, one for each line."""
    continues: bool = False
    """Whether these lines go on the document before."""


def read_documents(
    sources: Sequence[str | Path], settings: TextSettings | None = None, *, advance: Advance | None = None
) -> Iterator[Document]:
    """The documents of all `sources` in order; the end of a file ends a document.

    `advance` is told how many bytes were read, for a progress bar over `size(sources)`. Raises `DataError`
    where a source cannot be read as asked, and where all of them together hold no text.
    """
    settings = settings or TextSettings()
    files = expand(sources)
    found = False
    for path in files:
        for document in _read_file(path, settings, advance):
            found = True
            yield document
    if not found:
        raise DataError(f"there is no text in {_listed(files)}")


def read_lines(
    source: str | Path,
    settings: TextSettings | None = None,
    *,
    advance: Advance | None = None,
    announce: bool = True,
) -> Iterator[str]:
    """One text a line, in order, empty lines kept; of JSON lines and tables the text of each object or row.

    With `announce` it is said which column of a table is read.

    Raises `DataError` where `source` cannot be read as asked or has no line at all, and for a line of more
    than `MAX_LINE` characters.
    """
    settings = settings or TextSettings()
    found = False
    for path in expand([source]):
        blocks = _sniffed(read_blocks(path, advance=advance))
        form = _form(path, next(blocks), settings)
        if form in ("pairs", "wikipedia"):
            raise SettingsError(
                f"{shown(path)}: format {form} does not have one text a line; choose lines or jsonl"
            )
        texts: Iterator[str] = _all_lines(blocks, path, settings)
        if form == "jsonl":
            texts = map("\n".join, _json_texts(texts, path, settings, announce=announce))
        if form == "table":
            texts = table_texts(texts, path, settings, announce=announce)
        for text in texts:
            found = True
            yield text
    if not found:
        raise DataError(f"there is no text in {shown(Path(source))}")


def _listed(files: list[Path]) -> str:
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    return f"{shown(files[0])}{more}"


def _read_file(path: Path, settings: TextSettings, advance: Advance | None) -> Iterator[Document]:
    blocks = _sniffed(read_blocks(path, advance=advance))
    form = _form(path, next(blocks), settings)
    return _READERS[form](blocks, path, settings)


def _sniffed(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The first block, to look at, then all blocks, the first again."""
    first = next(blocks, b"")
    yield first
    yield first
    yield from blocks


def _form(path: Path, head: bytes, settings: TextSettings) -> str:
    if settings.format != "auto":
        return settings.format
    if suffix_of(path) in (".csv", ".tsv"):
        return "table"
    head = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if head.startswith(b"<mediawiki"):
        return "wikipedia"
    if {".jsonl", ".ndjson"} & set(path.suffixes):
        return "jsonl"
    if suffix_of(path) == ".json" and head.startswith(b"["):
        raise DataError(
            f"{shown(path)} is one list of JSON; write one object a line, or say --format plain to read it "
            "as text"
        )
    if suffix_of(path) == ".json" and head.startswith(b"{"):
        return "jsonl"
    if head.startswith(b"{"):
        try:
            msgspec.json.decode(head.split(b"\n", 1)[0], type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return "plain"
        return "jsonl"
    return "plain" if settings.text_column is None else "table"


def _plain(blocks: Iterator[bytes], path: Path, settings: TextSettings) -> Iterator[Document]:
    texts = decoded(blocks, name=shown(path), encoding=settings.encoding, errors=settings.errors)
    return _grouped(itertools.chain.from_iterable(split_lines(texts, longest=_LONGEST_LINE)))


def _grouped(lines: Iterable[str]) -> Iterator[Document]:
    """Documents of the lines between blank ones, in stretches."""
    held: list[str] = []
    characters, continues = 0, False
    for line in lines:
        if line and not line.isspace():
            held.append(line)
            characters += len(line)
            if characters < _STRETCH:
                continue
            yield Document(held, None, continues)
            held, characters, continues = [], 0, True
        else:
            if held:
                yield Document(held, None, continues)
            held, characters, continues = [], 0, False
    if held:
        yield Document(held, None, continues)


def _single_lines(blocks: Iterator[bytes], path: Path, settings: TextSettings) -> Iterator[Document]:
    for line in _all_lines(blocks, path, settings):
        if line and not line.isspace():
            yield Document([line])


def _pairs(blocks: Iterator[bytes], path: Path, settings: TextSettings) -> Iterator[Document]:
    for lines, _, continues in _grouped(_rows(_all_lines(blocks, path, settings), path)):
        rows = [line.split("\t") for line in lines]
        yield Document([first for first, _ in rows], [second for _, second in rows], continues)


def _rows(lines: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        columns = line.count("\t") + 1
        if columns != 2 and line and not line.isspace():
            raise DataError(
                f"{shown(path)}, line {number} has {columns} column{'s' if columns > 1 else ''}; "
                "format pairs needs two texts split by a tab"
            )
        yield line


def _json_lines(blocks: Iterator[bytes], path: Path, settings: TextSettings) -> Iterator[Document]:
    for texts in _json_texts(_all_lines(blocks, path, settings), path, settings, announce=True):
        continues = False
        for document in _grouped(line for text in texts for line in text.split("\n") if line.strip()):
            yield document._replace(continues=continues)
            continues = True


def _table(blocks: Iterator[bytes], path: Path, settings: TextSettings) -> Iterator[Document]:
    lines = _all_lines(blocks, path, settings)
    for text in table_texts(lines, path, settings, announce=True):
        continues = False
        for document in _grouped(line for line in text.split("\n") if line.strip()):
            yield document._replace(continues=continues)
            continues = True


def _field(line: str, path: Path, settings: TextSettings, *, announce: bool) -> str:
    """The field of the texts: the chosen one, or else the one that the first object is known to have."""
    if settings.text_column is not None:
        return settings.text_column
    try:
        value = decode_line(line, msgspec.json.decode, errors=settings.errors)
    except msgspec.DecodeError:
        return settings.field
    known = known_as("text", list(value)) if isinstance(value, dict) else None
    if known is None or settings.field != "text" or "text" in value:
        return settings.field
    if announce:
        progress.say(
            f"{shown(path)}: of each object the field {known!r} is read; --text-column names another"
        )
    return known


def _json_texts(
    lines: Iterable[str], path: Path, settings: TextSettings, *, announce: bool
) -> Iterator[list[str]]:
    """The texts in the field of each object; blank lines are left out."""
    decode: Callable[[str], Any] | None = None
    field = settings.field
    for number, line in enumerate(lines, 1):
        if not line or line.isspace():
            continue
        if decode is None:
            field = _field(line, path, settings, announce=announce)
            row = msgspec.defstruct("Row", [("text", str | list[str])], rename={"text": field})
            decode = msgspec.json.Decoder(row).decode
        try:
            text: str | list[str] = decode_line(line, decode, errors=settings.errors).text
        except msgspec.DecodeError as error:
            raise DataError(_not_a_row(line, field, settings, f"{shown(path)}, line {number}")) from error
        yield [text] if isinstance(text, str) else text


def _not_a_row(line: str, field: str, settings: TextSettings, where: str) -> str:
    try:
        value: Any = decode_line(line, msgspec.json.decode, errors=settings.errors)
    except msgspec.DecodeError as error:
        return f"{where} is not JSON: {why_not(line, error)}"
    if not isinstance(value, dict):
        return f"{where} is not a JSON object; write one with a field {field!r} on every line"
    if field not in value:
        has = ", ".join(value) or "none"
        return f"{where} has no field {field!r}; its fields are: {has}; name the right one with --field"
    return f"{where}: the field {field!r} holds neither a text nor a list of texts; name one with --field"


def _wikipedia(blocks: Iterator[bytes], path: Path, settings: TextSettings) -> Iterator[Document]:
    for lines in articles(blocks, name=shown(path)):
        yield from _grouped(lines)


def _all_lines(blocks: Iterable[bytes], path: Path, settings: TextSettings) -> Iterator[str]:
    name = shown(path)
    texts = decoded(blocks, name=name, encoding=settings.encoding, errors=settings.errors)
    return itertools.chain.from_iterable(whole_lines(texts, name=name, longest=MAX_LINE))


_READERS: dict[str, Callable[[Iterator[bytes], Path, TextSettings], Iterator[Document]]] = {
    "plain": _plain,
    "lines": _single_lines,
    "pairs": _pairs,
    "jsonl": _json_lines,
    "table": _table,
    "wikipedia": _wikipedia,
}
