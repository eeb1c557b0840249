"""What a fine-tuning keeps in `OUT.partial` until it is done, for the same command to go on."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor

from polyseme.checkpoints.fingerprints import fingerprint
from polyseme.errors import CheckpointError, DataError, SettingsError
from polyseme.files import held, write_whole
from polyseme.records import Record, flat, read_json, read_json_object, to_json, to_plain
from polyseme.tasks.preparation import Data, Preparation
from polyseme.tasks.runs import Run
from polyseme.tasks.task import ByToken, Outputs
from polyseme.tasks.ways.memory import Fit, fitting

_NO_MATTER = (
    "machine.device",
    "machine.threads",
    "machine.batch_tokens",
    "machine.precision",
)
"""Settings that the state of a run remembers where they matter, or that change no weights."""
_COMMAND, _FIT, _SAVING = "command.json", "fit.json", "saving"


class _Finished(Record, frozen=True, kw_only=True):
    """What the file of a finished run holds: a `Run` without its tensors."""

    seed: int
    dev: dict[str, float]
    test: dict[str, float]
    epochs: list[dict[str, Any]]
    tokens: int
    seconds: float

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.seconds < 0:
            raise ValueError(f"tokens and seconds must not be negative, got {self.tokens}, {self.seconds}")


class Partial:
    """The folder of an unfinished fine-tuning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state(self, name: str) -> Path:
        """Where the run `name` keeps its state."""
        return self.folder / f"{name}-state"

    def fit(self, shared: Preparation, data: dict[str, Data]) -> Fit | None:
        """How the fine-tuning fits into its memory, measured by the first of its calls only."""
        path = self.folder / _FIT
        if path.exists():
            return read_json(path, Fit)
        fit = fitting(shared, data)
        if fit is not None:
            write_whole(path, to_json(fit))
        return fit

    def begin_saving(self, out: Path) -> None:
        """Note that what lies in `out` from now on is ours; what was cut off there before goes."""
        if (self.folder / _SAVING).exists():
            shutil.rmtree(out, ignore_errors=True)
        write_whole(self.folder / _SAVING, b"")

    def read(self, name: str, *, seed: int, metric: str, like: Run | None) -> Run | None:
        """A run that was finished before; without weights if a run before it is better.

        Raises `CheckpointError` where the file is of another seed, or has other scores than the run `like`.
        """
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        scores, best = read_json(path, _Finished), self.folder / f"{name}.safetensors"
        known = like is None or (scores.dev.keys(), scores.test.keys()) == (like.dev.keys(), like.test.keys())
        if scores.seed != seed or metric not in scores.dev or not known or not (like or best.exists()):
            raise CheckpointError(
                f"{path} is not the result of seed {seed} of this fine-tuning; remove it to train that again"
            )
        outputs = self.folder / f"{name}-outputs.safetensors"
        try:
            return Run(
                **msgspec.structs.asdict(scores),
                tensors=tensors_from(best.read_bytes()) if best.exists() else {},
                outputs=_outputs(outputs.read_bytes()) if outputs.exists() else [],
            )
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"the tensors beside {path} cannot be read ({' '.join(str(error).split())[:200]}); "
                f"remove {path} to train this run again"
            ) from error

    def write(self, name: str, run: Run) -> None:
        """Keep a finished run; its state is no longer needed."""
        if run.outputs:
            write_whole(self.folder / f"{name}-outputs.safetensors", bytes_of(_tensors(run.outputs)))
        if run.tensors:
            write_whole(self.folder / f"{name}.safetensors", bytes_of(run.tensors))
        scores = _Finished(**{field: getattr(run, field) for field in _Finished.__struct_fields__})
        write_whole(self.folder / f"{name}.json", msgspec.json.encode(scores))
        shutil.rmtree(self.state(name), ignore_errors=True)


def free(out: str | Path) -> Path:
    """The folder to write, known to be free before an hour is spent."""
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not empty; name another folder, or remove it first")
    return folder


@contextlib.contextmanager
def partial(out: str | Path | None) -> Iterator[Partial | None]:
    """The folder beside `out` while the block runs; it goes when the block ends well, or holds nothing yet.

    None without `out`. Raises `DataError` where `out` is taken already, or another process writes it.
    """
    if out is None:
        yield None
        return
    beside = Path(out).with_name(f"{Path(out).name}.partial")
    if not (beside / _SAVING).exists():
        free(out)
    with held(beside, purpose="fine-tuning"):
        try:
            yield Partial(beside)
        except BaseException:
            if {path.name for path in beside.iterdir()} <= {_COMMAND, _FIT, ".lock"}:
                shutil.rmtree(beside)
            raise
        shutil.rmtree(beside)


def settings_of(shared: Preparation) -> dict[str, Any]:
    """What decides the weights of a fine-tuning, beside its task and its examples."""
    settings = {
        name: value
        for name, value in flat(shared.settings).items()
        if not name.startswith("saving.") and name not in _NO_MATTER
    }
    model = fingerprint(shared.base.backbone, shared.base.heads)
    return settings | {"precision": shared.precision, "model": model}


def task_of(shared: Preparation, data: Mapping[str, Data]) -> dict[str, Any]:
    """The task, its own settings, and a fingerprint of each file's rows."""
    own: dict[str, Any] = to_plain(shared.task.settings)
    return {"task": shared.task.name, **own} | {
        f"{name} examples": _fingerprint(part) for name, part in data.items()
    }


def check_command(place: Partial, now: dict[str, Any]) -> None:
    """Write down what is done here; refuse to go on with something else in the same folder."""
    path = place.folder / _COMMAND
    if not path.exists():
        write_whole(path, to_json(now))
        return
    then = read_json_object(path)
    for key, value in msgspec.json.decode(msgspec.json.encode(now)).items():
        if then.get(key) != value:
            shown = (
                "" if key == "model" or key.endswith(" examples") else f" ({then.get(key)} then, {value} now)"
            )
            raise SettingsError(
                f"{place.folder} was started with another {key}{shown}; repeat the first command to go on, "
                "or remove that folder"
            )


def _fingerprint(data: Data) -> str:
    """SHA-256 over the rows of all examples."""
    digest = hashlib.sha256()
    for rows in data.rows:
        for row in rows:
            for array in (row.input_ids, row.token_type_ids, row.label):
                digest.update(b"." if array is None else np.ascontiguousarray(array).tobytes())
        digest.update(b"\n")
    return digest.hexdigest()


def _tensors(outputs: list[Outputs]) -> dict[str, Tensor]:
    """Every array by the number of its example, and by its field where an example has several."""
    named: dict[str, Any] = {}
    for number, output in enumerate(outputs):
        fields = output._asdict() if isinstance(output, ByToken) else {"": output}
        named |= {f"{number}.{field}": array for field, array in fields.items() if array is not None}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in named.items()}


def _outputs(content: bytes) -> list[Outputs]:
    """The opposite of `_tensors`."""
    found: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors_from(content).items():
        number, _, field = name.partition(".")
        found.setdefault(int(number), {})[field] = tensor.numpy()
    return [fields[""] if "" in fields else ByToken(**fields) for _, fields in sorted(found.items())]
