"""Any known model folder to one of ours, or to TensorFlow's, with a receipt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from polyseme import progress
from polyseme.checkpoints.filling import Reading, listed
from polyseme.checkpoints.foreign.writing import tensorflow_files
from polyseme.checkpoints.hub import resolve
from polyseme.checkpoints.loading import heads_in, read_model
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.reference import compared_with_transformers
from polyseme.checkpoints.saving import files_of
from polyseme.errors import CheckpointError
from polyseme.files import whole_folder
from polyseme.threads import torch_threads

Target = Literal["transformers", "tensorflow"]


@dataclass(frozen=True)
class Receipt:
    """What became of the tensors of a converted model."""

    family: str
    layout: str
    """The layout in which the model was read."""
    heads: tuple[str, ...]
    tensors: int
    """Tensors read."""
    renamed: int
    """Of these, how many have another name here."""
    transposed: int
    """Of these, how many are matrices that are written the other way round here."""
    cut: int
    """Of these, how many are several tensors here."""
    unused: tuple[str, ...]
    """Tensors that hold nothing of their own: the other ends of ties, and buffers."""
    skipped: tuple[str, ...]
    """Tensors of heads that were not asked for."""
    parameters: int
    """Numbers that the model learns."""
    left: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tensors that hold no weights of the model, by what they are."""
    unheeded: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the target's own code does not heed."""
    checked: str = ""
    """What a comparison of outputs said."""

    def __str__(self) -> str:
        names = {"not needed": self.unused, "left out": self.skipped}
        rest = "".join(f"; {why}: {listed(found)}" for why, found in names.items() if found)
        rest += "".join(f"; {kind} ({len(found)}): {listed(found)}" for kind, found in self.left.items())
        if self.unheeded:
            told = ", ".join(f"{key} {value}" for key, value in self.unheeded.items())
            rest += f"; TensorFlow's code computes another {told}"
        origin = "" if self.layout == "transformers" else f" from {self.layout}"
        return (
            f"{self.family} with {', '.join(self.heads) or 'no head'}{origin}: {self.tensors} tensors read, "
            f"{self.renamed} renamed, {self.transposed} transposed, {self.cut} cut into several, "
            f"{self.parameters:,} parameters{rest}" + (f"\n{self.checked}" if self.checked else "")
        )


@torch_threads()
def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Target = "transformers",
    heads: Sequence[str] | None = None,
    layout: str | None = None,
    settings: str | Path | None = None,
    ignore: Sequence[str] = (),
    check: bool = False,
) -> Receipt:
    """Read a model folder or hub name and write it to the folder `target`.

    The source may be a folder of transformers, of TensorFlow's projects, of UER-py, of Paddle or of OpenAI;
    `layout` says which one where several fit, and `settings` names a settings file that lies elsewhere.
    Without `heads` all of the model is kept, and a `CheckpointError` names what could not be; with them
    other heads are left out. Tensors whose names in the file match a pattern in `ignore` ("crf.*") are left
    out, and the receipt names them. With `check` the receipt, which is for printing, tells how far the
    outputs are from those of transformers, or whether what was written for TensorFlow reads back bit by bit.
    A target that has just these files already is left alone.
    """
    folder = resolve(source)
    file = None if settings is None else Path(settings)
    if heads is None:
        heads, lost = heads_in(folder, layout=layout, settings=file, ignore=ignore), True
    else:
        lost = False
    model, reading = read_model(folder, heads=heads, layout=layout, settings=file, ignore=ignore)
    if reading.skipped and lost:
        raise CheckpointError(
            f"{folder} holds {listed(reading.skipped)}, which would be lost; "
            "name the heads to keep in heads= if the rest may go"
        )
    files, unheeded = tensorflow_files(model) if to == "tensorflow" else (files_of(model), {})
    if _is_there(Path(target), files):
        progress.say(f"{target} is converted already, from this model in this form")
    else:
        with whole_folder(Path(target)) as building:
            for name, content in files.items():
                path = building / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
    receipt = replace(_receipt(model, reading), unheeded=unheeded)
    if not check:
        return receipt
    compare = _read_back if to == "tensorflow" else compared_with_transformers
    return replace(receipt, checked=compare(model, Path(target)))


def _is_there(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Whether a folder holds these files and nothing else, byte for byte."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return names == files.keys() and all(
        (folder / name).read_bytes() == content for name, content in files.items()
    )


def _receipt(model: Model, reading: Reading) -> Receipt:
    modules = (model.backbone, *model.heads.values())
    return Receipt(
        family=model.card.family,
        layout=reading.layout,
        heads=tuple(model.heads),
        tensors=len(reading.used),
        renamed=sum(ours != (name,) for name, ours in reading.used.items()),
        transposed=len(reading.turned),
        cut=sum(len(ours) > 1 for ours in reading.used.values()),
        unused=reading.unused,
        skipped=reading.skipped,
        parameters=sum(parameter.numel() for module in modules for parameter in module.parameters()),
        left=reading.left,
    )


def _read_back(model: Model, folder: Path) -> str:
    """Whether the folder holds the same numbers as the model, bit by bit."""
    again, _ = read_model(folder, heads=tuple(model.heads))
    pairs = [
        (model.backbone, again.backbone),
        *((model.heads[name], again.heads[name]) for name in model.heads),
    ]
    count = 0
    for one, other in pairs:
        found = other.state_dict()
        for name, tensor in one.state_dict().items():
            if not torch.equal(tensor, found[name]):
                raise CheckpointError(f"{folder}: {name} reads back with other numbers than were written")
            count += 1
    return f"read back: {count} tensors, every one equal bit by bit"
