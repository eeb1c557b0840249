"""Which kind of tagged file it is, and its reader."""

from collections.abc import Callable, Iterator
from itertools import dropwhile, islice, takewhile
from pathlib import Path

from polyseme.errors import DataError
from polyseme.tasks.reading_report import announced, shortened
from polyseme.tasks.tagged_columns import TAG, cells_of, plain_lines, read_columns, read_parallel
from polyseme.tasks.tagged_json import read_json
from polyseme.tasks.tagged_texts import TaggedText, from_text
from polyseme.tasks.tagging_settings import TaggingSettings
from polyseme.text.delimited import suffix_of
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
    about = _ABOUT[form].format(
        words=settings.text_column or "0", tags=settings.label_column or "-1 (the last)"
    )
    examples = READERS[form](path, settings, labelled=labelled)
    return announced(examples, path, lambda first: f"{about}; the first: {_shown(first)}")


_ABOUT = {
    "columns": "a word a line, words in column {words}, tags in column {tags}",
    "parallel": "words, and their tags in another file",
    "json": "an object a text",
    "text": "a text a line",
}
"""What each form is called in the line about a file."""


def _shown(example: TaggedText) -> str:
    """An example in a line about its file."""
    if example.tags is not None:
        words = [example.text[start:end] for start, end in example.words[:_SHOWN].tolist()]
        more = " …" if len(example.words) > _SHOWN else ""
        return " ".join(f"{w}/{t}" for w, t in zip(words, example.tags, strict=False)) + more
    found = [f"{e.type} {shortened(example.text[e.start : e.end])}" for e in (example.entities or ())[:3]]
    known = "" if example.entities is None else f" → {', '.join(found) or 'no entity'}"
    return shortened(example.text) + known


_SHOWN = 6
"""Words of an example in a line about its file."""


def form_of(path: Path, settings: TaggingSettings, *, labelled: bool) -> str:
    """The kind of a file by its name and its first line."""
    if path.is_dir() or (path.suffix == ".in" and path.with_suffix(".out").exists()):
        return "parallel"
    first = next((line for line in read_lines(path, plain_lines(settings)) if line.strip()), "")
    opens = first.lstrip()[:1]
    if suffix_of(path) == ".csv" and settings.format == "auto" and labelled:
        raise DataError(
            f"{path} is a CSV file, which no tagger reads; export JSON lines or CoNLL, or name the form with "
            "--format"
        )
    if opens == "{" or (opens == "[" and any(s.startswith(".json") for s in path.suffixes)):
        return "json"
    return "columns" if labelled or _is_tagged(path, settings) else "text"


def _is_tagged(path: Path, settings: TaggingSettings) -> bool:
    """Whether all lines of the first sentence are columns of which the last has tags."""
    lines = dropwhile(lambda line: not line.strip(), read_lines(path, plain_lines(settings)))
    sentence = [cells_of(line) for line in islice(takewhile(str.strip, lines), _LOOK)]
    sentence = [cells for cells in sentence if cells[0] not in ("-DOCSTART-", "#")]
    widths = {len(cells) for cells in sentence}
    return len(widths) == 1 and min(widths) > 1 and all(TAG.fullmatch(cells[-1]) for cells in sentence)


_LOOK = 50
"""Lines that tell whether a file has tags."""
