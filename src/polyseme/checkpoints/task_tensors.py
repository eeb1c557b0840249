"""What a task keeps beside the published layout: `task.safetensors`, which other libraries pass over."""

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from polyseme.errors import CheckpointError
from polyseme.files import refuse_lfs_pointer
from polyseme.models.finite import first_not_finite

TASK_TENSORS = "task.safetensors"


def task_tensor_files(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    """The file, by its name; none where there is nothing to keep."""
    if not tensors:
        return {}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return {TASK_TENSORS: safetensors.torch.save(plain, metadata={"format": "pt"})}


def read_task_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors by the names that the task's network has for them; empty without the file."""
    path = folder / TASK_TENSORS
    if not path.is_file():
        return {}
    refuse_lfs_pointer(path, CheckpointError)
    try:
        tensors = dict(safetensors.torch.load_file(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; fetch it again") from error
    if wrong := first_not_finite(tensors):
        raise CheckpointError(f"{path}: {wrong}; the weights are damaged: fetch or train them again")
    return tensors
