"""A compiled network in the place of the plain one, for heads that read padded batches."""

import numpy as np
import torch
from torch import Tensor

from polyseme.devices import InferencePrecision
from polyseme.models.backbone import Backbone
from polyseme.models.batch import Batch, States
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.runtime.encoder import Reading
from polyseme.runtime.gate import Gate
from polyseme.runtime.packing import Rows, Tile, starts_of


class CompiledBackbone(Backbone):
    """The encoder of a network for answering: what is computed is packed, what comes out is padded again.

    States are float32, and zeros at padding. It cannot be trained; a lower precision
    than fp32 is settled by the first batch. Rows are padded at their end, and hold one text each.
    """

    config: TransformerConfig

    def __init__(
        self, backbone: Transformer, precision: InferencePrecision, *, threads: int, device: torch.device
    ) -> None:
        super().__init__()
        self.config, self.hidden_size = backbone.config, backbone.hidden_size
        self.pooler = backbone.pooler  # for heads that pool states which they have changed
        self._last = backbone.config.num_layers
        self._gate = Gate(backbone, precision, threads=threads, device=device)

    def forward(self, batch: Batch, *, every_layer: bool = False) -> States:
        """The states of the plain network, as near as the precision allows."""
        rows, places = _packed(batch)
        self._gate.settle(rows, Reading((self._last,), pooling="mean"))
        encoder, shape = self._gate.encoder, (*batch.input_ids.shape, self.hidden_size)
        numbers = tuple(range(self._last + 1)) if every_layer else (self._last,)
        padded = [torch.zeros(shape, device=encoder.device) for _ in numbers]
        pooled = torch.zeros((shape[0], shape[2]), device=encoder.device) if self.config.pooler else None

        def take(tile: Tile, layers: list[Tensor]) -> None:
            to = torch.from_numpy(places[tile.tokens]).to(encoder.device)
            for whole, states in zip(padded, layers, strict=True):
                whole.flatten(0, 1).index_copy_(0, to, states.float())
            if pooled is not None:
                to = torch.from_numpy(tile.rows).to(encoder.device)
                pooled.index_copy_(0, to, encoder.pooled(tile, layers[-1]))

        encoder.each_tile(rows, numbers, take)
        return States(last=padded[-1], layers=tuple(padded) if every_layer else (), pooled=pooled)


def _packed(batch: Batch) -> tuple[Rows, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The real tokens of a batch, and where each stands in it."""
    if (
        batch.document_ids is not None
        or batch.position_ids is not None
        or batch.decoder_input_ids is not None
    ):
        raise ValueError(
            "a compiled backbone reads whole texts from their first token on, one a row: "
            "leave document_ids, position_ids and decoder_input_ids out, or use the plain network"
        )
    ids = batch.input_ids.cpu().numpy()
    real = np.ones(ids.shape, dtype=bool)
    if batch.attention_mask is not None:
        real = batch.attention_mask.bool().cpu().numpy()
    if (real[:, 1:] & ~real[:, :-1]).any() or not real[:, :1].all():
        raise ValueError(
            "a compiled backbone reads rows that are padded at their end only, none of them empty"
        )
    kinds = None if batch.token_type_ids is None else batch.token_type_ids.cpu().numpy()[real]
    rows = Rows(ids[real].astype(np.int32), starts_of(real.sum(axis=1)), kinds)
    return rows, np.flatnonzero(real)
