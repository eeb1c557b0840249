"""Utterances with their intents and slots, from any of the usual files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from polyseme.errors import DataError
from polyseme.tasks.exports import export_value
from polyseme.tasks.intent_settings import UtteranceSettings
from polyseme.tasks.label_values import is_skipped, say_skipped
from polyseme.tasks.reading_report import announced, shortened
from polyseme.tasks.skipping import parsed
from polyseme.tasks.tables import FileSettings, read_table
from polyseme.tasks.tag_schemes import tags_of
from polyseme.tasks.tagged_columns import CLEAR_TAG, cells_of
from polyseme.tasks.tagged_texts import Entity, TaggedText, from_text, from_words, tagged_of
from polyseme.text.column_names import NAMES
from polyseme.text.reading import TextSettings, read_lines


@dataclass(frozen=True, slots=True)
class Utterance:
    """One example."""

    tagged: TaggedText
    """Its words, and its slots as entities."""
    intents: tuple[str, ...] | None
    """None where the file does not say."""

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return self.tagged.where


def read_utterances(path: Path, settings: UtteranceSettings, *, labelled: bool) -> Iterator[Utterance]:
    """The examples of a folder or file of any kind, in order; a `DataError` names file, line and rule.

    Without `labelled` slots are read where the file has them, and intents never.
    """
    form = settings.format if settings.format != "auto" else _form_of(path, settings, labelled=labelled)
    examples = _without_skipped(READERS[form](path, settings, labelled=labelled), path, settings)
    about = _ABOUT[form].format(slots=settings.slot_column)
    return announced(examples, path, lambda first: f"{about}; the first: {_shown(first)}")


_ABOUT = {
    "parallel": "words in seq.in, slots in seq.out, intents in label",
    "columns": "a word a line, words in column 0, slots in column {slots}, the intent in the last line",
    "json": "an object an utterance",
    "text": "an utterance a line",
}
"""What each form is called in the line about a file."""


def _shown(example: Utterance) -> str:
    """An example in a line about its file."""
    text, found = example.tagged.text, example.tagged.entities or ()
    slots = "".join(f", {e.type} {shortened(text[e.start : e.end])}" for e in found[:3])
    known = "" if example.intents is None else f" → {', '.join(example.intents)}"
    return shortened(text) + known + slots


def _without_skipped(
    examples: Iterator[Utterance], path: Path, settings: UtteranceSettings
) -> Iterator[Utterance]:
    count = 0
    for example in examples:
        if is_skipped(settings.skip_label, example.intents or ()):
            count += 1
        else:
            yield example
    say_skipped(path, settings.skip_label, count)


def utterance_of(given: Any, where: str, settings: UtteranceSettings) -> Utterance:
    """An utterance to answer from a text, a list of words, or an object with text or tokens, and slots."""
    if isinstance(given, dict):
        return _object(where, given, settings, labelled=False)
    return Utterance(tagged_of(given, where), None)


def _parallel(path: Path, settings: UtteranceSettings, *, labelled: bool) -> Iterator[Utterance]:
    folder = path if path.is_dir() else path.parent
    files = [folder / name for name in ("seq.in", "seq.out", "label")]
    if not labelled:
        files = [file for file in files[:2] if file.exists()]
    for file in files:
        if not file.exists():
            raise DataError(
                f"{folder} has no {file.name}; a folder of utterances has seq.in, seq.out and label"
            )
    lines = [list(read_lines(file, _lines(settings))) for file in files]
    if len({len(of_file) for of_file in lines}) > 1:
        counts = ", ".join(f"{file.name} {len(some)}" for file, some in zip(files, lines, strict=True))
        raise DataError(f"{folder}: the files differ in their number of lines: {counts}; they must agree")

    def parse(numbered: tuple[int, tuple[str, ...]]) -> Utterance:
        number, (words, *more) = numbered
        where = f"{files[0]}, line {number}"
        tagged = from_words(words.split(), more[0].split() if more else None, where=where)
        return Utterance(tagged, _intents(more[1], where, settings) if labelled else None)

    return parsed(enumerate(zip(*lines, strict=True), 1), parse)


def _columns(path: Path, settings: UtteranceSettings, *, labelled: bool) -> Iterator[Utterance]:
    def parse(block: list[tuple[int, str]]) -> Utterance:
        where = f"{path}, line {block[0][0]}"
        rows = [(number, cells_of(line)) for number, line in block]
        said = [cells[0].strip() for _, cells in rows if len(cells) == 1]
        rows = [(number, cells) for number, cells in rows if len(cells) > 1]
        if labelled and len(said) != 1:
            raise DataError(
                f"{where}: {len(said)} lines of one column; the last line of an utterance is its intent"
            )
        for number, cells in rows:
            if len(cells) <= settings.slot_column:
                raise DataError(
                    f"{path}, line {number}: {len(cells)} columns, so there is no column "
                    f"{settings.slot_column} of slots; name it with --slot-column"
                )
        words = [cells[0] for _, cells in rows]
        if set(words) - {"O"} and all(map(CLEAR_TAG.fullmatch, words)):
            raise DataError(f"{where}: the first column looks like slots ({words[0]}); write the word first")
        tags = [cells[settings.slot_column] for _, cells in rows]
        tagged = from_words([cells[0] for _, cells in rows], tags, where=where)
        return Utterance(tagged, _intents(said[0], where, settings) if labelled else None)

    return parsed(_blocks(read_lines(path, _lines(settings))), parse)


def _json(path: Path, settings: UtteranceSettings, *, labelled: bool) -> Iterator[Utterance]:
    files = FileSettings(header="no", encoding=settings.encoding, errors=settings.errors)
    table = read_table(path, files, roles=())
    return parsed(table.rows, lambda row: _object(row.where, row.cells, settings, labelled=labelled))


def _texts(path: Path, settings: UtteranceSettings, *, labelled: bool) -> Iterator[Utterance]:
    if labelled:
        raise DataError(f"{path} is a file of texts without intents; --format says what else it is")
    for number, line in enumerate(read_lines(path, _lines(settings)), 1):
        yield Utterance(from_text(line, None, where=f"{path}, line {number}"), None)


READERS: dict[str, Callable[..., Iterator[Utterance]]] = {
    "parallel": _parallel,
    "columns": _columns,
    "json": _json,
    "text": _texts,
}
"""By `UtteranceSettings.format`."""


def _form_of(path: Path, settings: UtteranceSettings, *, labelled: bool) -> str:
    """The kind of a file by its name and its first lines."""
    if path.is_dir() or path.name == "seq.in":
        return "parallel"
    first = next((line for line in read_lines(path, _lines(settings)) if line.strip()), "")
    if first.lstrip()[:1] in ("{", "["):
        return "json"
    cells = cells_of(first)
    tagged = len(cells) > settings.slot_column and cells[settings.slot_column][:2] in ("O", "B-", "S-")
    return "columns" if labelled or tagged else "text"


def _blocks(lines: Iterator[str]) -> Iterator[list[tuple[int, str]]]:
    block: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _object(where: str, cells: dict[str, Any], settings: UtteranceSettings, *, labelled: bool) -> Utterance:
    said, slots, intent = (
        next((cells[name] for name in NAMES[role] if name in cells), None)
        for role in ("utterance", "slots", "intent")
    )
    if said is None or (labelled and (slots is None or intent is None)):
        raise DataError(
            f"{where}: an utterance has text or tokens, slots or tags, and an intent; there are "
            f"{', '.join(cells)}"
        )
    if isinstance(said, list):
        if not all(isinstance(word, str | int | float) for word in said):
            raise DataError(f"{where}: the tokens must be a list of words")
        if not (slots is None or (isinstance(slots, list) and all(isinstance(tag, str) for tag in slots))):
            raise DataError(f"{where}: the slots of tokens must be a list of names, such as B-date")
        tagged = from_words([str(word) for word in said], slots, where=where)
    elif isinstance(said, str | int | float):
        found = None if slots is None else _entities(where, str(said), slots)
        tagged = from_text(str(said), found, where=where)
    else:
        raise DataError(f"{where}: the text is {str(said)[:60]}; it must be text, or a list of words")
    tagged = tagged if labelled else replace(tagged, cells=cells)
    return Utterance(tagged, _intents(intent, where, settings) if labelled else None)


def _entities(where: str, text: str, slots: Any) -> list[Entity]:
    """Slots by their values, {"name": "…"} (SMP-ECDT), or as ranges [begin, end, name]."""
    try:
        if isinstance(slots, dict):
            pairs = [
                (name, value)
                for name, values in slots.items()
                for value in (values if isinstance(values, list) else [values])
                if value
            ]
            found = [Entity(name, text.index(value), text.index(value) + len(value)) for name, value in pairs]
        else:
            found = [msgspec.convert(slot, Entity) for slot in ([s[2], s[0], s[1]] for s in slots)]
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise DataError(
            f"{where}: slots must be values that stand in the text, by their names, or [begin, end, name]"
        ) from error
    return sorted(found, key=lambda entity: (entity.start, -entity.end))


def _intents(said: Any, where: str, settings: UtteranceSettings) -> tuple[str, ...]:
    said = export_value(said, f"{where}: the intent")
    parts = said if isinstance(said, list) else [said]
    if not all(part is None or isinstance(part, str | int | float) for part in parts):
        raise DataError(f"{where}: the intent is {str(said)[:60]}; it must be a name, or a list of names")
    if settings.several:
        parts = [piece for part in parts for piece in str(part).split(settings.separator)]
    names = tuple(dict.fromkeys(name for part in parts if part is not None and (name := str(part).strip())))
    if not names or (len(names) > 1 and not settings.several):
        raise DataError(f"{where}: the intent is {said!r}; every utterance needs one")
    return names


def _lines(settings: UtteranceSettings) -> TextSettings:
    return TextSettings(format="lines", encoding=settings.encoding, errors=settings.errors)


def slot_tags(tagged: TaggedText, scheme: str) -> Sequence[str]:
    """The slot of each word: as the file has it, or else in this scheme."""
    if tagged.tags is not None:
        return tagged.tags
    return tags_of(tagged.word_spans(), len(tagged.words), scheme)
