"""Relative positions: how far apart two tokens are, as a vector inside attention.

Dai et al. 2019, "Transformer-XL", section 3.3 and appendix B; with segments: Yang et al. 2019, "XLNet",
section 2.5. No projection has a bias: those of the queries, one for the keys' content (u) and one for their
distance (v), stand for all.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.models.batch import Batch
from polyseme.models.dropout import Dropout
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.masks import seen

Align = Callable[[Tensor], Tensor]
"""Scores of every distance, `[batch, num_heads, queries, distances]`, to those of every key."""


class Surroundings(NamedTuple):
    """What relative attention is told beside the states that ask."""

    distances: Tensor
    """A vector for each distance, the greatest first: `[distances, hidden_size]`."""
    align: Align
    shared: tuple[Tensor, ...]
    """The biases of content and distance where all layers have the same: `[num_heads, head_size]` each."""
    foreign: Tensor | None
    """True where a key is of another segment than the query: `[batch, 1, queries, keys]`. None: nowhere."""
    remembered: Tensor | None = None
    """States that are seen before those of the row: `[batch, remembered, hidden_size]`."""
    content: Tensor | None = None
    """The row's states, where those that ask are not these: `[batch, length, hidden_size]`."""

    def read(self, hidden_states: Tensor) -> Tensor:
        """The states that are seen: `[batch, keys, hidden_size]`."""
        row = hidden_states if self.content is None else self.content
        return row if self.remembered is None else torch.cat((self.remembered.to(row.dtype), row), dim=1)


class RelativeView(nn.Module):
    """What the layers share in a batch: who sees whom, the distances, and biases that all layers have."""

    def __init__(self, config: TransformerConfig, *, local: bool = False) -> None:
        super().__init__()
        relative = config.attention.relative
        self.biases = Biases(config, wanted=not relative.untied)
        if relative.query_stream:
            self.blank = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.dropout = Dropout(config.dropout)
        self.hidden_size, self.memory = config.hidden_size, relative.memory
        self.causal, self.clamp = config.attention.causal, relative.clamp
        self.reach = relative.memory if relative.same_length else None
        self.told = relative.segments
        self.start = STARTS[relative.start]

    def forward(self, batch: Batch) -> tuple[Tensor | None, Surroundings]:
        """Mask and surroundings of a row that begins with what the model remembers at the start."""
        start = self.start(batch, self.memory, self.hidden_size, self.distances(1, 0).dtype)
        mask, around = self.within(batch, remembered=0 if start is None else start.size(1))
        return mask, around._replace(remembered=start)

    def within(self, batch: Batch, *, remembered: int) -> tuple[Tensor | None, Surroundings]:
        """The same behind `remembered` states; who passes them on adds them to the surroundings."""
        length = batch.input_ids.size(1)
        keys = remembered + length
        distances = self.dropout(
            self.distances(keys, 0 if self.causal else 1 - length, batch.input_ids.device)
        )
        around = Surroundings(distances, _shifted(keys), self.biases.both(), self._foreign(batch, remembered))
        return self.mask(batch, remembered), around

    def distances(self, first: int, last: int, device: torch.device | None = None) -> Tensor:
        """Sines, then cosines, of the distances from `first` down to `last`: `[distances, hidden_size]`.

        One distance more than any pair has, the number of keys, makes the alignment a mere view. Angles are
        in float32 whatever the model's precision.
        """
        places = torch.arange(first, last - 1, -1, dtype=torch.float32, device=device)
        if self.clamp is not None:
            places = places.clamp(-self.clamp, self.clamp)
        exponents = torch.arange(0, self.hidden_size, 2, dtype=torch.float32, device=device)
        angles = places[:, None] * (1 / 10_000 ** (exponents / self.hidden_size))
        return torch.cat((angles.sin(), angles.cos()), dim=-1)

    def mask(self, batch: Batch, remembered: int) -> Tensor | None:
        """True where a query sees a key: `[batch or 1, 1, queries, keys]`; every token sees itself."""
        mask = seen(batch)
        if mask is not None:
            mask = F.pad(mask, (remembered, 0), value=True)
        if mask is None and not self.causal:
            return None
        length = batch.input_ids.size(1)
        places = torch.arange(remembered + length, device=batch.input_ids.device)
        distance = places[remembered:, None] - places  # [queries, keys], above 0 where the key comes before
        near = distance >= (0 if self.causal else -length)
        if self.reach is not None:
            near &= distance < self.reach
        return near if mask is None else (mask & near) | (distance == 0)

    def _foreign(self, batch: Batch, remembered: int) -> Tensor | None:
        """What is remembered counts as segment 0."""
        if batch.token_type_ids is None or not self.told:
            return None
        types = batch.token_type_ids
        return (types[:, :, None] != F.pad(types, (remembered, 0))[:, None])[:, None]


def _shifted(keys: int) -> Align:
    def align(scores: Tensor) -> Tensor:
        """Query i finds key j at `queries - i + j`: in one line, each row begins one place earlier."""
        queries, distances = scores.shape[-2:]
        line = scores.flatten(-2)[..., queries:]
        return line.view(*scores.shape[:-1], distances - 1)[..., :keys]

    return align


def gathered(places: Tensor, *, length: int, keys: int) -> Align:
    """The alignment of queries that stand at `places` of the row, `[batch, queries]`."""
    index = length - places[:, :, None] + torch.arange(keys, device=places.device)  # [batch, queries, keys]

    def align(scores: Tensor) -> Tensor:
        return scores.gather(-1, index[:, None].expand(-1, scores.size(1), -1, -1))

    return align


class RelativeAttention(nn.Module):
    """Every token gathers from the tokens it may see, by their content and by how far away they are.

    The score is (q + u) · k + (q + v) · r, of which r depends on the distance alone; with segments also
    (q + s) · e, where e says whether the key is of the query's segment. The scale is for the whole sum.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.num_heads * config.head_size
        self.query = nn.Linear(size, inner, bias=False)
        self.key = nn.Linear(size, inner, bias=False)
        self.value = nn.Linear(size, inner, bias=False)
        self.distance = nn.Linear(size, inner, bias=False)
        self.output = nn.Linear(inner, size, bias=False)
        self.biases = Biases(config, wanted=config.attention.relative.untied)
        self.segments = SEGMENTS[config.attention.relative.segments](config)
        self.num_heads = config.num_heads
        self.scale = config.head_size**-0.5 if config.attention.scaled else 1.0
        self.dropout = Dropout(config.attention_dropout)

    def forward(self, hidden_states: Tensor, mask: Tensor | None, around: Surroundings) -> Tensor:
        """`[batch, queries, hidden_size]` in and out."""
        read = around.read(hidden_states)
        query = self._heads(self.query(hidden_states))  # [batch, num_heads, queries, head_size]
        key, value = self._heads(self.key(read)), self._heads(self.value(read))
        apart = self._heads(
            self.distance(around.distances.to(read.dtype))[None]
        )  # [1, num_heads, distances, …]
        content_bias, distance_bias = (bias[:, None] for bias in (around.shared or self.biases.both()))
        scores = (query + content_bias) @ key.transpose(-1, -2)  # [batch, num_heads, queries, keys]
        scores = scores + around.align((query + distance_bias) @ apart.transpose(-1, -2))
        scores = self.segments(scores, query, around.foreign) * self.scale
        gathered = self.dropout(_weights(scores, mask)) @ value  # [batch, num_heads, queries, head_size]
        output: Tensor = self.output(gathered.transpose(1, 2).flatten(2))
        return output

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.num_heads, -1).transpose(1, 2)


def _weights(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over what is seen; who sees nothing at all gathers nothing."""
    if mask is None:
        return scores.softmax(dim=-1, dtype=scores.dtype)
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(dim=-1, dtype=scores.dtype).masked_fill(~mask, 0.0)


class Biases(nn.Module):
    """What the queries get added before they meet contents and distances: `[num_heads, head_size]` each."""

    def __init__(self, config: TransformerConfig, *, wanted: bool) -> None:
        super().__init__()
        self.wanted = wanted
        if wanted:
            self.content = nn.Parameter(torch.empty(config.num_heads, config.head_size))
            self.distance = nn.Parameter(torch.empty(config.num_heads, config.head_size))

    def both(self) -> tuple[Tensor, ...]:
        """Those of content and of distance; empty where others have them."""
        return (self.content, self.distance) if self.wanted else ()


class Segments(nn.Module):
    """A score for keys of the same segment, and one for those of another."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(config.num_heads, config.head_size))
        self.weight = nn.Parameter(torch.empty(2, config.num_heads, config.head_size))

    def forward(self, scores: Tensor, query: Tensor, foreign: Tensor | None) -> Tensor:
        if foreign is None:  # All of one segment: the same for every key, which softmax does not see.
            return scores
        biased = query + self.bias[:, None]
        same, other = (biased @ self.weight[:, None, ..., None]).unbind(0)  # [batch, num_heads, queries, 1]
        return scores + torch.where(foreign, other, same)


class NoSegments(nn.Module):
    """Stands where segments are not told apart."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def forward(self, scores: Tensor, query: Tensor, foreign: Tensor | None) -> Tensor:
        return scores


def _nothing(batch: Batch, memory: int, hidden_size: int, dtype: torch.dtype) -> None:
    return None


def _zeros(batch: Batch, memory: int, hidden_size: int, dtype: torch.dtype) -> Tensor:
    rows = len(batch.input_ids)
    return torch.zeros(rows, memory, hidden_size, dtype=dtype, device=batch.input_ids.device)


STARTS: dict[str, Callable[[Batch, int, int, torch.dtype], Tensor | None]] = {
    "empty": _nothing,
    "zeros": _zeros,
}
SEGMENTS: dict[bool, Callable[[TransformerConfig], nn.Module]] = {True: Segments, False: NoSegments}
