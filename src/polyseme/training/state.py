"""The exact state of a run on disk: weights, optimizers, position; whole or not at all.

A state is a folder `state/step-00000100`, built under a temporary name, synced and renamed, with the
hashes of its files in `state.json`, written last. The one before it goes only after the new one stands, so
whatever stops the program, a complete state is there.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.nn as nn
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor

from polyseme.errors import CheckpointError
from polyseme.files import whole_folder, write_whole
from polyseme.integrity import FileEntry, entry_of_file, read_checked_record, same, write_checked
from polyseme.models.finite import first_not_finite
from polyseme.progress import warn
from polyseme.records import Record, to_json
from polyseme.training.loader import Position
from polyseme.training.loop import LossError
from polyseme.training.optimizers import Optimizers

_WEIGHTS, _OPTIMIZERS, _STATE = "weights.safetensors", "optimizers.safetensors", "state.json"


class Progress(Record, frozen=True, kw_only=True):
    """Where a run stands, beside its tensors."""

    step: int
    """Steps done."""
    epoch: int
    batch: int
    """The next batch's place in its epoch."""
    tokens: int
    """Real tokens read so far."""
    seconds: float
    """Time spent in training, over all starts."""
    total_steps: int
    settled: bool
    """Whether `total_steps` is final (with --minutes it is an estimate until the cooldown begins)."""
    skipped_steps: int = 0
    """Steps so far whose loss or gradient was not finite."""
    environment: dict[str, str | int]
    files: dict[str, FileEntry] = {}  # noqa: RUF012  msgspec copies it for every record
    """The files beside this one."""

    def __post_init__(self) -> None:
        for name in ("step", "epoch", "batch", "tokens", "seconds", "skipped_steps"):
            if not 0 <= getattr(self, name) < 1 << 62:
                raise ValueError(f"{name} must not be negative, nor above 2^62, got {getattr(self, name)}")
        if not 1 <= self.total_steps < 1 << 62:
            raise ValueError(f"total_steps must be at least 1, got {self.total_steps}")
        for name in self.files:
            if Path(name).name != name or "\0" in name:
                raise ValueError(f"files names {name!r}, which lies outside of the state's folder")

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.batch)


def save_state(
    folder: Path,
    module: nn.Module,
    optimizers: Optimizers,
    progress: Progress,
    *,
    more: Mapping[str, bytes] | None = None,
) -> None:
    """Write `folder/step-…`, with `more` files of the caller's, then remove the states before it."""
    target = folder / f"step-{progress.step:08}"
    if target.exists() and _complete(target):
        return  # the same step of the same run: the same bytes
    weights, slots = _own_tensors(module), _optimizer_tensors(optimizers)
    if wrong := first_not_finite(weights) or first_not_finite(slots):
        raise LossError(
            f"after step {progress.step}, {wrong}, so this state is not saved; lower the learning rate"
        )
    with whole_folder(target, replace=True) as building:
        write_whole(building / _WEIGHTS, bytes_of(weights))
        write_whole(building / _OPTIMIZERS, bytes_of(slots))
        for name, content in (more or {}).items():
            write_whole(building / name, content)
        names = (_WEIGHTS, _OPTIMIZERS, *(more or {}))
        entries = {name: entry_of_file(building / name) for name in names}
        write_checked(building / _STATE, to_json(msgspec.structs.replace(progress, files=entries)))
    remove_other_states(target)


def remove_other_states(kept: Path) -> None:
    """Remove the states beside `kept`, and what a process that was killed left of one."""
    for other in (*kept.parent.glob("step-*"), *kept.parent.glob(".step-*")):
        if other != kept:
            shutil.rmtree(other, ignore_errors=True)


def newest_state(folder: Path) -> Path | None:
    """The furthest complete state below `folder`; damaged ones are passed over. None if none was written."""
    found = sorted(folder.glob("step-*"), reverse=True)
    for candidate in found:
        if _complete(candidate):
            if candidate != found[0]:
                warn(f"{found[0]} is damaged; {candidate.name} is used instead")
            return candidate
    if found:
        raise CheckpointError(f"{found[0]} is damaged, and there is no other state; start in another folder")
    return None


@contextmanager
def naming_kept_state(folder: Path | None) -> Iterator[None]:
    """Add to a `LossError` which state below `folder` is kept; nothing is written."""
    try:
        yield
    except LossError as error:
        kept = newest_state(folder) if folder is not None and folder.exists() else None
        rest = "no state was saved before it" if kept is None else f"{kept} is kept and can be resumed"
        raise LossError(f"{error}; {rest}") from error


def load_state(folder: Path, module: nn.Module, optimizers: Optimizers) -> Progress:
    """Fill module, optimizers and torch's generator from one state; a `CheckpointError` where it is another
    network's."""
    progress = read_checked_record(folder / _STATE, Progress)
    try:
        tensors = tensors_from((folder / _WEIGHTS).read_bytes())
        module.load_state_dict({name: tensors[first] for name, first in _first_names(module).items()})
        _load_optimizers(optimizers, tensors_from((folder / _OPTIMIZERS).read_bytes()))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} is no state of this run ({' '.join(str(error).split())[:200]}); "
            "start in another folder"
        ) from error
    return progress


def _complete(folder: Path) -> bool:
    try:
        progress = read_checked_record(folder / _STATE, Progress)
        return (
            folder.name == f"step-{progress.step:08}"
            and progress.files.keys() >= {_WEIGHTS, _OPTIMIZERS}
            and all(same(folder / name, entry) for name, entry in progress.files.items())
        )
    except (OSError, CheckpointError):
        return False


def _first_names(module: nn.Module) -> dict[str, str]:
    """The name under which each tensor is written: its own, or where modules share it the first of all."""
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    return {
        name: first.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name) if tensor.numel() else name
        for name, tensor in module.state_dict().items()
    }


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    first = _first_names(module)
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in module.state_dict().items()
        if first[name] == name
    }


def _optimizer_tensors(optimizers: Optimizers) -> dict[str, Tensor]:
    """Every tensor of the optimizers' states by `member.parameter.name`, and the generator's state."""
    tensors = {"generator": torch.get_rng_state()}
    for number, member in enumerate(optimizers.members):
        for parameter, state in member.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"{number}.{parameter}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def _load_optimizers(optimizers: Optimizers, tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors.pop("generator"))
    for number, member in enumerate(optimizers.members):
        state: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            owner, parameter, name = key.split(".", 2)
            if int(owner) == number:
                state.setdefault(int(parameter), {})[name] = tensor
        member.load_state_dict({"state": state, "param_groups": member.state_dict()["param_groups"]})
