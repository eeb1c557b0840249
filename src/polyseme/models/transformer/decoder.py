"""The decoder: layers that look at what was written so far, and at the states of what was read."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec
from torch import Tensor, nn

from polyseme.models.batch import Batch
from polyseme.models.dropout import Dropout
from polyseme.models.transformer.attention import Attention, attend
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.embeddings import norm
from polyseme.models.transformer.layer import FEEDFORWARDS
from polyseme.models.transformer.masks import View
from polyseme.models.transformer.positions import Turn


class Source(NamedTuple):
    """What one layer looks at of the text that was read: keys and values are `[batch, num_heads, source
    length, head_size]`."""

    key: Tensor
    value: Tensor
    seen: Tensor | None
    """True where a token is real: `[batch, 1, 1, source length]`. None: everywhere."""


class CrossAttention(nn.Module):
    """Every token gathers from the text that was read (Vaswani et al. 2017, section 3.2.3).

    There is no order in it: whatever tells places in self-attention is left out here.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.num_heads * config.head_size
        self.query = nn.Linear(size, inner, bias=config.bias)
        self.key = nn.Linear(size, inner, bias=config.bias)
        self.value = nn.Linear(size, inner, bias=config.bias)
        self.output = nn.Linear(inner, size, bias=config.bias)
        self.num_heads = config.num_heads
        self.scale = config.head_size**-0.5 if config.attention.scaled else 1.0
        self.dropout = Dropout(config.attention_dropout)

    def look(self, encoded: Tensor, seen: Tensor | None) -> Source:
        """Keys and values of the encoder's states `[batch, source length, hidden_size]`: the same for every
        token that will be written."""
        return Source(self.heads(self.key(encoded)), self.heads(self.value(encoded)), seen)

    def forward(self, hidden_states: Tensor, source: Source) -> Tensor:
        query = self.heads(self.query(hidden_states))  # [batch, num_heads, length, head_size]
        gathered = attend(query, source.key, source.value, source.seen, self.dropout, scale=self.scale)
        output: Tensor = self.output(gathered.transpose(1, 2).flatten(2))
        return output

    def heads(self, states: Tensor) -> Tensor:
        """`[batch, length, inner]` to `[batch, num_heads, length, head_size]`."""
        batch, length, _ = states.shape
        return states.view(batch, length, self.num_heads, -1).transpose(1, 2)


class DecoderLayer(nn.Module):
    """The parts of a layer; where the norms stand is a subclass."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = norm(config)
        self.cross_attention = CrossAttention(config)
        self.cross_attention_norm = norm(config)
        self.feedforward = FEEDFORWARDS[config.gated](config)
        self.feedforward_norm = norm(config)
        self.dropout = Dropout(config.dropout)


class DecoderNormAfter(DecoderLayer):
    """Each sum is normalised (Vaswani et al. 2017)."""

    def forward(self, hidden_states: Tensor, seen: Tensor | None, turn: Turn, source: Source) -> Tensor:
        attended = self.dropout(self.attention(hidden_states, seen, turn))
        hidden_states = self.attention_norm(hidden_states + attended)
        looked = self.dropout(self.cross_attention(hidden_states, source))
        hidden_states = self.cross_attention_norm(hidden_states + looked)
        fed = self.dropout(self.feedforward(hidden_states))
        normalised: Tensor = self.feedforward_norm(hidden_states + fed)
        return normalised


class DecoderNormBefore(DecoderLayer):
    """Each sublayer's input is normalised, and the sum is left alone (T5)."""

    def forward(self, hidden_states: Tensor, seen: Tensor | None, turn: Turn, source: Source) -> Tensor:
        attended = self.attention(self.attention_norm(hidden_states), seen, turn)
        hidden_states = hidden_states + self.dropout(attended)
        looked = self.cross_attention(self.cross_attention_norm(hidden_states), source)
        hidden_states = hidden_states + self.dropout(looked)
        fed: Tensor = self.dropout(self.feedforward(self.feedforward_norm(hidden_states)))
        return hidden_states + fed


DECODER_LAYERS: dict[str, Callable[[TransformerConfig], DecoderLayer]] = {
    "before": DecoderNormBefore,
    "after": DecoderNormAfter,
}


class Decoder(nn.Module):
    """The second stack; its first states come from the embeddings that both stacks share."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.decoder is not None
        num_layers = config.decoder.num_layers
        causal = msgspec.structs.replace(config.attention, causal=True)
        config = msgspec.structs.replace(config, attention=causal, decoder=None)
        self.layers = nn.ModuleList(DECODER_LAYERS[config.norm_position](config) for _ in range(num_layers))
        self.view = View(config, local=False)
        self.final_norm = norm(config, wanted=config.final_norm)
        self.final_dropout = Dropout(config.inner_dropout)

    def look(self, encoded: Tensor, seen: Tensor | None) -> list[Source]:
        """What each layer looks at of the encoder's states."""
        return [layer.cross_attention.look(encoded, seen) for layer in self.layers]  # type: ignore[union-attr, operator]

    def forward(self, hidden_states: Tensor, batch: Batch, sources: list[Source]) -> list[Tensor]:
        """The states before the first layer and after each; the last are normalised. `batch` holds the
        decoder's own ids and mask."""
        view = self.view(batch)
        layers = [hidden_states]
        for layer, source in zip(self.layers, sources, strict=True):
            layers.append(layer(layers[-1], *view, source))
        layers[-1] = self.final_dropout(self.final_norm(layers[-1]))
        return layers
