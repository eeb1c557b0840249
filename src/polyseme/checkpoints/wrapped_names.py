"""Names of tensors with something before them that training code put there, and tensors that are left out."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from polyseme.checkpoints.filling import listed, patterns_of, standard_names
from polyseme.checkpoints.formats import FORMATS, Format
from polyseme.checkpoints.notes import say_once
from polyseme.checkpoints.rules import Translation
from polyseme.checkpoints.weights import Stored
from polyseme.errors import CheckpointError, SettingsError


def without_ignored(
    stored: Mapping[str, Stored], patterns: Sequence[str], where: Path
) -> tuple[dict[str, Stored], tuple[str, ...]]:
    """The tensors whose names match none of the `patterns` (`*`, `?`), and the names of the others."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in stored):
            raise SettingsError(
                f"ignore: no tensor of {where} matches {pattern!r}; it holds {listed(stored)}"
            )
    ignored = {name for name in stored if any(fnmatchcase(name, pattern) for pattern in patterns)}
    return {name: stored[name] for name in stored if name not in ignored}, tuple(sorted(ignored))


def unwrapped(format: Format, stored: Mapping[str, Stored], where: Path) -> dict[str, Stored]:
    """The tensors without what stands before all their names: `module.`, `_orig_mod.`, `model.` and the like.

    A name keeps what it has where the family knows any name as it is. Raises `CheckpointError` where only
    some names have such a prefix.
    """
    is_known = _knower(format)
    if not stored or any(map(is_known, standard_names(format, stored))):
        return dict(stored)
    for prefix in _prefixes(stored):
        names = {name.removeprefix(prefix): tensor for name, tensor in stored.items()}
        if any(map(is_known, standard_names(format, names))):
            if other := next((part for part in prefix.split(".") if part in FORMATS), ""):
                raise CheckpointError(
                    f"{where}: the names of all tensors begin with {prefix!r}, but config.json says that the "
                    f"model is of the family {format.family}; set model_type to {other!r} if it is one"
                )
            say_once(f"{where}: the names of all tensors begin with {prefix!r}, which is left out")
            return names
    _refuse_partly_wrapped(stored, is_known, where)
    return dict(stored)


def _refuse_partly_wrapped(
    stored: Mapping[str, Stored], is_known: Callable[[str], bool], where: Path
) -> None:
    prefixes = Counter(name[:end] for name in stored for end in _dots(name) if is_known(name[end:]))
    if not prefixes:
        return
    prefix = prefixes.most_common(1)[0][0]
    others = [name for name in stored if not name.startswith(prefix)]
    raise CheckpointError(
        f"{where}: the names of its tensors begin with {prefix!r}, but those of {listed(others)} do not; "
        f"leave these out with ignore= (polyseme convert … --ignore-tensors {patterns_of(others)}), "
        f"and {prefix!r} is taken off"
    )


def _knower(format: Format) -> Callable[[str], bool]:
    """Whether the family has a tensor of a name."""
    tables = [Translation(rules) for rules in format.rules.values()]
    return lambda name: any(table.ours(name) for table in tables)


def _prefixes(names: Iterable[str]) -> list[str]:
    """What all names begin with, up to each dot, the shortest first."""
    first, last = min(names), max(names)
    return [first[:end] for end in _dots(first) if last.startswith(first[:end])]


def _dots(name: str) -> list[int]:
    """The places after each dot of a name."""
    return [place + 1 for place, character in enumerate(name) if character == "."]
