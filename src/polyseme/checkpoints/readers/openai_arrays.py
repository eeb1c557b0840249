"""OpenAI's arrays of GPT: params_0.npy to params_9.npy, one row of numbers, cut by params_shapes.json."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyseme.checkpoints.json_files import read_array
from polyseme.checkpoints.weights import Stored
from polyseme.errors import CheckpointError
from polyseme.files import refuse_lfs_pointer

_FIRST = ("model/positions", "model/we")
_LAYER = (
    *("attn/c_attn/w", "attn/c_attn/b", "attn/c_proj/w", "attn/c_proj/b", "ln_1/g", "ln_1/b"),
    *("mlp/c_fc/w", "mlp/c_fc/b", "mlp/c_proj/w", "mlp/c_proj/b", "ln_2/g", "ln_2/b"),
)
"""The order of the shapes in the list; the names are those that the published code gives to them."""

_MOST_PIECES = 1000
_MOST_SHAPES = 10_000
_MOST_DIMENSIONS = 8


def open_arrays(shapes_file: Path) -> dict[str, Stored]:
    """The tensors by the published code's names of what stands at their place in the list of shapes."""
    shapes = [_shape(entry, shapes_file) for entry in read_array(shapes_file)[: _MOST_SHAPES + 1]]
    layers, rest = divmod(len(shapes) - len(_FIRST), len(_LAYER))
    if layers < 1 or rest or len(shapes) > _MOST_SHAPES:
        raise CheckpointError(
            f"{shapes_file} lists {len(shapes)} shapes; GPT has {len(_FIRST)}, and {len(_LAYER)} a layer"
        )
    pieces = _pieces(shapes_file.parent)
    total, there = sum(map(math.prod, shapes)), sum(map(len, pieces))
    if total != there:
        raise CheckpointError(
            f"{shapes_file} asks for {total} numbers, and the arrays beside it hold {there}; "
            "fetch them all again"
        )
    names = [*_FIRST, *(f"model/h{layer}/{name}" for layer in range(layers) for name in _LAYER)]
    stored, start = {}, 0
    for name, shape in zip(names, shapes, strict=True):
        stored[name] = Stored(name, shapes_file, shape, _reader(pieces, start, shape))
        start += math.prod(shape)
    return stored


def _shape(entry: object, path: Path) -> tuple[int, ...]:
    sizes = entry if isinstance(entry, list) else []
    whole = all(type(size) is int and size > 0 for size in sizes)
    if not 0 < len(sizes) <= _MOST_DIMENSIONS or not whole:
        raise CheckpointError(f"{path} lists {str(entry)[:60]}, which is no shape")
    return tuple(sizes)


def _pieces(folder: Path) -> list[NDArray[np.float32]]:
    """The arrays in their order, mapped into memory."""
    pieces: list[NDArray[np.float32]] = []
    while (path := folder / f"params_{len(pieces)}.npy").exists() and len(pieces) < _MOST_PIECES:
        refuse_lfs_pointer(path, CheckpointError)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # What NumPy only warns of is damage here.
                piece = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # The header is a Python expression and fails in as many ways as one.
            first = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise CheckpointError(f"{path} is damaged or no array of NumPy: {first}") from error
        if not isinstance(piece, np.ndarray) or piece.dtype != np.float32 or piece.ndim != 1:
            raise CheckpointError(f"{path} is no row of numbers in float32")
        pieces.append(piece)
    if not pieces:
        raise CheckpointError(f"{folder} lacks params_0.npy and what follows it")
    return pieces


def _reader(pieces: list[NDArray[np.float32]], start: int, shape: tuple[int, ...]) -> Callable[[], Tensor]:
    def read() -> Tensor:
        parts, place, end = [], 0, start + math.prod(shape)
        for piece in pieces:
            parts.append(piece[max(start - place, 0) : max(end - place, 0)])
            place += len(piece)
        return torch.from_numpy(np.concatenate(parts).reshape(shape))

    return read
