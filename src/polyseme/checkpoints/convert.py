"""Any known model folder to one of ours, with a receipt."""

from dataclasses import dataclass
from pathlib import Path

from polyseme import progress
from polyseme.checkpoints.hub import resolve
from polyseme.checkpoints.loading import heads_in, read_model
from polyseme.checkpoints.saving import save


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
    """Tensors that hold nothing of their own: buffers, ties and heads of other tasks."""
    parameters: int
    """Numbers that the model learns."""

    def __str__(self) -> str:
        heads = ", ".join(self.heads) or "no head"
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        return (
            f"{self.family} with {heads}: {self.tensors} tensors read, {self.renamed} renamed, "
            f"{self.cut} cut into several, {self.parameters:,} parameters{unused}"
        )


def convert(source: str | Path, target: str | Path) -> Receipt:
    """Read a model folder or hub name with all its heads and write it to `target`, in safetensors.

    Raises `CheckpointError` where the source cannot be read or said whole.
    """
    folder = resolve(source)
    model, reading = read_model(folder, heads=heads_in(folder))
    save(model, target)
    modules = (model.backbone, *model.heads.values())
    receipt = Receipt(
        family=model.card.family,
        heads=tuple(model.heads),
        tensors=len(reading.used),
        renamed=sum(ours != (name,) for name, ours in reading.used.items()),
        cut=sum(len(ours) > 1 for ours in reading.used.values()),
        unused=reading.unused,
        parameters=sum(parameter.numel() for module in modules for parameter in module.parameters()),
    )
    progress.say(f"{source} → {target}: {receipt}")
    return receipt
