"""Gradual unfreezing: the layers begin to learn one after the other, the highest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyseme.tasks.task import TaskModule
from polyseme.tasks.ways.full import Full
from polyseme.tasks.ways.phases import Phase, from_depth, joint_rates

if TYPE_CHECKING:
    from polyseme.tasks.preparation import Preparation


class Gradual(Full):
    """Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", section 3.3.

    The head and the highest layer learn for an epoch, then one layer more in each, and in the end all of
    them for `epochs`. Each stage has an optimizer and a schedule of its own, as in the authors' code; what
    does not learn yet drops nothing, which their code leaves on.
    """

    def phases(self, shared: Preparation, module: TaskModule) -> list[Phase]:
        """A stage for each layer from the highest to the lowest; then all, with the embeddings."""
        depth_of = self.depths(shared, module)
        rates, top = joint_rates(depth_of, self.settings), max(depth_of.values())
        stages = [
            Phase(
                f"from layer {lowest}", from_depth(rates, depth_of, lowest), self.settings.stages.stage_epochs
            )
            for lowest in range(top - 1, 0, -1)
        ]
        return [*stages, Phase("joint", rates, self.settings.epochs, self.settings.patience)]
