"""One layer: attention, then the feed-forward part, each added to what it was given."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from polyseme.models.activations import ACTIVATIONS
from polyseme.models.dropout import Dropout
from polyseme.models.precision import lowered
from polyseme.models.transformer.attention import Attention
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.embeddings import norm
from polyseme.models.transformer.positions import Turn
from polyseme.models.transformer.relative import RelativeAttention

ATTENTIONS: dict[str, Callable[[TransformerConfig], Any]] = {"relative": RelativeAttention}
"""By positions, where they need an attention of their own."""


class FeedForward(nn.Module):
    """Each token by itself, widened, bent and narrowed again (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.input = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]()
        self.dropout = Dropout(config.inner_dropout)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        output: Tensor = self.output(self.dropout(self.activation(self.input(hidden_states))))
        return output


class GatedFeedForward(FeedForward):
    """What was bent is multiplied by a second, linear widening (Shazeer 2020, equation 6)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.gate = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        # Joining the two products would save one reading and cost more in strided halves.
        hidden_states = lowered(hidden_states)
        widened = self.activation(self.input(hidden_states)) * self.gate(hidden_states)
        output: Tensor = self.output(self.dropout(widened))
        return output


FEEDFORWARDS: dict[bool, Callable[[TransformerConfig], nn.Module]] = {
    True: GatedFeedForward,
    False: FeedForward,
}


class Layer(nn.Module):
    """The parts of a layer; where the norms stand is a subclass."""

    def __init__(self, config: TransformerConfig, *, attention_norm: bool) -> None:
        super().__init__()
        self.attention = ATTENTIONS.get(config.positions, Attention)(config)
        self.attention_norm = norm(config, wanted=attention_norm)
        self.feedforward = FEEDFORWARDS[config.gated](config)
        self.feedforward_norm = norm(config)
        self.dropout = Dropout(config.dropout)


class NormAfter(Layer):
    """The sum is normalised (Vaswani et al. 2017; BERT)."""

    def forward(self, hidden_states: Tensor, seen: Tensor | None, turn: Turn) -> Tensor:
        attended = self.dropout(self.attention(hidden_states, seen, turn))
        hidden_states = self.attention_norm(hidden_states + attended)
        fed = self.dropout(self.feedforward(hidden_states))
        normalised: Tensor = self.feedforward_norm(hidden_states + fed)
        return normalised


class NormBefore(Layer):
    """The sublayer's input is normalised, and the sum is left alone (Xiong et al. 2020)."""

    def forward(self, hidden_states: Tensor, seen: Tensor | None, turn: Turn) -> Tensor:
        attended = self.attention(self.attention_norm(hidden_states), seen, turn)
        hidden_states = hidden_states + self.dropout(attended)
        fed: Tensor = self.dropout(self.feedforward(self.feedforward_norm(hidden_states)))
        return hidden_states + fed


LAYERS: dict[str, type[Layer]] = {"before": NormBefore, "after": NormAfter}
