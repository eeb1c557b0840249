"""The feed-forward part of a layer: each token by itself, widened, bent and narrowed again."""

from collections.abc import Callable

from torch import Tensor, nn

from polyseme.models.activations import ACTIVATIONS
from polyseme.models.transformer.attention import joined_linear
from polyseme.models.transformer.config import TransformerConfig


class FeedForward(nn.Module):
    """Two linear maps with an activation between (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.input = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]()
        self.output = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        output: Tensor = self.output(self.activation(self.input(hidden_states)))
        return output


class GatedFeedForward(nn.Module):
    """The activated half is multiplied by a second, linear half (Shazeer 2020, equation 6)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.input = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)
        self.gate = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]()
        self.output = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        activated, gate = joined_linear(hidden_states, self.input, self.gate).chunk(2, dim=-1)
        output: Tensor = self.output(self.activation(activated) * gate)
        return output


FEEDFORWARDS: dict[bool, Callable[[TransformerConfig], nn.Module]] = {
    True: GatedFeedForward,
    False: FeedForward,
}
