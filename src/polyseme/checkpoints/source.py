"""A model folder, opened: its settings, and which parts of a model its file holds."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from polyseme.checkpoints.filling import parts_in, standard_names
from polyseme.checkpoints.foreign.opening import Opened, open_folder
from polyseme.checkpoints.formats import format_of, read_config
from polyseme.checkpoints.json_files import read_object
from polyseme.checkpoints.model import FINETUNED_BY, HEADS, READ_POOLED, TOLD_APART
from polyseme.checkpoints.sentence_transformers import transformer_folder
from polyseme.checkpoints.weights import Stored
from polyseme.checkpoints.wrapped_names import unwrapped, without_ignored
from polyseme.errors import CheckpointError, SettingsError
from polyseme.input_files import require_regular_entries
from polyseme.integrity import open_record
from polyseme.models.transformer.config import TransformerConfig
from polyseme.records import nearest

_PARTS = (*HEADS, "pooler")


class Source:
    """A model folder, opened: its settings, and its tensors by the names of its family's rules."""

    def __init__(
        self,
        folder: Path,
        *,
        layout: str | None = None,
        settings: Path | None = None,
        stored: dict[str, Stored] | None = None,
        ignore: Sequence[str] = (),
    ) -> None:
        """`stored` are the tensors of a folder of transformers whose weights are not written yet."""
        require_regular_entries(folder)
        self.record = open_record(folder, warn=True) if stored is None else None
        if self.record is not None:
            self.record.check_small()
        self.folder = transformer_folder(folder)
        require_regular_entries(self.folder)
        if stored is None:
            self.opened = open_folder(self.folder, layout=layout, settings=settings)
        else:
            path = self.folder / "config.json"
            self.opened = Opened(read_object(path), path, stored)
        self.plain = self.opened.plain
        family = self.plain.get("model_type")
        if family is None:
            raise CheckpointError(f"{self.folder}/config.json names no model_type; add it, for instance bert")
        self.format = format_of(str(family))
        kept, self.ignored = without_ignored(self.opened.stored, ignore, self.folder)
        self.stored = standard_names(self.format, unwrapped(self.format, kept, self.folder))
        self.parts = parts_in(self.format, self.stored)
        self.parts -= {head for head in TOLD_APART if not self._is_named(head)}
        self.parts |= {head for head in self.format.tied_heads if self._names(head)}

    def choose(self, heads: Sequence[str], fresh: Sequence[str]) -> tuple[set[str], set[str]]:
        """The parts to read from the file and those to draw afresh."""
        for part in (*heads, *fresh):
            if part not in _PARTS:
                raise SettingsError(
                    f"a model has no part {part!r}{nearest(part, _PARTS)}; parts are {', '.join(_PARTS)}"
                )
            if not self.format.rules.get(part) and part not in self.format.heads:
                raise CheckpointError(f"a model of the family {self.format.family} has no {part}")
        drawn = {part for part in fresh if part not in heads or part not in self.parts}
        read = {*heads, *(self.parts & {"pooler", "decoder"})} - drawn
        # A head that is all tied can be put on any backbone of its family.
        if absent := sorted(read - self.parts - self.format.tied_heads):
            kind = (
                f" (its architectures: {', '.join(self._architectures())})" if self._architectures() else ""
            )
            raise CheckpointError(f"{self.folder} has no {absent[0]}{kind}; {self._way_to(absent[0])}")
        return self._with_pooler(read, drawn), drawn

    def _way_to(self, head: str) -> str:
        """What a user does who wants a head that the folder lacks."""
        fresh = f'fresh=["{head}"] begins with random values'
        if head not in FINETUNED_BY:
            return f"in Python, {fresh}"
        return (
            f"fine-tune it first: polyseme finetune {FINETUNED_BY[head]} --model {self.folder} … "
            f"(in Python, {fresh})"
        )

    def _with_pooler(self, read: set[str], drawn: set[str]) -> set[str]:
        needs = sorted(filter(self.format.reads_pooled, {*read, *drawn}.intersection(READ_POOLED)))
        if needs and self.format.rules["pooler"] and "pooler" not in {*read, *drawn}:
            raise CheckpointError(
                f"{self.folder} has no pooler, which {needs[0]} reads; "
                'in Python, "pooler" in fresh= too begins it with random values'
            )
        return read

    def config(self, *, pooler: bool) -> TransformerConfig:
        where = str(self.opened.where)
        decoder = "decoder" in self.parts
        config = read_config(self.format, self.plain, where=where, pooler=pooler, decoder=decoder)
        if self._untied():
            embedding = msgspec.structs.replace(config.embedding, tied=False)
            config = msgspec.structs.replace(config, embedding=embedding)
        if config.num_layers > len(self.stored):
            raise CheckpointError(
                f"{where} says {config.num_layers} layers, but the weights are {len(self.stored)} tensors"
            )
        return config

    def _untied(self) -> bool:
        """Whether the file has an output table that differs from the token table."""
        name = self.format.untied
        own, tokens = self.stored.get(name), self.stored.get(self.format.ties.get(name, ""))
        if own is None or tokens is None:
            return False
        table = own.read()
        # Of weights that are not written yet there are only shapes: both ends are written of an untied pair.
        return table.is_meta or not torch.equal(table, tokens.read())

    def classes(self, head: str) -> int:
        """How many scores the stored head gives."""
        shape = self.stored[self.format.marks[head]].shape
        return shape[0] if shape else 0

    def pooling(self) -> str:
        """How the stored classifier pools."""
        for how, written in self.format.poolings.items():
            if all(self.plain.get(key, value) == value for key, value in written.items()):
                return how
        raise CheckpointError(
            f"{self.folder}/config.json: its classifier's pooling is not one that we compute"
        )

    def _architectures(self) -> list[str]:
        named = self.plain.get("architectures") or []
        return list(map(str, named)) if isinstance(named, list) else [str(named)]

    def _names(self, head: str) -> bool:
        """Whether config.json names the architecture with this head, or none at all."""
        named = self._architectures()
        return not named or self.format.architectures[frozenset({head})] in named

    def _is_named(self, head: str) -> bool:
        """Whether config.json names the architecture with this head alone."""
        return self.format.architectures.get(frozenset({head})) in self._architectures()
