"""Fresh weights: BERT's truncated normal, its scaled form for deep residual sums, and T5's by inputs."""

import math
import re
from collections.abc import Callable
from typing import Final

from torch import Tensor, nn

from polyseme.models.transformer.config import TransformerConfig

_POSITIONS: Final = "embeddings.positions.weight"
_RESIDUAL_OUTPUT: Final = re.compile(r"(attention|feedforward)\.output\.weight$")


def initialise(module: nn.Module, config: TransformerConfig) -> None:
    """Draw the matrices of `module` afresh from torch's global generator; biases become 0, norms 1.

    With `scaled_outputs`, what writes to the residual sum starts smaller by √(2 · num_layers)
    (Radford et al. 2019, section 2.3), so that the sum's variance does not grow with depth.
    """
    draw = DRAWS[config.initial.kind]
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            nn.init.constant_(parameter, 1.0 if name.endswith("norm.weight") else 0.0)
        else:
            draw(name, parameter, config)


def _fixed(name: str, parameter: Tensor, config: TransformerConfig) -> None:
    """The same deviation for all, cut off at twice its value."""
    std = config.initial.range
    if config.initial.scaled_outputs and _RESIDUAL_OUTPUT.search(name):
        std /= math.sqrt(2 * config.num_layers)
    if name == _POSITIONS:
        std = config.initial.positions or std
    nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)


def _by_inputs(name: str, parameter: Tensor, config: TransformerConfig) -> None:
    """A matrix by the root of its inputs, so that its outputs vary as its inputs do (T5's code).

    What attention does not divide by √head_size is put into the queries; tables vary by 1 once they are
    scaled, and the numbers added to scores as those of a matrix from the hidden size.
    """
    if name.startswith("embeddings."):
        std = config.hidden_size**-0.5 if config.embedding.scaled else 1.0
    elif name.endswith(".bias.weight"):
        std = config.hidden_size**-0.5
    else:
        std = parameter.size(1) ** -0.5
    if name.endswith(".query.weight") and not config.attention.scaled:
        std *= config.head_size**-0.5
    nn.init.normal_(parameter, std=std)


DRAWS: dict[str, Callable[[str, Tensor, TransformerConfig], None]] = {"fixed": _fixed, "fan-in": _by_inputs}
