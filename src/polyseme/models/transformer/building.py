"""The network of a configuration: an encoder alone, or with a decoder."""

from collections.abc import Callable

from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.encoder_decoder import EncoderDecoder
from polyseme.models.transformer.model import Transformer

NETWORKS: dict[bool, Callable[[TransformerConfig], Transformer]] = {False: Transformer, True: EncoderDecoder}
"""By whether there is a decoder."""


def build(config: TransformerConfig) -> Transformer:
    """The network with fresh weights from torch's global generator."""
    return NETWORKS[config.decoder is not None](config)
