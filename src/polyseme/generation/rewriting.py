"""Sources for an encoder–decoder: texts that it reads whole, and then writes another one of."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyseme import progress
from polyseme.checkpoints.model import Model
from polyseme.generation.settings import GenerateSettings
from polyseme.generation.steppers import Stepper
from polyseme.models.batch import Batch
from polyseme.models.batching import pad
from polyseme.models.transformer.cached_decoder import CachedDecoder, DecoderCache
from polyseme.models.transformer.encoder_decoder import EncoderDecoder, Seq2SeqLMHead


class CachedRewriter:
    """An encoder–decoder that keeps keys and values, of the source and of what was written."""

    def __init__(self, backbone: EncoderDecoder, head: Seq2SeqLMHead) -> None:
        self._network, self._head = CachedDecoder(backbone), head
        self._table: Tensor = backbone.embeddings.tokens.weight

    def start(self, batch: Batch) -> tuple[Tensor, DecoderCache]:
        """Read the sources; the padding token is the first that the decoder reads."""
        return first_tokens(batch), self._network.read(batch)

    def step(self, tokens: Tensor, state: DecoderCache) -> tuple[Tensor, DecoderCache]:
        """Read one more token of each row."""
        states, cache = self._network(tokens[:, None], state)
        return self._head(states[:, -1], self._table), cache

    def reorder(self, state: DecoderCache, rows: Tensor) -> DecoderCache:
        """The cache of these rows."""
        return state.select(rows)


class RereadingRewriter:
    """An encoder–decoder that keeps the tokens only, and reads source and text again for each new one."""

    def __init__(self, backbone: EncoderDecoder, head: Seq2SeqLMHead) -> None:
        self._backbone, self._head = backbone, head
        self._table: Tensor = backbone.embeddings.tokens.weight

    def start(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Read nothing yet."""
        tokens = first_tokens(batch)
        return tokens, Batch(
            batch.input_ids,
            attention_mask=batch.attention_mask,
            decoder_input_ids=tokens.new_zeros(len(tokens), 0),
        )

    def step(self, tokens: Tensor, state: Batch) -> tuple[Tensor, Batch]:
        """Read everything."""
        assert state.decoder_input_ids is not None
        ids = torch.cat((state.decoder_input_ids, tokens[:, None]), dim=1)
        state = Batch(state.input_ids, attention_mask=state.attention_mask, decoder_input_ids=ids)
        return self._head(self._backbone(state).decoded[:, -1], self._table), state

    def reorder(self, state: Batch, rows: Tensor) -> Batch:
        """The tokens of these rows."""
        parts = (state.input_ids, state.attention_mask, state.decoder_input_ids)
        ids, mask, written = (None if part is None else part.index_select(0, rows) for part in parts)
        assert ids is not None
        return Batch(ids, attention_mask=mask, decoder_input_ids=written)


REWRITERS: dict[bool, type[CachedRewriter] | type[RereadingRewriter]] = {
    True: CachedRewriter,
    False: RereadingRewriter,
}
"""By whether keys and values are kept."""


def first_tokens(batch: Batch) -> Tensor:
    """The only token of `decoder_input_ids`, which stands before what is to be written: `[rows]`."""
    if batch.decoder_input_ids is None or batch.decoder_input_ids.size(1) != 1:
        raise ValueError("a rewriter starts from one token a row in decoder_input_ids, the padding token")
    return batch.decoder_input_ids[:, 0]


def rewriter(model: Model, *, cache: bool) -> Stepper:
    """What asks an encoder–decoder token by token."""
    backbone, head = model.backbone, model.heads["seq2seq-lm"]
    assert isinstance(backbone, EncoderDecoder)
    assert isinstance(head, Seq2SeqLMHead)
    return REWRITERS[cache](backbone, head)


def sources(rows: Sequence[NDArray[np.int32]], *, padding: int, most: int) -> Batch:
    """Rows to be read, padded on the right, and the token that stands before what is to be written."""
    matrix, real = pad(rows, padding=padding, most=most)
    return Batch(
        torch.from_numpy(matrix),
        attention_mask=None if real.all() else torch.from_numpy(real),
        decoder_input_ids=torch.full((len(rows), 1), padding),
    )


class Rewriting:
    """The text is read, and another one written: a translation, a summary, an answer."""

    continues = False

    def __init__(self, model: Model, settings: GenerateSettings) -> None:
        assert model.tokenizer is not None
        self.tokenizer = model.tokenizer
        self.stepper = rewriter(model, cache=settings.cache)
        self.padding: int = model.backbone.config.padding_id
        self.positions: int = model.backbone.config.max_position_embeddings

    def read(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The tokens of each text inside its frame. Of a text that is too long the beginning is read."""
        frame = self.tokenizer.frame
        room = self.positions - frame.size
        rows = self.tokenizer.encode_batch(texts)
        cut = sum(len(row) > room for row in rows)
        if cut:
            progress.warn(
                f"{cut} of {len(rows)} texts are longer than the {self.positions} tokens that this model "
                "reads; their beginnings were read"
            )
        return [frame.single(row[:room]) for row in rows]

    def collate(self, rows: Sequence[NDArray[np.int32]]) -> Batch:
        """The texts as one batch."""
        return sources(rows, padding=self.padding, most=self.positions)

    def text(self, row: NDArray[np.int32], tokens: Sequence[int]) -> str:
        """What was written."""
        return self.tokenizer.decode(tokens)
