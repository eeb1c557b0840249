"""Dense modules of sentence-transformers: linear maps behind the pooling, read and written as it does."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from polyseme.checkpoints.json_files import read_object
from polyseme.checkpoints.sentence_transformers_keys import DENSE, check_keys
from polyseme.checkpoints.weights import as_floats, open_weights
from polyseme.errors import CheckpointError
from polyseme.models.projection import Dense
from polyseme.records import to_json

_TORCH = "torch.nn.modules."
ACTIVATIONS = {
    f"{_TORCH}linear.Identity": "identity",
    f"{_TORCH}activation.Tanh": "tanh",
    f"{_TORCH}activation.ReLU": "relu",
    f"{_TORCH}activation.GELU": "gelu",
    f"{_TORCH}activation.SiLU": "silu",
    f"{_TORCH}activation.Sigmoid": "sigmoid",
}
"""By the names of their classes: nothing is imported because a file names it."""

_MOST_FEATURES = 1 << 16


def read_dense(folder: Path, *, size: int) -> Dense:
    """The map of a module's folder, which reads vectors of `size` dimensions."""
    path = folder / "config.json"
    settings = read_object(path)
    check_keys(settings, DENSE, path)
    inner, outer = settings.get("in_features"), settings.get("out_features")
    if inner != size or isinstance(inner, bool):
        raise CheckpointError(f"{path}: in_features is {_shown(inner)}, and the vectors before have {size}")
    if not isinstance(outer, int) or isinstance(outer, bool) or not 0 < outer <= _MOST_FEATURES:
        raise CheckpointError(
            f"{path}: out_features is {_shown(outer)}; it is a number from 1 to {_MOST_FEATURES}"
        )
    bias = settings.get("bias", True)
    if not isinstance(bias, bool):
        raise CheckpointError(f"{path}: bias is {_shown(bias)}; it is true or false")
    dense = Dense(inner, outer, bias=bias, activation=_activation(settings, path))
    stored = open_weights(folder)
    wanted = dense.state_dict()
    if stored.keys() != wanted.keys():
        raise CheckpointError(
            f"{folder} holds the weights {', '.join(sorted(stored))[:200] or 'none'}; "
            f"its settings ask for {', '.join(wanted)}"
        )
    for name, tensor in wanted.items():
        if stored[name].shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{folder}: {name} has the shape {list(stored[name].shape)}, "
                f"and its settings {list(tensor.shape)}"
            )
    dense.load_state_dict({name: as_floats(tensor, torch.float32) for name, tensor in stored.items()})
    return dense.eval()


def dense_files(dense: Dense) -> dict[str, bytes]:
    """What a module's folder holds, by name."""
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    settings = {
        "in_features": dense.linear.in_features,
        "out_features": dense.linear.out_features,
        "bias": dense.linear.bias is not None,
        "activation_function": names[dense.activation_name],
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in dense.state_dict().items()}
    return {
        "config.json": to_json(settings),
        "model.safetensors": safetensors.torch.save(weights, metadata={"format": "pt"}),
    }


def _activation(settings: dict[str, Any], path: Path) -> str:
    name = settings.get("activation_function", f"{_TORCH}activation.Tanh")
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise CheckpointError(
            f"{path}: activation_function is {_shown(name)}, which is not computed; "
            f"{', '.join(known.rpartition('.')[2] for known in ACTIVATIONS)} of torch are"
        )
    return ACTIVATIONS[name]


def _shown(value: Any) -> str:
    return type(value).__name__ if isinstance(value, int) and abs(value) >> 64 else f"{value!r:.60}"
