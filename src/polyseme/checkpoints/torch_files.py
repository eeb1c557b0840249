"""PyTorch's pickled files, read as tensors and nothing else."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyseme.checkpoints.notes import say_once
from polyseme.errors import CheckpointError
from polyseme.files import refuse_lfs_pointer, require_readable

_WEIGHTS = ("state_dict", "model_state_dict", "model")
"""Keys under which training programs, PyTorch Lightning's among them, save a model's weights."""
_FORBIDDEN = re.compile(r"GLOBAL (\S+)")


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.bin` file by name.

    A pickle can name any function to be called. torch's restricted unpickler calls none but those that
    rebuild tensors; a file that asks for another is refused, and the error names what it asked for.
    """
    refuse_lfs_pointer(path, CheckpointError)
    require_readable(path, CheckpointError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # A word on unusual pickles; the errors below say what matters.
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if forbidden := _FORBIDDEN.search(str(error)):
            raise CheckpointError(
                f"{path} is not only weights: it asks to call {forbidden.group(1)}; "
                "polyseme runs no code from files, use a safetensors version of the model"
            ) from error
        raise CheckpointError(f"{path} is not a file of tensors: {_first_line(error)}") from error
    except Exception as error:  # A damaged pickle raises whatever its bytes happen to say.
        raise CheckpointError(f"{path} is damaged or cut off: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not tensors by name")
    content = _weights_of_training(content, path)
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise CheckpointError(
                f"{path}: the entry {name!r} is a {type(tensor).__name__}, not a plain tensor"
            )
    return {name: tensor.detach() for name, tensor in content.items()}


def _weights_of_training(content: dict[Any, Any], path: Path) -> dict[Any, Any]:
    """The weights of a training program's checkpoint, which has its step, optimizer and more beside them."""
    for key in _WEIGHTS:
        inner = content.get(key)
        if isinstance(inner, dict) and any(isinstance(value, Tensor) for value in inner.values()):
            others = ", ".join(str(name) for name in content if name != key)
            say_once(f"{path}: the weights are read from {key!r}" + (f", without {others}" if others else ""))
            return inner
    return content


def _first_line(error: Exception) -> str:
    """What went wrong, without torch's advice to read the file by a loader that runs code."""
    message = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    return message.splitlines()[0][:200]
