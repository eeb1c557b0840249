"""A way of fine-tuning by its name."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from polyseme.checkpoints.model import Model
from polyseme.records import from_plain
from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.task import make_task
from polyseme.tasks.ways import WAYS

if TYPE_CHECKING:
    from polyseme.tasks.ways.full import Full


def make_way(settings: FinetuneSettings) -> "Full":
    """The way that the settings name."""
    module, _, kind = WAYS[settings.way].partition(":")
    way: Full = getattr(import_module(module), kind)(settings)
    return way


def way_of(made: Mapping[str, Any]) -> "Full":
    """The way in which a model folder was made, by its card; folders of others are like those of `full`."""
    plain = made.get("settings", {})
    known = {name: plain[name] for name in ("way", "features", "filling") if name in plain}
    return make_way(from_plain(known, FinetuneSettings, where="polyseme.json"))


def check_restoring(model: Model) -> None:
    """Raise what answering with this model, as it was read back, would raise before the first answer."""
    made = model.card.made
    way = way_of(made)
    task = way.task(make_task(made["task"], made["task_settings"]), model)
    plain = {"labels": model.card.labels or (), **made["inventory"]}
    inventory = from_plain(plain, task.inventory_kind, where="polyseme.json")
    way.restored(task, model, inventory, made["reading"])
