"""Encoder and decoder: one text read, another one written (Vaswani et al. 2017, section 3.1)."""

from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.models.batch import Batch, States
from polyseme.models.initialising import initialise
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.decoder import Decoder, Source
from polyseme.models.transformer.masks import seen
from polyseme.models.transformer.model import Transformer


class EncoderDecoder(Transformer):
    """A transformer that reads, with a second stack that writes; both share one table of tokens.

    Without `decoder_input_ids` it is the encoder alone. Rows of several packed texts are refused: the
    decoder would not know which of them it writes about.

    >>> import torch
    >>> choices = {"type_vocab_size": 0, "pooler": False, "positions": "sinusoidal", "hidden_size": 32}
    >>> config = TransformerConfig(vocab_size=99, num_heads=2, decoder=DecoderChoices(), **choices)
    >>> batch = Batch(torch.tensor([[2, 17, 3]]), decoder_input_ids=torch.tensor([[0, 5]]))
    >>> EncoderDecoder(config)(batch).decoded.shape
    torch.Size([1, 2, 32])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config)
        initialise(self.decoder, config)

    def forward(self, batch: Batch, *, every_layer: bool = False) -> States:
        """The encoder's states, and the decoder's where the batch has `decoder_input_ids`."""
        states = super().forward(batch, every_layer=every_layer)
        if batch.decoder_input_ids is None:
            return states
        own = Batch(input_ids=batch.decoder_input_ids, attention_mask=batch.decoder_attention_mask)
        layers = self.decoder(self.embeddings(own), own, self.look(states, batch))
        return replace(states, decoded=layers[-1], decoded_layers=tuple(layers) if every_layer else ())

    def look(self, states: States, batch: Batch) -> list[Source]:
        """What each layer of the decoder looks at of the text that was read."""
        if batch.document_ids is not None:
            raise ValueError(
                "a decoder cannot read rows of several packed texts; give it one text a row, "
                "without document_ids"
            )
        return self.decoder.look(states.last, seen(batch))


class Seq2SeqLMHead(nn.Module):
    """The decoder's states to the scores of every token, by the tokens' own vectors or a table of its own."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        scaled = config.decoder is not None and config.decoder.scaled_output
        self.scale = config.hidden_size**-0.5 if scaled else 1.0
        if not config.embedding.tied:
            self.weight = nn.Parameter(Tensor(config.vocab_size, config.hidden_size))
        initialise(self, config)

    def transform(self, hidden_states: Tensor) -> Tensor:
        """What is compared with each row of the table: `[…, hidden_size]`."""
        return hidden_states * self.scale

    def table(self, tokens: Tensor) -> Tensor:
        """The table that scores: `tokens`, the one of the embeddings, unless there is an own one."""
        own: Tensor = getattr(self, "weight", tokens)
        return own

    def forward(self, hidden_states: Tensor, table: Tensor) -> Tensor:
        """`[…, hidden_size]` states and the `[vocab_size, hidden_size]` table to logits."""
        return F.linear(self.transform(hidden_states), self.table(table))
