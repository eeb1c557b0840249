"""Saving, tried before a long training: everything but the weights is written, read back and compared."""

import math
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from polyseme import progress
from polyseme.checkpoints.formats import format_of
from polyseme.checkpoints.loading import read_model
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.saving import WEIGHTS, card_of, published_weights, small_files_of
from polyseme.checkpoints.weights import Stored
from polyseme.errors import CheckpointError, PolysemeError
from polyseme.files import disk_errors
from polyseme.integrity import recorded
from polyseme.records import flat, to_json
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.tokenizer_files import read_tokenizer

_GIB = 1 << 30


def try_saving(model: Model, out: Path, *, folder: Path) -> Model:
    """Write all files of the model but its weights into `folder`, and give the model that they are read as.

    The weights count by their names and shapes. `folder` is there only meanwhile; `out` is where the trained
    model is going to be. Raises the `CheckpointError` that saving would raise, or one that says what would
    not come back as it is. Too little free space is a warning.
    """
    files = recorded(small_files_of(model), to_json(card_of(model)))
    weights = published_weights(model, format_of(model.card.family), shapes_only=True)
    _check_space(weights, out)
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed here
    try:
        with disk_errors(out):
            for name, content in files.items():
                (folder / name).parent.mkdir(exist_ok=True, parents=True)
                (folder / name).write_bytes(content)
        return _read_back(model, folder, _stored(weights, folder / WEIGHTS))
    except PolysemeError as error:
        plain = str(error).replace(str(folder), str(out))
        raise CheckpointError(f"the trained model could not be saved to {out}: {plain}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_back(model: Model, folder: Path, stored: dict[str, Stored]) -> Model:
    read, _ = read_model(folder, heads=list(model.heads), stored=stored)
    pairs: dict[str, tuple[Any, Any]] = {
        "settings": (_settings(model), _settings(read)),
        "metadata": (to_json(card_of(model)), to_json(read.card)),
        "tensors": (_shapes(model), _shapes(read)),
        "tensors of the task": (
            {name: tensor.shape for name, tensor in model.task_tensors.items()},
            {name: tensor.shape for name, tensor in read.task_tensors.items()},
        ),
    }
    different = [name for name, (before, after) in pairs.items() if before != after]
    if model.tokenizer is not None:
        reads_types = model.backbone.config.tells_segments
        different += [] if _same(model.tokenizer, folder, types=reads_types) else ["tokenizer"]
        read.tokenizer = model.tokenizer
    if different:
        raise CheckpointError(
            f"its {different[0]} would not be the same after reading the {model.card.family} folder back"
        )
    return read


def _same(tokenizer: Tokenizer, folder: Path, *, types: bool) -> bool:
    """Whether the folder's tokenizer is this one; it is made only where its files differ from it.

    The `types` of tokens count where the model reads them; elsewhere the files leave them out.
    """
    definition, roles, kept = read_tokenizer(folder)
    if (definition, roles, kept) == (tokenizer.definition, tokenizer.special_tokens, tokenizer.kept):
        return True
    other = Tokenizer(definition, roles, kept=kept)
    own, read = tokenizer.frame, other.frame
    if not types:
        read = read._replace(types=own.types, single_types=own.single_types)
    return own == read and all(
        getattr(tokenizer, name) == getattr(other, name)
        for name in ("kind", "vocabulary", "special_tokens", "special_ids", "kept")
    )


def _stored(weights: dict[str, Tensor], path: Path) -> dict[str, Stored]:
    """The weights as a file would give them, without any numbers."""

    def stored(name: str, tensor: Tensor) -> Stored:
        return Stored(name, path, tuple(tensor.shape), lambda: tensor)

    return {name: stored(name, tensor) for name, tensor in weights.items()}


def _settings(model: Model) -> dict[str, Any]:
    """The network's choices, without those that only matter for fresh weights and are written nowhere."""
    left_out = format_of(model.card.family).fresh_only
    return {name: value for name, value in flat(model.backbone.config).items() if name not in left_out}


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Of every tensor that has a published name."""
    parts: dict[str, nn.Module] = {"": model.backbone, **model.heads}
    vocabulary = model.backbone.config.vocab_size
    return {
        f"{part}.{name}": tuple(min(size, vocabulary) if size > vocabulary else size for size in tensor.shape)
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def _check_space(weights: dict[str, Tensor], out: Path) -> None:
    needed = sum(tensor.element_size() * math.prod(tensor.shape) for tensor in weights.values())
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        progress.warn(
            f"{out}: the disk has {free / _GIB:.2f} GiB free, and the weights alone take "
            f"{needed / _GIB:.2f} GiB; make room before the training ends, or name another disk"
        )
