"""Networks beside the backbone: read from their folders, handed to the objective, and written beside it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import torch
from torch import nn

from polyseme.checkpoints.fingerprints import fingerprint
from polyseme.checkpoints.formats import check_sayable, format_of
from polyseme.checkpoints.hub import resolve
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Model
from polyseme.errors import SettingsError
from polyseme.models.transformer.model import Transformer
from polyseme.objectives.contract import Companion, Objective
from polyseme.text.store import Store
from polyseme.training.building import check_fit


def provide(
    objective: Objective,
    backbone: Transformer,
    store: Store,
    *,
    from_model: str | None,
    length: int,
    device: torch.device,
) -> dict[str, str]:
    """Read what the objective needs beside the backbone and join all; the fingerprints of what was read.

    What is in no folder starts fresh, as the objective drew it, unless it is required.
    """
    read: dict[str, str] = {}
    try:
        for name, place in objective.places().items():
            folder = place.folder or (None if place.required else _beside(from_model, name))
            if folder is None and place.required:
                raise SettingsError(
                    f"the objective learns from a {name}, and none is named; pass "
                    f"--change objectives.0.{place.setting}=FOLDER, or see polyseme distill"
                )
            if folder is not None:
                model = load(folder, heads=place.heads)
                check_fit(model, folder, store, length=length)
                objective.adopt(name, Companion(model.backbone.to(device), _on(model.heads, device)))
                read[name] = fingerprint(model.backbone, model.heads)
        objective.join(backbone, fresh=from_model is None)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return read


def companions_of(objective: Objective, model: Model) -> Iterator[tuple[str, Model]]:
    """The model itself and each companion, by the folder of its own that it has below the model's."""
    yield "", model
    for name, companion in objective.companions().items():
        card = msgspec.structs.replace(model.card, made=model.card.made | {"part": name})
        yield name, Model(companion.backbone, card, companion.heads, model.tokenizer)


def check_companions(objective: Objective, family: str) -> None:
    """Refuse before a long training a companion that no folder of the family could hold at its end."""
    for companion in objective.companions().values():
        check_sayable(format_of(family), companion.backbone.config, companion.heads)


def _beside(from_model: str | None, name: str) -> str | None:
    """The folder of that name in the model that a run goes on from, if it has one."""
    if from_model is None:
        return None
    folder: Path = resolve(from_model) / name
    return str(folder) if (folder / "config.json").exists() else None


def _on(heads: Mapping[str, nn.Module], device: torch.device) -> dict[str, nn.Module]:
    return {name: head.to(device) for name, head in heads.items()}
