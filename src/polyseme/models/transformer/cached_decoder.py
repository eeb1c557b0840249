"""A decoder read in steps: what was written so far is kept, and so is what it looks at of the source."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyseme.models.batch import Batch
from polyseme.models.transformer.cache import Kept, remember
from polyseme.models.transformer.decoder import DecoderLayer, Source
from polyseme.models.transformer.encoder_decoder import EncoderDecoder
from polyseme.models.transformer.positions import Turn


@dataclass(frozen=True)
class DecoderCache:
    """What was read and what was written of every row; all rows have written equally much."""

    sources: tuple[Source, ...]
    written: tuple[Kept, ...] = ()
    """By layer; empty before the first token."""
    length: int = 0
    """Tokens written."""

    def select(self, rows: Tensor) -> "DecoderCache":
        """The rows with these numbers, which may stand there several times."""
        return DecoderCache(
            tuple(
                Source(*(None if part is None else part.index_select(0, rows) for part in source))  # type: ignore[arg-type]
                for source in self.sources
            ),
            tuple(kept.select(rows) for kept in self.written),
            self.length,
        )


class CachedDecoder(nn.Module):
    """A trained encoder–decoder, whose decoder is read a few tokens at a time through its own parts.

    >>> from polyseme.models.transformer.config import DecoderChoices, TransformerConfig
    >>> choices = {"type_vocab_size": 0, "pooler": False, "positions": "sinusoidal", "hidden_size": 8}
    >>> config = TransformerConfig(vocab_size=9, num_heads=1, decoder=DecoderChoices(), **choices)
    >>> network = CachedDecoder(EncoderDecoder(config).eval())
    >>> cache = network.read(Batch(torch.tensor([[5, 6, 7]])))
    >>> states, cache = network(torch.tensor([[0]]), cache)
    >>> states, cache = network(torch.tensor([[4]]), cache)
    >>> states.shape, cache.length
    (torch.Size([1, 1, 8]), 2)
    """

    def __init__(self, backbone: EncoderDecoder) -> None:
        super().__init__()
        self.backbone = backbone
        self._step = STEPS[backbone.config.norm_position]

    def read(self, batch: Batch) -> DecoderCache:
        """The sources, once; nothing is written yet."""
        source = Batch(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        return DecoderCache(tuple(self.backbone.look(self.backbone(source), source)))

    def forward(self, tokens: Tensor, cache: DecoderCache) -> tuple[Tensor, DecoderCache]:
        """The last states of new tokens `[batch, new]` behind those in the cache, and the larger cache."""
        decoder, new = self.backbone.decoder, tokens.size(1)
        keys = torch.arange(cache.length + new, device=tokens.device)
        queries = keys[cache.length :]
        seen = None if new == 1 else queries[:, None] >= keys  # [new, seen]; a single one sees all
        mask = decoder.view.bias(seen, queries, keys)
        position_ids = queries.expand(len(tokens), -1)
        turn = decoder.view.turn(new, position_ids)
        states = self.backbone.embeddings(Batch(tokens, position_ids=position_ids))
        written: list[Kept] = []
        for number, (layer, source) in enumerate(zip(decoder.layers, cache.sources, strict=True)):
            assert isinstance(layer, DecoderLayer)
            past = cache.written[number] if cache.written else None
            states, kept = self._step(layer, states, past, mask, turn, source)
            written.append(kept)
        return decoder.final_norm(states), DecoderCache(cache.sources, tuple(written), cache.length + new)


def step_before(
    layer: DecoderLayer, states: Tensor, past: Kept | None, seen: Tensor | None, turn: Turn, source: Source
) -> tuple[Tensor, Kept]:
    """A layer whose sublayers' inputs are normalised."""
    attended, kept = remember(layer.attention, layer.attention_norm(states), past, seen, turn)
    states = states + attended
    states = states + layer.cross_attention(layer.cross_attention_norm(states), source)
    return states + layer.feedforward(layer.feedforward_norm(states)), kept


def step_after(
    layer: DecoderLayer, states: Tensor, past: Kept | None, seen: Tensor | None, turn: Turn, source: Source
) -> tuple[Tensor, Kept]:
    """A layer whose sums are normalised."""
    attended, kept = remember(layer.attention, states, past, seen, turn)
    states = layer.attention_norm(states + attended)
    states = layer.cross_attention_norm(states + layer.cross_attention(states, source))
    return layer.feedforward_norm(states + layer.feedforward(states)), kept


Step = Callable[[DecoderLayer, Tensor, Kept | None, Tensor | None, Turn, Source], tuple[Tensor, Kept]]
STEPS: dict[str, Step] = {"before": step_before, "after": step_after}
