"""Which kind of tagged file it is, and its reader."""

from collections.abc import Callable, Iterator
from pathlib import Path

from polyseme.errors import DataError
from polyseme.tasks.tagged_columns import TAG, cells_of, plain_lines, read_columns, read_parallel
from polyseme.tasks.tagged_json import read_json
from polyseme.tasks.tagged_texts import TaggedText, from_text
from polyseme.tasks.tagging_settings import TaggingSettings
from polyseme.text.reading import read_lines


def read_texts(path: Path, settings: TaggingSettings, *, labelled: bool) -> Iterator[TaggedText]:
    """A text a line, also where it is empty, so that the answers keep the lines' order."""
    if labelled:
        raise DataError(f"{path} is a file of texts and has no tags; --format says what else it is")
    for number, line in enumerate(read_lines(path, plain_lines(settings)), 1):
        yield from_text(line, None, where=f"{path}, line {number}")


READERS: dict[str, Callable[..., Iterator[TaggedText]]] = {
    "columns": read_columns,
    "parallel": read_parallel,
    "json": read_json,
    "text": read_texts,
}
"""By `TaggingSettings.format`."""


def read_tagged(path: Path, settings: TaggingSettings, *, labelled: bool) -> Iterator[TaggedText]:
    """The examples of a file of any kind, in order; a `DataError` names file, line and rule."""
    form = settings.format if settings.format != "auto" else form_of(path, settings, labelled=labelled)
    return READERS[form](path, settings, labelled=labelled)


def form_of(path: Path, settings: TaggingSettings, *, labelled: bool) -> str:
    """The kind of a file by its name and its first line."""
    if path.is_dir() or (path.suffix == ".in" and path.with_suffix(".out").exists()):
        return "parallel"
    first = next((line for line in read_lines(path, plain_lines(settings)) if line.strip()), "")
    opens = first.lstrip()[:1]
    if opens == "{" or (opens == "[" and any(s.startswith(".json") for s in path.suffixes)):
        return "json"
    cells = cells_of(first)
    if labelled or (len(cells) > 1 and TAG.fullmatch(cells[-1])):
        return "columns"
    return "text"
