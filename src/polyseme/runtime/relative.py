"""Relative positions on packed rows: the plain network's own attention, over neighbours of equal length.

There is no fused product here, since what a query gets added differs between contents and distances
(Dai et al. 2019, section 3.3). Rows begin with what the model remembers at the start, and nothing else.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polyseme.models.batch import Batch
from polyseme.models.transformer.relative import RelativeAttention, Surroundings
from polyseme.runtime.attention import runs
from polyseme.runtime.parts import Sublayer
from polyseme.runtime.states import PLAIN, Precision, Quantised, Ready


class Run(NamedTuple):
    """Neighbouring rows of equal length, and what their attention is told."""

    here: slice
    rows: int
    length: int
    mask: Tensor | None
    around: Surroundings


class RelativeRuns:
    """What the layers share: computed once for each tile."""

    def __init__(self, view: nn.Module, precision: Precision) -> None:
        self.view = copy.deepcopy(view).eval().to(PLAIN[precision])

    def __call__(self, ids: Tensor, starts: Tensor, segments: Tensor | None) -> list[Run]:
        return [self._run(ids, segments, *run) for run in runs(starts)]

    def _run(self, ids: Tensor, segments: Tensor | None, begin: int, rows: int, length: int) -> Run:
        here = slice(begin, begin + rows * length)
        kinds = None if segments is None else segments[here].view(rows, length)
        mask, around = self.view(Batch(ids[here].view(rows, length), token_type_ids=kinds))
        return Run(here, rows, length, mask, around)


def relative_attention(module: RelativeAttention, gather: Any, precision: Precision) -> Sublayer:
    """The attention of one layer. Its products know no eight bits: what comes so is read as bf16."""
    dtype = PLAIN[precision]
    attention = copy.deepcopy(module).eval().to(dtype)

    def attend(states: Ready, around: list[Run]) -> Tensor:
        given = states.plain().to(dtype) if isinstance(states, Quantised) else states
        gathered = torch.empty_like(given)
        for run in around:
            rows = given[run.here].view(run.rows, run.length, -1)
            gathered[run.here] = attention(rows, run.mask, run.around).flatten(0, 1)
        return gathered

    return attend
