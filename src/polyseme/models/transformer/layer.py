"""One layer: attention, then the feed-forward part, each added to what it was given."""

from torch import Tensor, nn

from polyseme.models.dropout import Dropout
from polyseme.models.transformer.attention import Attention
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.embeddings import NORMS
from polyseme.models.transformer.feedforward import FEEDFORWARDS
from polyseme.models.transformer.positions import Turn


class Layer(nn.Module):
    """The parts of a layer; where the norms stand is a subclass."""

    def __init__(self, config: TransformerConfig, *, attention_norm: bool) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = NORMS[attention_norm](config)
        self.feedforward = FEEDFORWARDS[config.gated](config)
        self.feedforward_norm = NORMS[True](config)
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
