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

from polyseme import progress
from polyseme.checkpoints.cards import how_made
from polyseme.checkpoints.fingerprints import fingerprint
from polyseme.errors import CheckpointError, SettingsError
from polyseme.files import check_free, held, write_whole
from polyseme.integrity import (
    FileEntry,
    entry_of,
    read_checked_object,
    read_checked_record,
    same,
    write_checked,
)
from polyseme.records import Record, flat, to_json, to_plain
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
_OTHERWISE = "; remove the folder to start again, or only this file to compute its part again"
_COMMAND, _FIT = "command.json", "fit.json"


class _Finished(Record, frozen=True, kw_only=True):
    """What the file of a finished run holds: a `Run` without its tensors."""

    seed: int
    dev: dict[str, float]
    test: dict[str, float]
    epochs: list[dict[str, Any]]
    tokens: int
    seconds: float
    files: dict[str, FileEntry]

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

    @property
    def trial(self) -> Path:
        """Where saving is tried before the first step."""
        return self.folder / "trial"

    def fit(self, shared: Preparation, data: dict[str, Data]) -> Fit | None:
        """How the fine-tuning fits into its memory, measured by the first of its calls only."""
        path = self.folder / _FIT
        if path.exists():
            return read_checked_record(path, Fit, otherwise=_OTHERWISE)
        fit = fitting(shared, data)
        if fit is not None:
            write_checked(path, to_json(fit))
        return fit

    def read(self, name: str, *, seed: int, metric: str, like: Run | None) -> Run | None:
        """A run that was finished before; without weights if a run before it is better.

        Raises `CheckpointError` where the file is of another seed, or has other scores than the run `like`.
        """
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        scores = read_checked_record(path, _Finished, otherwise=_OTHERWISE)
        content = {}
        for file, entry in scores.files.items():
            if Path(file).name != file or not (self.folder / file).is_file():
                raise CheckpointError(f"{self.folder / file} is missing{_OTHERWISE}")
            if not same(self.folder / file, entry):
                raise CheckpointError(f"{self.folder / file} is damaged{_OTHERWISE}")
            content[file] = (self.folder / file).read_bytes()
        best, outputs = content.get(f"{name}.safetensors"), content.get(f"{name}-outputs.safetensors")
        known = like is None or (scores.dev.keys(), scores.test.keys()) == (like.dev.keys(), like.test.keys())
        if scores.seed != seed or metric not in scores.dev or not known or (like is None and best is None):
            raise CheckpointError(
                f"{path} is not the result of seed {seed} of this fine-tuning; remove it to train that again"
            )
        fields = msgspec.structs.asdict(scores)
        del fields["files"]
        try:
            return Run(
                **fields,
                tensors=tensors_from(best) if best is not None else {},
                outputs=_outputs(outputs) if outputs is not None else [],
            )
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"the tensors beside {path} cannot be read ({' '.join(str(error).split())[:200]}); "
                f"remove {path} to train this run again"
            ) from error

    def write(self, name: str, run: Run) -> None:
        """Keep a finished run; its state is no longer needed."""
        content = {}
        if run.outputs:
            content[f"{name}-outputs.safetensors"] = bytes_of(_tensors(run.outputs))
        if run.tensors:
            content[f"{name}.safetensors"] = bytes_of(run.tensors)
        for file, data in content.items():
            write_whole(self.folder / file, data)
        values = {field: getattr(run, field) for field in _Finished.__struct_fields__ if field != "files"}
        files = {file: entry_of(data) for file, data in content.items()}
        write_checked(self.folder / f"{name}.json", msgspec.json.encode(_Finished(**values, files=files)))
        shutil.rmtree(self.state(name), ignore_errors=True)


def already_made(out: Path, command: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the folder `out` was made, if by just this command; None where there is none.

    Raises `DataError` where something else is in the way.
    """
    made = how_made(out)
    if made.get("command") != command_hash(command):
        check_free(out)
        return None
    progress.say(f"{out} is fine-tuned already, by the same command")
    return made


def command_hash(command: Mapping[str, Any]) -> str:
    """SHA-256 of what decides the result of a fine-tuning."""
    return hashlib.sha256(msgspec.json.encode(command, order="deterministic")).hexdigest()


@contextlib.contextmanager
def partial(out: str | Path | None) -> Iterator[Partial | None]:
    """The folder beside `out` while the block runs; it goes when the block ends well, or holds nothing yet.

    None without `out`. Raises `DataError` where something else than a fine-tuning is in `out` already, or
    another process writes it.
    """
    if out is None:
        yield None
        return
    beside = Path(out).with_name(f"{Path(out).name}.partial")
    if "command" not in how_made(Path(out)):
        check_free(Path(out))
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
    """The task, its own settings, a fingerprint of each file's rows, and the token rows that learn."""
    own: dict[str, Any] = to_plain(shared.task.settings)
    examples = {f"{name} examples": _fingerprint(part) for name, part in data.items()}
    rows = None if shared.used_ids is None else len(shared.used_ids)
    return {"task": shared.task.name, **own, **examples, "number of trained token rows": rows}


def check_command(place: Partial, now: dict[str, Any]) -> None:
    """Write down what is done here; refuse to go on with something else in the same folder."""
    path = place.folder / _COMMAND
    if not path.exists():
        write_checked(path, to_json(now))
        return
    then = read_checked_object(path, otherwise=_OTHERWISE)
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
