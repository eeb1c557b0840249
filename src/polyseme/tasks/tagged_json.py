"""Tagged texts as JSON objects: tokens and tags, or a text with ranges of characters.

Ranges come as CLUENER has them (type, surface, first and last character), as doccano has them (begin, end,
type, or objects with these), and as Label Studio exports them (`annotations` of `data`, or its small form).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from polyseme.errors import DataError
from polyseme.tasks.skipping import parsed
from polyseme.tasks.tagged_columns import plain_lines
from polyseme.tasks.tagged_texts import Entity, TaggedText, from_text, from_words
from polyseme.tasks.tagging_settings import TaggingSettings
from polyseme.text.column_names import NAMES
from polyseme.text.json_lines import decode_line, why_not
from polyseme.text.reading import read_lines

_LABEL_STUDIO = {"annotator", "annotation_id", "lead_time"}
"""Keys of Label Studio's small form, which leaves out the key of the regions where there are none."""
_BEGIN_NAMES = ("start", "start_offset", "begin")
_END_NAMES = ("end", "end_offset", "stop")
_TYPE_NAMES = ("type", "label", "labels", "entity_group", "entity")
_SURFACE_NAMES = ("text", "word", "surface")
_DECODE = msgspec.json.Decoder(dict[str, Any]).decode
_DECODE_LIST = msgspec.json.Decoder(list[dict[str, Any]]).decode


def read_json(path: Path, settings: TaggingSettings, *, labelled: bool) -> Iterator[TaggedText]:
    """The objects of a file, one a line or all in one list, in order."""

    def parse(item: tuple[str, str | dict[str, Any]]) -> TaggedText:
        where, content = item
        if isinstance(content, str):
            content = _object(where, content, settings)
        return _example(where, content, settings, labelled=labelled)

    yield from parsed(_items(path, settings), parse)


def _items(path: Path, settings: TaggingSettings) -> Iterator[tuple[str, str | dict[str, Any]]]:
    lines = read_lines(path, plain_lines(settings))
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if line.lstrip().startswith("["):
            text = "\n".join([line, *lines])
            try:
                objects = decode_line(text, _DECODE_LIST, errors=settings.errors)
            except msgspec.DecodeError as error:
                raise DataError(f"{path}: not a list of JSON objects ({why_not(text, error)})") from error
            yield from ((f"{path}, object {n}", plain) for n, plain in enumerate(objects, 1))
        else:
            yield f"{path}, line {number}", line


def _object(where: str, line: str, settings: TaggingSettings) -> dict[str, Any]:
    try:
        return decode_line(line, _DECODE, errors=settings.errors)
    except msgspec.DecodeError as error:
        raise DataError(
            f"{where}: not a JSON object ({why_not(line, error)}); write one object a line"
        ) from error


def _example(where: str, plain: dict[str, Any], settings: TaggingSettings, *, labelled: bool) -> TaggedText:
    data = plain.get("data")
    known = {**plain, **data} if isinstance(data, dict) else plain
    if isinstance(data, dict) and "data" not in data:
        known = {key: value for key, value in known.items() if key != "data"}
    said = _chosen(where, known, settings.text_column, NAMES["tokens"], what="text", option="--text-column")
    labels = None
    if labelled and not _without_regions(known, settings):
        labels = _chosen(
            where, known, settings.label_column, NAMES["tags"], what="label", option="--label-column"
        )
        if isinstance(data, dict) and labels is plain.get("annotations") and not _annotated(labels):
            raise DataError(f"{where}: no annotation that was not cancelled; export annotated tasks only")
    if isinstance(said, list) and all(isinstance(word, str) for word in said):
        if labelled and not (isinstance(labels, list) and all(isinstance(tag, str) for tag in labels)):
            raise DataError(f"{where}: the tags of tokens must be a list of names, such as B-PER")
        return _with_cells(from_words(said, labels, where=where), plain, labelled=labelled)
    if not isinstance(said, str):
        raise DataError(f"{where}: the text is {said!r}; it must be text, or a list of words")
    tagged = from_text(said, _entities(where, said, labels) if labelled else None, where=where)
    return _with_cells(tagged, plain, labelled=labelled)


def _with_cells(tagged: TaggedText, plain: dict[str, Any], *, labelled: bool) -> TaggedText:
    return tagged if labelled else replace(tagged, cells=plain)


def _without_regions(known: Mapping[str, Any], settings: TaggingSettings) -> bool:
    """Whether this is a task of Label Studio's that was annotated and has no region."""
    names = NAMES["tags"] if settings.label_column is None else (settings.label_column,)
    return not _LABEL_STUDIO.isdisjoint(known) and not any(name in known for name in names)


def _annotated(labels: Any) -> bool:
    """Whether the labels of a task of Label Studio's are those of an annotation that was not cancelled."""
    if not isinstance(labels, list):
        return True
    annotations = [entry for entry in labels if isinstance(entry, dict) and "result" in entry]
    return any(not entry.get("was_cancelled") for entry in annotations) or len(annotations) < len(labels)


def _chosen(
    where: str, plain: Mapping[str, Any], chosen: str | None, names: Sequence[str], *, what: str, option: str
) -> Any:
    if chosen is not None and chosen not in plain:
        raise DataError(f"{where}: there is no key {chosen!r}; there are {', '.join(plain)}")
    name = chosen or next((name for name in names if name in plain), None)
    if name is None:
        raise DataError(
            f"{where}: no key is known as a {what}; there are {', '.join(plain)}: name one with {option}"
        )
    return plain[name]


def _entities(where: str, text: str, labels: Any) -> list[Entity]:
    """The entities in the order in which they begin."""
    if labels is None:
        labels = []
    if isinstance(labels, dict):
        found = _by_surface(where, text, labels)
    elif isinstance(labels, list):
        found = [_entity(where, text, entry) for entry in _flattened(where, labels)]
    else:
        raise DataError(f"{where}: the labels are {labels!r}; they must be ranges of characters")
    return sorted(set(found), key=lambda entity: (entity.start, -entity.end, entity.type))


def _by_surface(where: str, text: str, labels: Mapping[str, Any]) -> list[Entity]:
    """CLUENER: by type and surface a list of ranges, the last character included."""
    try:
        ranges = [
            (kind, surface, int(first), int(last))
            for kind, surfaces in labels.items()
            for surface, places in surfaces.items()
            for first, last in places
        ]
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where}: labels by type must be objects of surfaces with lists of [first, last]"
        ) from error
    return [
        _checked(where, text, Entity(kind, first, last + 1), surface) for kind, surface, first, last in ranges
    ]


def _flattened(where: str, labels: list[Any]) -> Iterator[Any]:
    """The ranges themselves; of Label Studio's annotations the first that was not cancelled."""
    annotations = [entry for entry in labels if isinstance(entry, dict) and "result" in entry]
    if not annotations:
        yield from labels
        return
    kept: Any = next((entry["result"] for entry in annotations if not entry.get("was_cancelled")), [])
    if not isinstance(kept, list):
        raise DataError(f"{where}: the result of an annotation is {str(kept)[:60]}; it must be a list")
    for result in kept:
        if isinstance(result, dict) and result.get("type", "labels") in ("labels", "hypertextlabels"):
            yield result.get("value")


def _entity(where: str, text: str, entry: Any) -> Entity:
    if isinstance(entry, list) and len(entry) == 3:
        begin, end, kind = entry
        surface = None
    elif isinstance(entry, dict):
        begin, end, kind, surface = (
            next((entry[name] for name in names if name in entry), None)
            for names in (_BEGIN_NAMES, _END_NAMES, _TYPE_NAMES, _SURFACE_NAMES)
        )
        if isinstance(kind, list) and len(kind) > 1:
            raise DataError(
                f"{where}: the range {begin}:{end} has the labels {', '.join(map(str, kind))}; a tagger "
                "learns one for a range: leave the others out"
            )
        kind = kind[0] if isinstance(kind, list) and kind else kind
    else:
        begin = end = kind = surface = None
    if not (isinstance(begin, int) and isinstance(end, int) and isinstance(kind, str)):
        raise DataError(
            f"{where}: {entry!r} is no entity; write [begin, end, type], or an object with start, end, label"
        )
    return _checked(where, text, Entity(kind, begin, end), surface)


def _checked(where: str, text: str, entity: Entity, surface: Any) -> Entity:
    """The entity, or the same counted in UTF-16 as browsers count, where only that has its surface."""
    if not isinstance(surface, str) or text[entity.start : entity.end] == surface:
        return entity
    units = text.encode("utf-16-le", "surrogatepass")
    before = units[: 2 * entity.start].decode("utf-16-le", "replace")
    inside = units[2 * entity.start : 2 * entity.end].decode("utf-16-le", "replace")
    if inside != surface:
        raise DataError(
            f"{where}: the range {entity.start}:{entity.end} of {entity.type} is "
            f"{text[entity.start : entity.end]!r} in the text, but {surface!r} is said to stand there"
        )
    return Entity(entity.type, len(before), len(before) + len(inside))
