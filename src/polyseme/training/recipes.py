"""Recipes found, read and listed."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from polyseme.errors import SettingsError
from polyseme.records import from_plain, nearest, read_toml, to_plain
from polyseme.training.settings import Recipe

FOLDER = Path(str(files("polyseme") / "recipes"))


def recipes() -> dict[str, Recipe]:
    """Every published system of the library, by name."""
    return {path.stem: read_toml(path, Recipe) for path in sorted(FOLDER.glob("*.toml"))}


def read_recipe(name_or_path: str) -> Recipe:
    """A recipe by the name of a published system, or from one's own TOML file."""
    return read_toml(recipe_path(name_or_path), Recipe)


def recipe_path(name_or_path: str) -> Path:
    """The file of a recipe; `SettingsError` if there is none."""
    if name_or_path.endswith(".toml"):
        return Path(name_or_path)
    names = [path.stem for path in sorted(FOLDER.glob("*.toml"))]
    if name_or_path not in names:
        raise SettingsError(
            f"there is no recipe {name_or_path!r}{nearest(name_or_path, names)}; "
            f"choose one of {', '.join(names)}, or name a .toml file"
        )
    return FOLDER / f"{name_or_path}.toml"


def sized(recipe: Recipe, size: str | None) -> Recipe:
    """The recipe as one of its sizes is trained: the only size left, whose settings are the recipe's own.

    None is the recipe's default size. A size that the recipe lacks is a `SettingsError`.
    """
    size = size or recipe.default_size
    if size not in recipe.sizes:
        raise SettingsError(
            f"the recipe has no size {size!r}{nearest(size, list(recipe.sizes))}; "
            f"choose one of {', '.join(recipe.sizes)}"
        )
    plain = to_plain(recipe)
    fields = plain["sizes"][size]
    plain["training"] |= fields.pop("training", {})
    plain["objectives"] = fields.pop("objectives", plain["objectives"])
    plain |= {"model": _merged(plain["model"], fields), "sizes": {size: {}}, "default_size": size}
    return from_plain(plain, Recipe, where=f"the recipe in its size {size}")


def _merged(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The fields with the changes; tables on both sides are merged too."""
    both = {
        name: _merged(fields[name], change)
        for name, change in changes.items()
        if isinstance(change, dict) and isinstance(fields.get(name), dict)
    }
    return fields | changes | both


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with `place=value` changes, such as `training.length=256` or `objectives.0.rate=0.3`.

    The value is read as TOML, and as a plain string where it is none.
    """
    plain = to_plain(recipe)
    for change in changes:
        place, sign, text = change.partition("=")
        if not sign:
            raise SettingsError(
                f"a change is written place=value, such as training.length=256, got {change!r}"
            )
        *path, name = place.strip().split(".")
        inner: Any = plain
        for part in path:
            inner = _step_into(inner, part, place)
        if isinstance(inner, list):
            raise SettingsError(f"{place}: name a field of an entry, such as objectives.0.rate=0.3")
        inner[name] = _value(text.strip())
    return from_plain(plain, Recipe, where="the changed recipe")


def _step_into(inner: Any, part: str, place: str) -> Any:
    try:
        return inner[int(part) if isinstance(inner, list) else part]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        known = list(inner) if isinstance(inner, dict) else [str(i) for i in range(len(inner))]
        raise SettingsError(f"{place}: there is no {part!r} here{nearest(part, known)}") from error


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (RecursionError, ValueError):
        return text
