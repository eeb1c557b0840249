"""The tensors of a folder, whichever file they lie in, each read only when it is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from polyseme.checkpoints.json_files import read_object
from polyseme.checkpoints.torch_files import read_torch_file
from polyseme.errors import CheckpointError
from polyseme.files import refuse_lfs_pointer, require_readable
from polyseme.models.finite import first_not_finite


class Stored(NamedTuple):
    """One tensor on disk."""

    name: str
    file: Path
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    turned: bool = False
    """Whether `read` turns a matrix that is written the other way round."""
    made_of: tuple[str, ...] = ()
    """The tensors of the file that `read` puts together or cuts; empty where it is one of them as it is."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The tensors of the file that this one comes from."""
        return self.made_of or (self.name,)


def open_weights(folder: Path) -> dict[str, Stored]:
    """The tensors of a model folder by their names in its files.

    Data before code: safetensors, whole or in shards, and only without them `pytorch_model.bin`.
    """
    for name, opener in READERS.items():
        whole, index = folder / name, folder / f"{name}.index.json"
        if whole.is_file():
            return opener(whole)
        if index.is_file():
            return _open_shards(index, opener)
    present = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise CheckpointError(
        f"{folder} has no weights that polyseme reads ({' or '.join(READERS)}); it holds {present}"
    )


def _open_shards(index: Path, opener: Callable[[Path], dict[str, Stored]]) -> dict[str, Stored]:
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files")
    shards: dict[str, dict[str, Stored]] = {}
    for place in sorted(set(places.values())):
        if Path(place).name != place:
            raise CheckpointError(f"{index} names the file {place!r}, which lies outside of its folder")
        if not (index.parent / place).is_file():
            raise CheckpointError(f"{index} names the file {place}, which is missing; fetch it again")
        shards[place] = opener(index.parent / place)
    stored: dict[str, Stored] = {}
    for place, tensors in shards.items():
        for name in tensors:
            if places.get(name) != place:
                raise CheckpointError(
                    f"{index.parent / place} holds {name}, which {index.name} does not place there"
                )
        stored |= tensors
    for name, place in places.items():
        if name not in stored:
            raise CheckpointError(f"{index} places {name} in {place}, which does not hold it")
    return stored


def _open_safetensors(path: Path) -> dict[str, Stored]:
    refuse_lfs_pointer(path, CheckpointError)
    require_readable(path, CheckpointError)
    try:
        file: Any = safe_open(path, framework="pt")
        return {
            name: Stored(name, path, tuple(file.get_slice(name).get_shape()), _reader(file, path, name))
            for name in file.keys()  # noqa: SIM118 (not a dictionary)
        }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut off: {error}; fetch or write it again") from error


def _reader(file: Any, path: Path, name: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        try:
            tensor: Tensor = file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError, AttributeError) as error:
            raise CheckpointError(f"{path}: {name} cannot be read: {error}") from error
        return tensor

    return read


def open_torch(path: Path) -> dict[str, Stored]:
    def stored(name: str, tensor: Tensor) -> Stored:
        return Stored(name, path, tuple(tensor.shape), lambda: tensor)

    return {name: stored(name, tensor) for name, tensor in read_torch_file(path).items()}


READERS: dict[str, Callable[[Path], dict[str, Stored]]] = {
    "model.safetensors": _open_safetensors,
    "pytorch_model.bin": open_torch,
}
"""The files that hold weights, the safest first; each may also stand as shards with an index."""


def as_floats(stored: Stored, dtype: torch.dtype) -> Tensor:
    """The tensor in `dtype`, in memory of its own; a `CheckpointError` where it holds no real numbers, or NaN
    or infinity."""
    tensor = stored.read()
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{stored.file}: {stored.name} holds {str(tensor.dtype).removeprefix('torch.')} and not floats; "
            "polyseme reads no quantised weights"
        )
    floats = tensor.to(dtype, copy=True).contiguous()
    if wrong := first_not_finite({stored.name: floats}):
        raise CheckpointError(f"{stored.file}: {wrong}; the weights are damaged: fetch or train them again")
    return floats
