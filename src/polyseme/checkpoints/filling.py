"""A file's tensors to ours, with every one of them accounted for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from polyseme.checkpoints.formats import Format
from polyseme.checkpoints.model import PREDICT_TOKENS
from polyseme.checkpoints.rules import Holding, Rules, Translation
from polyseme.checkpoints.weights import Stored, as_floats
from polyseme.errors import CheckpointError


@dataclass(frozen=True)
class Reading:
    """What became of the tensors of a file, by the names they have there."""

    used: dict[str, tuple[str, ...]]
    """Each tensor that was read, and ours that it filled."""
    unused: tuple[str, ...]
    """Tensors that hold nothing of their own: the other ends of ties, and buffers."""
    skipped: tuple[str, ...]
    """Tensors of parts that were not asked for."""
    turned: tuple[str, ...] = ()
    """Of the tensors that were read, the matrices that are written the other way round."""
    layout: str = "transformers"
    """The layout of the folder."""
    left: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tensors that hold no weights of the model, by what they are: optimizer slots and the like."""


def standard_names(format: Format, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors by the names that the format's rules know: old endings renewed, a left-out prefix added."""
    alone = not any(name.startswith(format.prefix) for name in stored)
    standard: dict[str, Stored] = {}
    for name, tensor in stored.items():
        if alone and name.startswith(format.roots):
            name = format.prefix + name
        name = name.removeprefix(format.wrapper)
        for old, new in format.old_names:
            if name.endswith(old):
                name = name.removesuffix(old) + new
        if name in standard:
            raise CheckpointError(
                f"{tensor.file} holds {standard[name].name} and {tensor.name}, two names of one tensor"
            )
        standard[name] = tensor
    return standard


def parts_in(format: Format, stored: Mapping[str, Stored]) -> set[str]:
    """The heads whose own tensor the file has, "pooler" and "decoder" where it has any tensor of one."""
    found = {head for head, mark in format.marks.items() if mark in stored or _twin(format, mark) in stored}
    for part in ("pooler", "decoder"):
        table = Translation(format.rules.get(part, {}))
        found |= {part} if any(table.ours(name) for name in stored) else set()
    return found


def _twin(format: Format, name: str) -> str:
    """The other name under which a tied tensor may be stored; empty where it has none."""
    return next((twin for twin, end in format.ties.items() if end == name), "")


def read_tensors(
    format: Format,
    stored: Mapping[str, Stored],
    wanted: Mapping[str, Tensor],
    *,
    parts: Iterable[str],
    more: Rules,
    where: Path,
    dtype: torch.dtype,
) -> tuple[dict[str, Tensor], Reading]:
    """A tensor of `dtype` for each of `wanted`, from the standard names of the `parts` that are read.

    `wanted` gives the shapes, `more` the rules that depend on the configuration. Raises `CheckpointError`
    for a tensor that is missing or has another shape, for one that nothing reads, and for a tie whose two
    ends differ.
    """
    parts = set(parts)
    rules = {name: ours for part in ("backbone", *sorted(parts)) for name, ours in format.rules[part].items()}
    rules |= more
    groups = Translation(rules).groups(wanted)
    sources = _sources(format, stored, groups, where)
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    _check_shapes(sources, groups, shapes)
    read = {tensor.name for tensor in sources.values()}
    rest = {name: tensor for name, tensor in stored.items() if tensor.name not in read}
    _check_ties(format, rest, sources, predicts=bool(parts.intersection(PREDICT_TOKENS)))
    _check_rest(format, rest, parts, where)

    tensors: dict[str, Tensor] = {}
    for name, holding in groups.items():
        tensors |= holding.cut(as_floats(sources[name], dtype), shapes)
    idle = {name for name in rest if name in format.ties or _is_buffer(format, name)}
    used: dict[str, tuple[str, ...]] = {}
    turned = []
    for name, holding in groups.items():
        for source in sources[name].sources:
            used[source] = (*used.get(source, ()), *holding.ours)
            if len(sources[name].shape) == 2 and sources[name].turned != holding.transposed:
                turned.append(source)
    return tensors, Reading(
        used=used,
        turned=tuple(turned),
        unused=tuple(sorted(tensor.name for name, tensor in rest.items() if name in idle)),
        skipped=tuple(sorted(tensor.name for name, tensor in rest.items() if name not in idle)),
    )


def _sources(
    format: Format, stored: Mapping[str, Stored], groups: Mapping[str, Holding], where: Path
) -> dict[str, Stored]:
    """The stored tensor for each name; where only the other end of a tie was stored, that one."""
    sources: dict[str, Stored] = {}
    missing = []
    for name in groups:
        found = stored.get(name) or stored.get(_twin(format, name))
        if found is None:
            missing.append(name)
        else:
            sources[name] = found
    if missing:
        backbone = Translation({**format.rules["backbone"], **format.rules.get("decoder", {})})
        way_out = (
            "the weights are incomplete, or config.json is of another model; fetch the folder again"
            if any(backbone.ours(name) for name in missing)
            else "to begin such a part with random values, name it in fresh="
        )
        raise CheckpointError(f"{where} lacks {listed(missing)}; {way_out}")
    return sources


def _check_shapes(
    sources: Mapping[str, Stored],
    groups: Mapping[str, Holding],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    for name, holding in groups.items():
        expected = holding.shape(shapes)
        if sources[name].shape != expected:
            raise CheckpointError(
                f"{sources[name].file}: {sources[name].name} has the shape {list(sources[name].shape)}, "
                f"but config.json asks for {list(expected)}"
            )


def _check_ties(
    format: Format, rest: Mapping[str, Stored], sources: Mapping[str, Stored], *, predicts: bool
) -> None:
    """Ties inside the backbone hold always, those of the vocabulary only where tokens are predicted."""
    for name, end in format.ties.items():
        inside = name.startswith(format.prefix) and name != format.untied
        matters = name in rest and end in sources and (predicts or inside)
        if matters and not torch.equal(rest[name].read(), sources[end].read()):
            raise CheckpointError(
                f"{rest[name].file}: {rest[name].name} differs from {sources[end].name}; "
                "polyseme computes both with one tensor"
            )


def _is_buffer(format: Format, name: str) -> bool:
    return Translation({buffer: buffer for buffer in format.buffers}).ours(name) is not None


def _check_rest(format: Format, rest: Mapping[str, Stored], parts: set[str], where: Path) -> None:
    """Refuse what nothing in the format explains, and what a part that is read should have used."""
    others = [Translation(rules) for part, rules in format.rules.items() if part not in {"backbone", *parts}]
    left = [
        tensor.name
        for name, tensor in rest.items()
        if not _is_buffer(format, name)
        and name not in format.ties
        and not name.startswith(format.aside)
        and not any(table.ours(name) for table in others)
    ]
    if left:
        raise CheckpointError(
            f"{where} holds {listed(left)}, which are no part of this model; if they may be left out, write "
            f"a folder without them: polyseme convert {where} OUT --ignore-tensors {patterns_of(left)} "
            "(in Python, load(…, ignore=[…]) leaves them out)"
        )


def patterns_of(names: Iterable[str]) -> str:
    """The patterns of `--ignore-tensors` that match tensors of these names."""
    parts = [name.partition(".") for name in names]
    patterns = sorted({f"{first}.*" if dot else first for first, dot, _ in parts})
    return " ".join(map(repr, patterns[:3])) + (" …" if len(patterns) > 3 else "")


def listed(names: Iterable[str]) -> str:
    """The first names of tensors, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - 4} more tensors" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
