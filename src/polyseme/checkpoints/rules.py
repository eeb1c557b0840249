"""Names of tensors in two languages: tables that are read forwards to import and backwards to export.

A table maps a foreign name to ours. `{n}` stands for a layer's number, and a name that ends in a dot
for its weight and its bias. Where several of our tensors stand for one foreign tensor, it holds theirs
joined along the first dimension, in this order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Rules = Mapping[str, str | tuple[str, ...]]


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


class Translation:
    """A table of rules, ready to be read in both directions.

    >>> names = Translation({"layer.{n}.qkv.": ("layers.{n}.query.", "layers.{n}.key.", "layers.{n}.value.")})
    >>> names.ours("layer.3.qkv.bias")
    ('layers.3.query.bias', 'layers.3.key.bias', 'layers.3.value.bias')
    >>> names.theirs("layers.3.key.bias")
    'layer.3.qkv.bias'
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = [
            (
                _template(theirs),
                tuple(_template(name) for name in ((ours,) if isinstance(ours, str) else ours)),
            )
            for theirs, ours in rules.items()
        ]

    def ours(self, their_name: str) -> tuple[str, ...] | None:
        """Our tensors that a foreign one stands for, or None where the table does not know it."""
        for theirs, ours in self._rules:
            if (parts := theirs.match(their_name)) is not None:
                return tuple(template.fill(parts) for template in ours)
        return None

    def theirs(self, our_name: str) -> str | None:
        """The foreign tensor that holds one of ours, or None where the table does not know it."""
        for theirs, ours in self._rules:
            for template in ours:
                if (parts := template.match(our_name)) is not None:
                    return theirs.fill(parts)
        return None

    def groups(self, our_names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Each foreign tensor that holds some of `our_names`, with all of ours that it holds."""
        groups: dict[str, tuple[str, ...]] = {}
        for name in our_names:
            their_name = self.theirs(name)
            if their_name is None:
                raise LookupError(f"no rule says where {name} is stored")
            groups[their_name] = self.ours(their_name) or ()
        return groups


def join(parts: Iterable[Tensor]) -> Tensor:
    """Our tensors as the one foreign tensor that holds them."""
    import torch  # Here, so that the tables of formats can be read without it.

    parts = list(parts)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def cut(tensor: Tensor, rows: Iterable[int]) -> tuple[Tensor, ...]:
    """A foreign tensor as ours, with as many rows each as `rows` says."""
    import torch

    rows = list(rows)
    return (tensor,) if len(rows) == 1 else tuple(part.clone() for part in torch.split(tensor, rows))
