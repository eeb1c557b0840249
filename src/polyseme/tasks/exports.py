"""Objects as annotation tools and data sets write them, made into plain rows: text, pair, label."""

import ast
import re
from pathlib import Path
from typing import Any

import msgspec

from polyseme.errors import DataError

_WORD_PLACES = ({"start1", "end1", "start2", "end2"}, {"ranges1", "ranges2"})
"""Of MCL-WiC, where both sentences are of one language, and where not."""
_PLACE = re.compile(r"\s*(\d{1,9})-(\d{1,9})\s*")


def plain_cells(cells: dict[str, Any], where: str, *, gold: dict[str, str] | None) -> dict[str, Any]:
    """The cells of an object as a table would have them; what is no export stays as it is.

    Known are Label Studio's exports (the choices of the first annotation that was not cancelled; those of
    several controls stand under the names of these) and MCL-WiC, whose two sentences get quotation marks
    around the word that is asked about. `gold` has the tags of a MCL-WiC file by id.
    """
    if isinstance(cells.get("data"), dict) and isinstance(cells.get("annotations"), list):
        return {**cells["data"], **_choices(cells["annotations"], where)}
    if any(places <= cells.keys() for places in _WORD_PLACES):
        plain = {
            "sentence1": _marked(cells, "1", where),
            "sentence2": _marked(cells, "2", where),
        }
        return plain if gold is None else {**plain, "label": gold.get(str(cells.get("id")))}
    return cells


def gold_beside(path: Path) -> dict[str, str] | None:
    """The tags by id of the `.gold` file beside a `.data` file, if that is what `path` names."""
    name = next((end for end in (".data", ".data.xz") if path.name.endswith(end)), None)
    if name is None:
        return None
    beside = path.with_name(path.name.removesuffix(name) + ".gold")
    if not beside.is_file():
        raise DataError(f"{path} has its labels in {beside.name}, which is missing beside it")
    try:
        tags = msgspec.json.decode(beside.read_bytes(), type=list[dict[str, str]])
        return {tag["id"]: tag["tag"] for tag in tags}
    except (ValueError, RecursionError, KeyError) as error:
        raise DataError(f"{beside} is no list of objects with id and tag: {error}") from error


def export_value(value: Any, where: str) -> Any:
    """What an annotation tool put into a cell: the list in Label Studio's {"choices": […]}, the number in a
    rating, a list that was written as text; anything else as it is.

    >>> export_value('{"choices": ["a", "b"]}', "")
    ['a', 'b']
    """
    if isinstance(value, str):
        value = _from_text(value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if not isinstance(value, dict):
        return value
    for key in ("choices", "rating", "number"):
        if key in value:
            return value[key]
    raise DataError(f"{where}: {str(value)[:60]} is no label; name another column, or write the label itself")


def _from_text(cell: str) -> Any:
    """The list or object that a cell of CSV has as JSON, or as pandas writes lists; else the cell."""
    if (cell[:1], cell.rstrip()[-1:]) not in (("{", "}"), ("[", "]")):
        return cell
    try:
        return msgspec.json.decode(cell)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        value = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell
    return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else cell


class _Value(msgspec.Struct, frozen=True):
    choices: list[str] = []


class _Result(msgspec.Struct, frozen=True):
    value: _Value = _Value()
    from_name: str | int | None = "label"


class _Annotation(msgspec.Struct, frozen=True):
    """Of Label Studio's export what is read here."""

    result: list[_Result] = []
    was_cancelled: bool | None = False


def _choices(annotations: list[Any], where: str) -> dict[str, list[str]]:
    """The choices under the name of their control, and as `label` where there is only one."""
    try:
        known = msgspec.convert(annotations, list[_Annotation])
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: annotations is not as Label Studio writes it ({error})") from error
    for annotation in known:
        if not annotation.was_cancelled:
            found: dict[str, list[str]] = {}
            for result in annotation.result:
                if result.value.choices:
                    found.setdefault(str(result.from_name), []).extend(result.value.choices)
            if len(found) > 1:
                return found
            return found | {"label": next(iter(found.values()), [])}
    raise DataError(f"{where}: no annotation that was not cancelled; export annotated tasks only")


def _marked(cells: dict[str, Any], number: str, where: str) -> str:
    """The sentence of this number with quotation marks around its word, which may be in several parts."""
    text, ranges = cells.get(f"sentence{number}"), cells.get(f"ranges{number}")
    said = ranges or f"{cells.get(f'start{number}')}-{cells.get(f'end{number}')}"
    places = [_PLACE.fullmatch(part) for part in str(said).split(",")]
    spans = sorted((int(place[1]), int(place[2])) for place in places if place)
    if not isinstance(text, str) or len(spans) < len(places) or spans[-1][1] > len(text):
        raise DataError(f"{where}: the characters {said} do not lie in sentence{number}")
    for begin, end in reversed(spans):
        text = f'{text[:begin]}"{text[begin:end]}"{text[end:]}'
    return text
