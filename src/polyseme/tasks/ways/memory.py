"""How much memory a fine-tuning takes, and the first way of it that fits into what is given.

The peak of a step is what the process holds before it trains, plus, for W weights of which L learn,

- 4 W bytes for the copy that is trained and 4 W for the best epoch's;
- 4 L for gradients and 8 L for AdamW's two averages;
- what the forward pass keeps for the backward one. This is measured, not guessed: one pass over one and one
  over two of the longest rows, in which every tensor kept is counted once by its storage, give the part that
  grows with the rows and the part that does not;
- a share of all that for what lives only within one operation, and for memory that was given back in
  pieces too small to be used again;
- on the CPU, what torch keeps from its first step on.

On the CPU "what the process holds" is its resident memory, on a card what torch has allocated there. The
two constants are from measured peaks of a BERT of 6 layers of 256 (128 tokens, 1, 16 and 64 rows).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from polyseme import progress
from polyseme.errors import SettingsError
from polyseme.models.batch import Batch
from polyseme.records import Record
from polyseme.tasks.preparation import Data, Preparation
from polyseme.tasks.rows import collate
from polyseme.tasks.task import Row, TaskModule
from polyseme.tasks.ways.phases import optimizers
from polyseme.tasks.ways.settings import in_bytes
from polyseme.tasks.ways.smaller import can_compute_twice, compute_twice
from polyseme.training.loop import autocast

_SLACK = 1.4
_FIRST_STEP = 64 << 20
_GIB = 1 << 30


class Fit(Record, frozen=True):
    """A way to train that fits."""

    rows: int
    """Rows computed at once."""
    twice: bool = False
    """Whether layers are computed a second time instead of kept."""
    frozen: bool = False
    """Whether only features of the frozen network fit."""
    peak: int = 0
    """Bytes expected at the most."""


class Need(NamedTuple):
    """What a step needs, in bytes, as a function of its rows."""

    fixed: float
    a_row: float

    def peak(self, rows: int) -> int:
        return int(_SLACK * (self.fixed + rows * self.a_row))


def fitting(shared: Preparation, data: dict[str, Data]) -> Fit | None:
    """The first way that fits into `memory`, and say which; None where no limit was given.

    In this order: the batch in smaller and smaller parts; layers computed twice, the batch in parts again;
    frozen features. Raises `SettingsError` where nothing fits.
    """
    written = shared.settings.machine.memory
    if written is None or not shared.way.trains_backbone:
        return None
    budget = in_bytes(written)
    least = 0
    for twice in (False, True):
        need = measured(shared, data["train"], twice=twice)
        if need is None:
            continue
        for rows in halvings(shared.settings.batch_size):
            if need.peak(rows) <= budget:
                return _said(Fit(rows=rows, twice=twice, peak=need.peak(rows)), shared)
        least = need.peak(1)
    held = int(_SLACK * (held_now(shared.device) + 4 * _count(shared.base.backbone.parameters())))
    if held <= budget and shared.way.may_rest:
        return _said(Fit(rows=shared.settings.batch_size, frozen=True, peak=held), shared)
    raise SettingsError(
        f"memory {written} is too little: this network needs at least {min(least, held) / _GIB:.2f} GiB with "
        f"one text of {_longest(data['train'])} tokens at once; lower max_length, or take a smaller model"
    )


def measured(shared: Preparation, data: Data, *, twice: bool) -> Need | None:
    """What training on the longest rows needs; None where the network has no layers to compute twice."""
    before = held_now(shared.device)
    with torch.random.fork_rng():
        module = shared.module()
        if twice and not can_compute_twice(module.backbone):
            return None
        phases = shared.way.phases(shared, module)
        learning = max(_count(optimizers(module, phase, shared.settings).parameters) for phase in phases)
        layer = _layer_bytes(shared, data, module) if twice else 0.0
        if twice:
            compute_twice(module.backbone)
        module.train()
        one, two = (_kept(shared, module, _repeated(shared, data, rows)) for rows in (1, 2))
    everything = _count(cast(nn.Module, module).parameters())
    here = 0 if shared.device.type == "cuda" else 4 * everything + _FIRST_STEP
    fixed = before + 4 * everything + here + 12 * learning + max(0, 2 * one - two)
    return Need(fixed, two - one + layer)


def held_now(device: torch.device) -> int:
    """Bytes in use."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _layer_bytes(shared: Preparation, data: Data, module: TaskModule) -> float:
    """What one row keeps of one layer while it is computed again, and the inputs that all layers keep."""
    module.train()
    kept = _kept(shared, module, _repeated(shared, data, 2)) - _kept(
        shared, module, _repeated(shared, data, 1)
    )
    config = shared.config
    inputs = config.num_layers * _longest(data) * config.hidden_size * 4
    return kept / max(1, config.num_layers) + inputs


def _kept(shared: Preparation, module: TaskModule, batch: Batch) -> int:
    """Bytes that a forward pass keeps for the backward one, weights left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in cast(nn.Module, module).parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        autocast("bf16" if shared.precision == "bf16" else "fp32", shared.device),
    ):
        loss = module(batch.to(shared.device))
    del loss
    return sum(seen.values())


def _repeated(shared: Preparation, data: Data, count: int) -> Batch:
    """The longest row, so many times."""
    row = max(_rows(data), key=lambda row: len(row.input_ids))
    return collate([row] * count, padding=shared.tokenizer.filling_id, config=shared.config)


def _rows(data: Data) -> Iterator[Row]:
    return (row for of_example in data.rows for row in of_example)


def _longest(data: Data) -> int:
    return max(len(row.input_ids) for row in _rows(data))


def _count(parameters: Iterable[Any]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def halvings(size: int) -> Iterator[int]:
    """The size, half of it, and so on down to 1."""
    while size > 1:
        yield size
        size = -(-size // 2)
    yield 1


def _said(fit: Fit, shared: Preparation) -> Fit:
    size, memory = shared.settings.batch_size, shared.settings.machine.memory
    how = "features of the frozen network fit" if fit.frozen else f"{fit.rows} of {size} texts at once"
    if fit.twice:
        how += ", layers computed twice"
    progress.say(f"memory {memory}: {how}; about {fit.peak / _GIB:.2f} GiB at most")
    return fit
