"""Whether a network fits into the memory of this machine, estimated before any of it is built."""

from polyseme.devices import processor
from polyseme.errors import SettingsError
from polyseme.models.transformer.config import TransformerConfig

_BYTES = 16
"""Of a parameter in training: itself, its gradient and two averages of the optimizer, 4 each."""


def least_parameters(config: TransformerConfig) -> int:
    """The parameters of the tables and of the matrices in the layers; norms, biases and heads come on top.

    >>> least_parameters(TransformerConfig(vocab_size=21_128)) // 1_000_000
    101
    """
    table = config.vocab_size * (config.embedding.size or config.hidden_size)
    if config.embedding.adaptive.cutoffs:
        table = config.vocab_size
    if config.positions == "learned":
        table += config.max_position_embeddings * (config.embedding.size or config.hidden_size)
    attention = 4 * config.hidden_size * config.num_heads * config.head_size
    feedforward = (3 if config.gated else 2) * config.hidden_size * config.intermediate_size
    layers = config.num_layers if config.distinct_layers is None else config.distinct_layers
    written = 0 if config.decoder is None else config.decoder.num_layers * (2 * attention + feedforward)
    return table + layers * (attention + feedforward) + written


def check_memory(config: TransformerConfig) -> None:
    """Raise `SettingsError` where training the network takes more memory than this machine has."""
    parameters, memory = least_parameters(config), processor().usable_memory
    if memory is not None and parameters * _BYTES > memory:
        raise SettingsError(
            f"num_layers {config.num_layers}, hidden_size {config.hidden_size} and intermediate_size "
            f"{config.intermediate_size} make about {parameters:.3g} parameters, whose training takes "
            f"{parameters * _BYTES / 2**30:,.0f} GB, and this machine has {memory / 2**30:,.0f}; choose less"
        )
