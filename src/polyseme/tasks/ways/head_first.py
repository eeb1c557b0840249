"""The head first, until it has learned what it can; then all together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyseme.tasks.task import TaskModule
from polyseme.tasks.ways.full import Full
from polyseme.tasks.ways.phases import HEAD_RATE, Phase

if TYPE_CHECKING:
    from polyseme.tasks.preparation import Preparation


class HeadFirst(Full):
    """A fresh head sends large, random gradients into a network that has learned already; so the network
    rests (it drops nothing, and its weights stay bit for bit) until the head has stopped to improve, and the
    best head then begins the joint phase, with an optimizer and a warm-up of its own."""

    def phases(self, shared: Preparation, module: TaskModule) -> list[Phase]:
        """The head alone; then as in `Full`."""
        stages, depth_of = self.settings.stages, self.depths(shared, module)
        rate, top = self.settings.rates.head_learning_rate or HEAD_RATE, max(depth_of.values())
        alone = {name: rate if depth == top else 0.0 for name, depth in depth_of.items()}
        first = Phase("head", alone, stages.head_epochs, stages.head_patience, restores=True)
        return [first, *super().phases(shared, module)]
