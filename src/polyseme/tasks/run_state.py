"""The exact state of a fine-tuning run on disk, from which a killed one goes on bit for bit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from polyseme import progress
from polyseme.devices import environment
from polyseme.errors import CheckpointError
from polyseme.records import read_json
from polyseme.training.optimizers import Optimizers
from polyseme.training.state import Progress, load_state, newest_state, save_state

_STANDING, _BEST, _CARD = "standing.json", "best.safetensors", "cuda.safetensors"


class Standing(msgspec.Struct):
    """Where a run stands, beside its tensors."""

    phase: int = 0
    step: int = 0
    """Steps of this phase."""
    done: int = 0
    """Steps of all phases."""
    epoch: int = 0
    """Epochs of all phases."""
    first_epoch: int = 0
    """Those before this phase."""
    over: bool = False
    """Whether the phase came to its end before its last epoch."""
    best_epoch: int = 0
    dev: dict[str, float] = msgspec.field(default_factory=dict)
    """Scores of the best epoch."""
    lines: list[dict[str, Any]] = msgspec.field(default_factory=list)
    """One an epoch, for the journal."""
    skipped: int = 0
    """Steps so far whose loss or gradient was not finite."""
    tokens: int = 0
    seconds: float = 0.0

    def leave_phase(self) -> None:
        """Stand at the beginning of the next phase."""
        self.phase, self.step, self.over, self.first_epoch = self.phase + 1, 0, False, self.epoch


@dataclass(frozen=True)
class Found:
    """A state that was found."""

    standing: Standing
    best: dict[str, Tensor]
    """The weights of the best epoch; empty before the first one's end."""
    folder: Path

    def fill(self, module: nn.Module, optimizers: Optimizers) -> None:
        """Fill module, optimizers and torch's generators."""
        then = load_state(self.folder, module, optimizers).environment
        for key, now in environment().items():
            if then.get(key) != now:
                progress.warn(
                    f"{key} was {then.get(key)} and is {now}: the run goes on, but not bit for bit as it "
                    "would have"
                )
        if (self.folder / _CARD).exists() and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors_from((self.folder / _CARD).read_bytes())["generator"])


def write_run(
    folder: Path, module: nn.Module, optimizers: Optimizers, standing: Standing, best: dict[str, Tensor]
) -> None:
    """Write the state, whole or not at all; the one before it goes."""
    more = {_STANDING: msgspec.json.encode(standing), _BEST: bytes_of(best)}
    if torch.cuda.is_available():
        more[_CARD] = bytes_of({"generator": torch.cuda.get_rng_state()})
    figures = Progress(
        step=standing.done,
        epoch=standing.epoch,
        batch=standing.step,
        tokens=standing.tokens,
        seconds=standing.seconds,
        total_steps=max(1, standing.done),
        settled=True,
        environment=environment(),
    )
    save_state(folder, module, optimizers, figures, more=more)


def read_run(folder: Path | None) -> Found | None:
    """The newest whole state below `folder`, if there is one."""
    newest = newest_state(folder) if folder is not None and folder.exists() else None
    if newest is None:
        return None
    standing = read_json(newest / _STANDING, Standing)
    try:
        best = tensors_from((newest / _BEST).read_bytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{newest / _BEST} cannot be read: {error}") from error
    return Found(standing, best, newest)
