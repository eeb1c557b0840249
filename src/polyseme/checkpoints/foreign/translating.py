"""Foreign tensors to published ones by a layout's rules, each read and turned only when it is asked for."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polyseme.checkpoints.filling import listed
from polyseme.checkpoints.foreign.layouts import Held, Layout, Rules
from polyseme.checkpoints.weights import Stored
from polyseme.errors import CheckpointError

_PART = re.compile(r"\{(\w+)(?::0(\d))?\}")
_MOST_LAYERS = 1000


@dataclass(frozen=True)
class Template:
    """A name in which words in braces stand for numbers."""

    text: str

    def pattern(self) -> re.Pattern[str]:
        """The names of the template, with a group for each number."""
        pattern, place = "", 0
        for part in _PART.finditer(self.text):
            digits = rf"[0-9]{{{part[2]}}}" if part[2] else "0|[1-9][0-9]{0,3}"
            pattern += re.escape(self.text[place : part.start()]) + f"(?P<{part[1]}>{digits})"
            place = part.end()
        return re.compile(pattern + re.escape(self.text[place:]))

    def fill(self, numbers: Mapping[str, int]) -> str:
        """The name with these numbers."""
        return _PART.sub(lambda part: f"{numbers[part[1]]:0{part[2] or 1}}", self.text)

    def matches(self, names: Mapping[str, object]) -> Iterator[dict[str, int]]:
        """The numbers with which the template gives one of `names`."""
        if not _PART.search(self.text):
            if self.text in names:
                yield {}
            return
        pattern = self.pattern()
        for name in names:
            if found := pattern.fullmatch(name):
                yield {part: int(number) for part, number in found.groupdict().items()}


def translate(
    layout: Layout, foreign: Mapping[str, Stored]
) -> tuple[dict[str, Stored], dict[str, tuple[str, ...]]]:
    """The tensors by their published names, and the names of those that are no weights, by what they are.

    What no rule knows keeps its own name, and is refused where the model is filled.
    """
    published: dict[str, Stored] = {}
    used: set[str] = set()
    for theirs, sources in _applied(layout.rules, foreign):
        if theirs in published:
            raise CheckpointError(
                f"{published[theirs].file} holds {published[theirs].name} and {sources.name}, "
                "two names of one tensor"
            )
        published[theirs] = sources
        used.update(sources.sources)
    left: dict[str, tuple[str, ...]] = {}
    for kind, expression in layout.ignored.items():
        pattern = re.compile(expression)
        found = {tensor.name for name, tensor in foreign.items() if pattern.fullmatch(name)} - used
        if found:
            left[kind] = tuple(sorted(found))
            used |= found
    rest = {name: tensor for name, tensor in foreign.items() if tensor.name not in used}
    if twice := sorted(rest.keys() & published.keys()):
        raise CheckpointError(f"{rest[twice[0]].file} holds {listed(twice)} beside the names of its layout")
    return published | rest, left


def _applied(rules: Rules, foreign: Mapping[str, Stored]) -> Iterator[tuple[str, Stored]]:
    """Each published name that the rules give for some foreign ones, with the tensor behind it."""
    for name, value in rules.items():
        held = Held((value,)) if isinstance(value, str) else value
        theirs, templates = Template(name), [Template(source) for source in held.sources]
        for numbers in templates[0].matches(foreign):
            sources = [_source(foreign, template.fill(numbers), held) for template in templates]
            if not held.by_layer:
                yield theirs.fill(numbers), _derived(sources, held, None)
                continue
            layers = sources[0].shape[0] if sources[0].shape else 0
            if layers > _MOST_LAYERS:
                raise CheckpointError(f"{sources[0].file}: {sources[0].name} claims {layers} layers")
            for layer in range(layers):
                yield theirs.fill({**numbers, "n": layer}), _derived(sources, held, layer)


def _source(foreign: Mapping[str, Stored], name: str, held: Held) -> Stored:
    if name not in foreign:
        file = next(iter(foreign.values())).file
        raise CheckpointError(f"{file} lacks {name}, which belongs to {held.sources[0]}")
    return foreign[name]


def _derived(sources: list[Stored], held: Held, layer: int | None) -> Stored:
    """The published tensor made of its sources, with its shape known before anything is read."""
    first = sources[0]
    if len(sources) == 1 and held == Held(held.sources):
        return first
    shapes = [_shape(source, held) for source in sources]
    if any(shape[1:] != shapes[0][1:] or not shape for shape in shapes) and len(shapes) > 1:
        raise CheckpointError(f"{first.file}: {first.name} and its neighbours do not fit together")
    shape = (sum(shape[0] for shape in shapes), *shapes[0][1:]) if len(shapes) > 1 else shapes[0]
    return Stored(
        name=first.name if layer is None else f"{first.name}[{layer}]",
        file=first.file,
        shape=shape[::-1] if held.turned else shape,
        read=_reader(sources, held, layer),
        turned=held.turned and len(shape) == 2,
        made_of=tuple(source.name for source in sources),
    )


def _shape(source: Stored, held: Held) -> tuple[int, ...]:
    """The shape of what a source gives, before it is joined with others and turned."""
    shape = source.shape
    if held.squeezed:
        if not shape or shape[0] != 1:
            raise CheckpointError(
                f"{source.file}: {source.name} has the shape {list(shape)}; its first dimension must be 1"
            )
        shape = shape[1:]
    if held.by_layer:
        shape = shape[1:]
    if held.from_row:
        if not shape or shape[0] < held.from_row:
            raise CheckpointError(f"{source.file}: {source.name} has fewer than {held.from_row} rows")
        shape = (shape[0] - held.from_row, *shape[1:])
    return shape


def _reader(sources: list[Stored], held: Held, layer: int | None) -> Callable[[], Tensor]:
    def read_one(source: Stored) -> Tensor:
        tensor = source.read()
        if held.squeezed:
            tensor = tensor[0]
        if layer is not None:
            tensor = tensor[layer]
        return tensor[held.from_row :] if held.from_row else tensor

    def read() -> Tensor:
        parts = [read_one(source) for source in sources]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return joined.permute(*reversed(range(joined.dim()))) if held.turned else joined

    return read
