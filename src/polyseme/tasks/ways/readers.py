"""What reads a frozen network's states before the task's head does."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from polyseme.tasks.ways.settings import FeatureSettings


class Reader(nn.Module):
    """States in, states out: `[batch, length, size]`."""

    poolings: ClassVar[tuple[str, ...]] = ("mean", "first", "last", "max")
    """How a head of texts may pool what was read; the first is the usual one, unless mean is possible."""
    size: int
    """Numbers in a state that was read."""

    def __init__(self, size: int, settings: FeatureSettings) -> None:
        super().__init__()
        self.size = size


class Unread(Reader):
    """The states as they are: the task's head alone is learned, a linear one."""

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        """`[batch, length, size]`"""
        return states


class Convolutions(Reader):
    """Filters over windows of 3, 4 and 5 tokens and a bend; a text is the highest answer of each filter.

    Kim 2014, "Convolutional Neural Networks for Sentence Classification", section 2, with 100 filters of
    each width. The windows reach half beyond both ends of a text, so that each token has a state too.
    """

    poolings = ("max", "first", "last")
    widths = (3, 4, 5)

    def __init__(self, size: int, settings: FeatureSettings) -> None:
        super().__init__(len(self.widths) * settings.filters, settings)
        self.filters = nn.ModuleList(nn.Conv1d(size, settings.filters, width) for width in self.widths)

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        """`[batch, length, 3 · filters]`"""
        turned = states.transpose(1, 2)  # [batch, size, length]
        found = []
        for width, filters in zip(self.widths, self.filters, strict=True):
            before = (width - 1) // 2
            found.append(filters(nn.functional.pad(turned, (before, width - 1 - before))))
        return torch.cat(found, dim=1).relu().transpose(1, 2)


class BiLSTM(Reader):
    """A bidirectional LSTM, two layers deep as in BERT's table (Devlin et al. 2019, section 5.3)."""

    def __init__(self, size: int, settings: FeatureSettings) -> None:
        super().__init__(2 * settings.lstm_size, settings)
        self.lstm = nn.LSTM(
            size, settings.lstm_size, settings.lstm_layers, batch_first=True, bidirectional=True
        )

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        """`[batch, length, 2 · lstm_size]`; what is no token is neither read nor written."""
        lengths = real.sum(dim=1).clamp(min=1).cpu()
        packed = pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=states.size(1))
        return read


READERS: dict[str, type[Reader]] = {
    "linear": Unread,
    "cnn": Convolutions,
    "bilstm": BiLSTM,
}
