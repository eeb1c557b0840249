"""Names of tensors in two languages: tables that are read forwards to import and backwards to export.

A table maps a foreign name to ours. `{n}` stands for a layer's number, and a name that ends in a dot
for its weight and its bias. Where several of our tensors stand for one foreign tensor, it holds theirs
joined along the first dimension, in this order. `Transposed` names stand for a foreign matrix that is
written the other way round, inputs by outputs; vectors are the same both ways. `Folded` names stand for a
foreign tensor whose last dimension is folded into the dimensions of another tensor of ours, such as heads
by numbers of a head.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Transposed:
    """Our tensors that a foreign matrix of inputs by outputs holds side by side."""

    def __init__(self, *ours: str) -> None:
        self.ours = ours


class Folded:
    """A tensor of ours whose last dimension has the dimensions of another, `like`, in the foreign file."""

    def __init__(self, ours: str | Transposed, *, like: str) -> None:
        self.ours, self.like = ours, like


Rules = Mapping[str, "str | tuple[str, ...] | Transposed | Folded"]


def renamed(rules: Rules, old: str, new: str) -> Rules:
    """The rules of a family whose foreign names begin with `new` where these begin with `old`."""
    return {
        new + name.removeprefix(old) if name.startswith(old) else name: ours for name, ours in rules.items()
    }


class Holding(NamedTuple):
    """What one foreign tensor holds, and how."""

    ours: tuple[str, ...]
    transposed: bool = False
    like: str | None = None
    """Ours into whose dimensions the last one is folded."""

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The foreign tensor, made of ours by name."""
        import torch  # Here, so that the tables of formats can be read without it.

        parts = [tensors[name] for name in self.ours]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        joined = joined.t() if self.transposed and joined.dim() == 2 else joined
        return joined if self.like is None else joined.reshape(*joined.shape[:-1], *tensors[self.like].shape)

    def cut(self, tensor: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Ours by name out of the foreign tensor; none is a part of another's memory."""
        import torch

        if self.like is not None:
            tensor = tensor.flatten(-len(shapes[self.like]))
        ours = tensor.t() if self.transposed and tensor.dim() == 2 else tensor
        if len(self.ours) == 1:
            return {self.ours[0]: ours.contiguous()}
        parts = torch.split(ours, [shapes[name][0] for name in self.ours])
        return {
            name: part.clone(memory_format=torch.contiguous_format)
            for name, part in zip(self.ours, parts, strict=True)
        }

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """The shape of the foreign tensor, from those of ours."""
        first = shapes[self.ours[0]]
        joined = (sum(shapes[name][0] for name in self.ours), *first[1:]) if len(self.ours) > 1 else first
        turned = joined[::-1] if self.transposed and len(joined) == 2 else joined
        return turned if self.like is None else (*turned[:-1], *shapes[self.like])


class _Template(NamedTuple):
    text: str
    pattern: re.Pattern[str]

    def match(self, name: str) -> dict[str, str] | None:
        found = self.pattern.fullmatch(name)
        return found.groupdict() if found else None

    def fill(self, parts: dict[str, str]) -> str:
        return self.text.replace("{n}", parts.get("n", "")) + parts.get("rest", "")


def _template(text: str) -> _Template:
    pattern = re.escape(text).replace(r"\{n\}", "(?P<n>0|[1-9][0-9]*)")
    if text.endswith("."):
        pattern += "(?P<rest>weight|bias)"
    return _Template(text, re.compile(pattern))


class _Rule(NamedTuple):
    theirs: _Template
    ours: tuple[_Template, ...]
    transposed: bool
    like: _Template | None

    def holding(self, parts: dict[str, str]) -> Holding:
        like = None if self.like is None else self.like.fill({"n": parts.get("n", "")})
        return Holding(tuple(template.fill(parts) for template in self.ours), self.transposed, like)


def _rule(theirs: str, ours: str | tuple[str, ...] | Transposed | Folded) -> _Rule:
    like = _template(ours.like) if isinstance(ours, Folded) else None
    ours = ours.ours if isinstance(ours, Folded) else ours
    transposed = isinstance(ours, Transposed)
    names = ours.ours if isinstance(ours, Transposed) else ((ours,) if isinstance(ours, str) else ours)
    return _Rule(_template(theirs), tuple(map(_template, names)), transposed, like)


class Translation:
    """A table of rules, ready to be read in both directions.

    >>> names = Translation({"layer.{n}.qkv.": ("layers.{n}.query.", "layers.{n}.key.", "layers.{n}.value.")})
    >>> names.ours("layer.3.qkv.bias")
    ('layers.3.query.bias', 'layers.3.key.bias', 'layers.3.value.bias')
    >>> names.theirs("layers.3.key.bias")
    'layer.3.qkv.bias'
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = [_rule(theirs, ours) for theirs, ours in rules.items()]

    def holding(self, their_name: str) -> Holding | None:
        """What a foreign tensor holds, or None where the table does not know it."""
        for rule in self._rules:
            if (parts := rule.theirs.match(their_name)) is not None:
                return rule.holding(parts)
        return None

    def ours(self, their_name: str) -> tuple[str, ...] | None:
        """Our tensors that a foreign one stands for, or None where the table does not know it."""
        holding = self.holding(their_name)
        return None if holding is None else holding.ours

    def theirs(self, our_name: str) -> str | None:
        """The foreign tensor that holds one of ours, or None where the table does not know it."""
        found = self._found(our_name)
        return None if found is None else found[0]

    def groups(self, our_names: Iterable[str]) -> dict[str, Holding]:
        """Each foreign tensor that holds some of `our_names`, with all of ours that it holds.

        Where two rules give one foreign name to different tensors of ours, the model has only one of these.
        """
        groups: dict[str, Holding] = {}
        for name in our_names:
            found = self._found(name)
            if found is None:
                raise LookupError(f"no rule says where {name} is stored")
            groups[found[0]] = found[1]
        return groups

    def _found(self, our_name: str) -> tuple[str, Holding] | None:
        for rule in self._rules:
            for template in rule.ours:
                if (parts := template.match(our_name)) is not None:
                    return rule.theirs.fill(parts), rule.holding(parts)
        return None
