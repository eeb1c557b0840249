"""Several objectives over one pass of the backbone: BERT is masked LM and next sentence together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn as nn

from polyseme.models.batch import Batch, Loss, States
from polyseme.objectives.contract import Corruption, Objective
from polyseme.objectives.rows import Arrays, Rows
from polyseme.objectives.samples import Integers, Samples
from polyseme.seeding import RowGenerator
from polyseme.text.store import Store


@dataclass(frozen=True)
class JointCorruption:
    """The last part says which spans make a row; then every part adds what it hides and asks."""

    parts: tuple[Corruption, ...]

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """The samples of the last part."""
        return self.parts[-1].plan(store, documents, length=length, seed=seed, epoch=epoch)

    def chance_epoch(self, epoch: int) -> int:
        """A static part makes the whole repeat."""
        for part in self.parts:
            epoch = part.chance_epoch(epoch)
        return epoch

    def __call__(self, rows: Rows, rng: RowGenerator) -> Arrays:
        """The fields of all parts; the ids are those of the first, which alone may hide."""
        arrays: Arrays = {}
        for part in reversed(self.parts):
            arrays |= part(rows, rng)
        return arrays


class Joint(Objective):
    """The weighted sum of its parts' losses."""

    def __init__(self, parts: Sequence[Objective]) -> None:
        super().__init__()
        self.parts = tuple(parts)  # a plain tuple: their heads are registered below, once
        self.corruption = JointCorruption(tuple(part.corruption for part in parts))
        self.vocabulary = next((part.vocabulary for part in parts if part.vocabulary), None)
        self.answers = next((part.answers for part in parts if part.answers), None)
        self.heads = nn.ModuleDict({name: head for part in parts for name, head in part.heads.items()})

    def loss(self, backbone: nn.Module, states: States, batch: Batch) -> Loss:
        """The sum; `predictions` counts those of the first part."""
        losses = [part.loss(backbone, states, batch) for part in self.parts]
        total = losses[0].total
        for loss in losses[1:]:
            total = total + loss.total
        return Loss(
            total=total,
            parts={name: value for loss in losses for name, value in loss.parts.items()},
            predictions=losses[0].predictions,
            decisions={name: pair for loss in losses for name, pair in loss.decisions.items()},
        )
