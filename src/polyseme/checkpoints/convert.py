"""Any known model folder to one of ours, with a receipt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polyseme.checkpoints.filling import listed
from polyseme.checkpoints.hub import resolve
from polyseme.checkpoints.loading import heads_in, read_model
from polyseme.checkpoints.saving import save
from polyseme.errors import CheckpointError


@dataclass(frozen=True)
class Receipt:
    """What became of the tensors of a converted model."""

    family: str
    heads: tuple[str, ...]
    tensors: int
    """Tensors read."""
    renamed: int
    """Of these, how many have another name here."""
    cut: int
    """Of these, how many are several tensors here."""
    unused: tuple[str, ...]
    """Tensors that hold nothing of their own: the other ends of ties, and buffers."""
    skipped: tuple[str, ...]
    """Tensors of heads that were not asked for."""
    parameters: int
    """Numbers that the model learns."""

    def __str__(self) -> str:
        names = {"not needed": self.unused, "left out": self.skipped}
        rest = "".join(f"; {why}: {listed(found)}" for why, found in names.items() if found)
        return (
            f"{self.family} with {', '.join(self.heads) or 'no head'}: {self.tensors} tensors read, "
            f"{self.renamed} renamed, {self.cut} cut into several, {self.parameters:,} parameters{rest}"
        )


def convert(source: str | Path, target: str | Path, *, heads: Sequence[str] | None = None) -> Receipt:
    """Read a model folder or hub name and write it to the folder `target`, in safetensors.

    Without `heads` all of the model is kept, and a `CheckpointError` names what could not be; with them
    other heads are left out. The receipt is for printing.
    """
    folder = resolve(source)
    model, reading = read_model(folder, heads=heads_in(folder) if heads is None else heads)
    if reading.skipped and heads is None:
        raise CheckpointError(
            f"{folder} holds {listed(reading.skipped)}, which would be lost; "
            "name the heads to keep in heads= if the rest may go"
        )
    save(model, target)
    modules = (model.backbone, *model.heads.values())
    return Receipt(
        family=model.card.family,
        heads=tuple(model.heads),
        tensors=len(reading.used),
        renamed=sum(ours != (name,) for name, ours in reading.used.items()),
        cut=sum(len(ours) > 1 for ours in reading.used.values()),
        unused=reading.unused,
        skipped=reading.skipped,
        parameters=sum(parameter.numel() for module in modules for parameter in module.parameters()),
    )
