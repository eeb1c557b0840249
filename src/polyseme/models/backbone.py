"""What every network of the house is to those who use it."""

from abc import ABC, abstractmethod

from torch import nn

from polyseme.models.batch import Batch, States


class Backbone(nn.Module, ABC):
    """Ids in, states out: the same call for a transformer, an LSTM and a static table."""

    hidden_size: int

    @abstractmethod
    def forward(self, batch: Batch, *, every_layer: bool = False) -> States:
        """The states of a batch; those of every layer too, on request."""
