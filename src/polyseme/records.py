"""Settings: frozen records that check themselves, read from and written to TOML and JSON."""

import difflib
import functools
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tomli_w

from polyseme.errors import PolysemeError, SettingsError
from polyseme.input_files import MAX_SETTINGS_BYTES, read_small

_MAX_INTEGER = (1 << 64) - 1
_MAX_DEPTH = 100
_MAX_TOML_BYTES = 1 << 20


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every record of settings: frozen, by name only, no unknown field.

    A subclass documents each field by the string under it and checks values in `__post_init__`
    by raising `ValueError`. It repeats `frozen=True, kw_only=True`: `kw_only` holds for the fields
    written beside it only, and type checkers look for both at the class itself.

    No number of a record is NaN or infinite, and none has more than 64 bits: that is checked here, before
    the `__post_init__` of the subclass.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.__dict__.get("__post_init__")
        if own is not None:

            @functools.wraps(own)
            def checked(self: Record) -> None:
                Record.__post_init__(self)
                own(self)

            cls.__post_init__ = checked  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            _check_numbers(getattr(self, name), name)


def _check_numbers(value: Any, name: str, depth: int = 0) -> None:
    """Raise `ValueError` for a number in `value` that is not finite or too large, at any depth."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value}")
    elif isinstance(value, int):
        if not -_MAX_INTEGER <= value <= _MAX_INTEGER:
            raise ValueError(f"{name} is a number of {value.bit_length()} bits; at most 64 are read")
    elif isinstance(value, dict | list | tuple):
        if depth == _MAX_DEPTH:
            raise ValueError(f"{name} is nested more than {_MAX_DEPTH} levels deep")
        for entry in value.values() if isinstance(value, dict) else value:
            _check_numbers(entry, name, depth + 1)


R = TypeVar("R", bound=msgspec.Struct)


def from_plain(value: Any, kind: type[R], *, where: str) -> R:
    """A record from dictionaries and lists; `where` names the source in the `SettingsError`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {_explain(str(error), value, kind)}") from error
    except (RecursionError, OverflowError, ValueError) as error:
        raise SettingsError(_refused(where, "a record of settings", error)) from error


def from_flat(options: Mapping[str, Any], kind: type[R], *, where: str) -> R:
    """A record from keywords: what belongs to the records inside it is given by its own name.

    So `encoding=…` reaches the `text` of a record that reads text; `text=TextSettings(…)` does too.
    """
    inner = {
        field.name: field.type.__struct_fields__
        for field in msgspec.structs.fields(kind)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
    }
    owners = {name: group for group, names in inner.items() for name in names}
    plain: dict[str, Any] = {group: {} for group in inner}
    for name, given in options.items():
        value = str(given) if isinstance(given, Path) else given
        if name in inner:
            plain[name] |= msgspec.to_builtins(value)
        elif name in owners:
            plain[owners[name]][name] = value
        elif name in kind.__struct_fields__:
            plain[name] = value
        else:
            known = [*kind.__struct_fields__, *owners]
            raise SettingsError(f"{where}: {name} is not a setting here{nearest(name, known)}")
    return from_plain(plain, kind, where=where)


def flat_names(kind: type[msgspec.Struct]) -> list[str]:
    """The keywords of `from_flat`: the fields of a record, and those of the records inside it."""
    names = list(kind.__struct_fields__)
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            names += flat_names(field.type)
    return names


def defaults_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """What the keywords of `from_flat` mean where they are absent; without those that must be given."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.default is not msgspec.NODEFAULT:
            found[field.name] = field.default
        if isinstance(field.default, msgspec.Struct):
            found |= defaults_of(type(field.default))
    return found


def to_plain(record: msgspec.Struct) -> dict[str, Any]:
    """The record as dictionaries, lists, strings and numbers."""
    plain: dict[str, Any] = msgspec.to_builtins(record)
    return plain


def flat(record: msgspec.Struct, *, under: str = "") -> dict[str, Any]:
    """The fields by their names, those of nested records as `outer.inner`."""
    fields: dict[str, Any] = {}
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, msgspec.Struct):
            fields |= flat(value, under=f"{under}{name}.")
        else:
            fields[under + name] = value
    return fields


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of `flat`, as plain dictionaries: what stands under `outer.inner` goes into `outer`."""
    plain: dict[str, Any] = {}
    for place, value in fields.items():
        *path, name = place.split(".")
        inner = plain
        for part in path:
            inner = inner.setdefault(part, {})
        inner[name] = value
    return plain


def read_toml(path: Path, kind: type[R]) -> R:
    """The record that a TOML file holds, or a `SettingsError` that names file, place and rule."""
    content = _read(path, max_bytes=_MAX_TOML_BYTES)
    try:
        text = content.decode("utf-8")
        # tomllib takes time with the square of a key's parts.
        if any(line.partition("=")[0].strip().count(".") > _MAX_DEPTH for line in text.split("\n")):
            raise RecursionError
        value = tomllib.loads(text)
    except (RecursionError, ValueError) as error:
        raise SettingsError(_refused(str(path), "TOML", error)) from error
    return from_plain(value, kind, where=str(path))


def to_toml(record: msgspec.Struct) -> str:
    """The record as TOML; fields that are None are left out, since TOML has no null."""
    return tomli_w.dumps(_without_none(to_plain(record)))


def read_json(path: Path, kind: type[R]) -> R:
    """The record that a JSON file holds, or a `SettingsError` that names file, place and rule."""
    return from_plain(decode_json(_read(path), where=str(path)), kind, where=str(path))


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or a `SettingsError` that names the file and what is wrong with it."""
    value = decode_json(_read(path), where=str(path))
    if not isinstance(value, dict):
        raise SettingsError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def decode_json(content: bytes | str, *, where: str) -> Any:
    """The value that JSON stands for; `where` names the source in the `SettingsError`."""
    try:
        return msgspec.json.decode(content)
    except (RecursionError, OverflowError, ValueError) as error:
        raise SettingsError(_refused(where, "JSON", error)) from error


def _read(path: Path, *, max_bytes: int = MAX_SETTINGS_BYTES) -> bytes:
    try:
        return read_small(path, max_bytes=max_bytes)
    except FileNotFoundError as error:
        raise SettingsError(f"there is no file {path}") from error
    except PolysemeError as error:
        raise SettingsError(str(error)) from error


def _refused(where: str, kind: str, error: Exception) -> str:
    """One line about content that no record, nor plain data, was made of."""
    if isinstance(error, RecursionError):
        return f"{where} is nested too deeply"
    if "integer string conversion" in str(error):
        return f"{where} is not {kind}: a number in it has thousands of digits"
    return f"{where} is not {kind}: {error}"


def to_json(record: msgspec.Struct | dict[str, Any]) -> bytes:
    """Indented JSON in UTF-8, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def nearest(name: str, choices: list[str] | tuple[str, ...]) -> str:
    """« (did you mean …?)» for a misspelt name, or the empty string; for the end of an error line."""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _explain(message: str, value: Any, kind: type[msgspec.Struct]) -> str:
    """Add the nearest right name to msgspec's message about an unknown field."""
    unknown = re.search(r"unknown field `([^`]+)`(?: - at `\$\.?([^`]*)`)?", message)
    if not unknown:
        return message
    name, place = unknown.group(1), unknown.group(2) or ""
    known = _fields_at(kind, [part for part in re.split(r"[.\[\]]+", place) if part])
    return f"{place + '.' if place else ''}{name} is not a setting here{nearest(name, known)}"


def _fields_at(kind: Any, path: list[str]) -> list[str]:
    """The field names of the record that lies at `path` below `kind`."""
    info = msgspec.inspect.type_info(kind)
    for part in path:
        info = _record_of(info)
        if isinstance(info, msgspec.inspect.DictType):
            info = info.value_type
        elif isinstance(info, msgspec.inspect.StructType):
            info = next((f.type for f in info.fields if f.encode_name == part), info)
    info = _record_of(info)
    return [f.encode_name for f in info.fields] if isinstance(info, msgspec.inspect.StructType) else []


def _record_of(info: Any) -> Any:
    if isinstance(info, msgspec.inspect.UnionType):
        return next(
            (t for t in info.types if isinstance(t, msgspec.inspect.StructType | msgspec.inspect.DictType)),
            info,
        )
    return info


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_without_none(entry) for entry in value]
    return value
