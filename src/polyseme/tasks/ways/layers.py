"""Which layers of a frozen network are read, and how several become one state for each token."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from polyseme.embedding.layers import Layers


class Joined(nn.Module):
    """The layers' states side by side."""

    learned = False

    def __init__(self, count: int) -> None:
        super().__init__()

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """`[batch, length, count · hidden_size]`"""
        return torch.cat(list(layers), dim=-1)


class Mean(nn.Module):
    """The mean of the layers' states."""

    learned = False

    def __init__(self, count: int) -> None:
        super().__init__()

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """`[batch, length, hidden_size]`"""
        return torch.stack(list(layers)).mean(dim=0)


class Sum(nn.Module):
    """The sum of the layers' states, as in the first version of BERT's table (arXiv:1810.04805v1)."""

    learned = False

    def __init__(self, count: int) -> None:
        super().__init__()

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """`[batch, length, hidden_size]`"""
        return torch.stack(list(layers)).sum(dim=0)


class ScalarMix(nn.Module):
    """γ Σ softmax(w)ⱼ hⱼ with γ and w learned; at first, γ = 1 and w = 0, the mean of the layers.

    Peters et al. 2018, "Deep contextualized word representations", equation 1; the weighted sums of BERT's
    table (Devlin et al. 2019, table 7) are read in the same way.
    """

    learned = True

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(count))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """`[batch, length, hidden_size]`"""
        shares = self.weights.softmax(dim=0)
        return self.scale * torch.einsum("n,nblh->blh", shares, torch.stack(list(layers)))


MIXES: dict[str, Callable[[int], nn.Module]] = {
    "join": Joined,
    "mean": Mean,
    "sum": Sum,
    "weighted": ScalarMix,
}
"""By the word before a choice of layers; without one, several are joined."""


class FrozenLayers:
    """A choice such as `-1`, `-4:-1`, `weighted:1:-1`, for a network with so many layers.

    >>> FrozenLayers("weighted:1:-1", num_layers=12).numbers
    (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
    """

    def __init__(self, written: str, *, num_layers: int) -> None:
        how, _, rest = written.partition(":")
        how, rest = (how, rest) if how in MIXES else ("join", written)
        self.written = written
        self.numbers = Layers(written=rest).numbers(num_layers)
        self.mix = MIXES[how](len(self.numbers))
        self.width = len(self.numbers) if how == "join" else 1
        """States of the network in one mixed state."""
        self.is_last = self.numbers == (num_layers,) and not self.mix.learned
        """Whether the choice is what the network itself returns."""
