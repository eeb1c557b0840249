"""A way of fine-tuning by its name."""

from importlib import import_module
from typing import TYPE_CHECKING

from polyseme.tasks.settings import FinetuneSettings
from polyseme.tasks.ways import WAYS

if TYPE_CHECKING:
    from polyseme.tasks.ways.full import Full


def make_way(settings: FinetuneSettings) -> "Full":
    """The way that the settings name."""
    module, _, kind = WAYS[settings.way].partition(":")
    way: Full = getattr(import_module(module), kind)(settings)
    return way
