"""Fresh weights: BERT's truncated normal, and its scaled form for deep residual sums."""

import math
import re
from typing import Final

from torch import nn

from polyseme.models.transformer.config import TransformerConfig

_POSITIONS: Final = "embeddings.positions.weight"
_RESIDUAL_OUTPUT: Final = re.compile(r"(attention|feedforward)\.output\.weight$")


def initialise(module: nn.Module, config: TransformerConfig) -> None:
    """Draw the matrices of `module` afresh from torch's global generator; biases become 0, norms 1.

    With `scaled_outputs`, what writes to the residual sum starts smaller by √(2 · num_layers)
    (Radford et al. 2019, section 2.3), so that the sum's variance does not grow with depth.
    """
    of_positions = config.initial.positions or config.initial.range
    wide = config.initial.range
    narrow = wide / math.sqrt(2 * config.num_layers) if config.initial.scaled_outputs else None
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            nn.init.constant_(parameter, 1.0 if name.endswith("norm.weight") else 0.0)
        else:
            std = narrow if narrow and _RESIDUAL_OUTPUT.search(name) else wide
            std = of_positions if name == _POSITIONS else std
            nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
