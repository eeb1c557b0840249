"""What the scorers of tokens have in common: a model, ready to be asked, and −log p of what it is asked."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from polyseme.checkpoints.model import Model
from polyseme.devices import pick_device, pick_precision
from polyseme.errors import CheckpointError, SettingsError
from polyseme.evaluation.settings import PerplexitySettings
from polyseme.evaluation.tokenized import TokenizedText
from polyseme.models.batch import Batch

Floats = npt.NDArray[np.float64]

_SCORES = 1 << 24
"""Scores of tokens that are held at once: 64 MB of them."""


class Scorer(ABC):
    """Asks a model for every token of a text. A token costs the same in any batch."""

    kind: ClassVar[Literal["perplexity", "pseudo-perplexity"]]
    head: ClassVar[str]
    """The head that is asked, by its name in `Model.heads`."""
    reads_pairs: ClassVar[bool] = False
    """Whether each text stands beside one that is given."""

    @classmethod
    def of(cls, model: Model, settings: PerplexitySettings) -> "Scorer":
        """The scorer of this model's head that fits the settings."""
        return cls(model, settings)

    def __init__(self, model: Model, settings: PerplexitySettings) -> None:
        if model.tokenizer is None:
            raise CheckpointError("this model has no tokenizer, so it cannot read text")
        self.model, self.tokenizer, self.settings = model, model.tokenizer, settings
        self.device = pick_device(settings.device)
        self.backbone = model.backbone.to(self.device).eval()
        self._head = model.heads[self.head].to(self.device).eval()
        self._bf16 = pick_precision(settings.precision, self.device) == "bf16"
        self.positions: int = model.backbone.config.max_position_embeddings
        self.max_length = settings.max_length or self.positions
        if self.max_length > self.positions:
            raise SettingsError(
                f"max_length {self.max_length} is more than the {self.positions} positions of this model; "
                "longer texts are read by windows anyway"
            )

    @abstractmethod
    def nats(self, texts: Sequence[TokenizedText]) -> Iterator[Floats]:
        """−log p of every token of the texts, each once, batch by batch, in no order that means anything."""

    @torch.inference_mode()
    def costs(
        self,
        matrix: npt.NDArray[np.int64],
        real: npt.NDArray[np.bool_],
        *,
        places: npt.NDArray[np.int64],
        wanted: npt.NDArray[np.int64],
        written: npt.NDArray[np.int64] | None = None,
    ) -> Floats:
        """−log p of the `wanted` tokens at the flat `places` of the ids in `matrix`, or of those in `written`
        where a decoder is asked: `[places]`."""
        batch = Batch(
            input_ids=torch.from_numpy(matrix),
            attention_mask=None if real.all() else torch.from_numpy(real),
            decoder_input_ids=None if written is None else torch.from_numpy(written),
        ).to(self.device)
        labels = torch.from_numpy(wanted).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            states = self.backbone(batch)
            asked = (states.last if written is None else states.decoded).flatten(0, 1)
            hidden = asked.index_select(0, torch.from_numpy(places).to(self.device))  # [places, hidden_size]
            table: Tensor = self.backbone.embeddings.tokens.weight
            rows = max(1, _SCORES // len(table))
            pieces = zip(torch.split(hidden, rows), torch.split(labels, rows), strict=True)
            parts = [self._cost(some, ids, table) for some, ids in pieces]
        costs: Floats = torch.cat(parts).double().cpu().numpy()
        return costs

    def _cost(self, hidden: Tensor, labels: Tensor, table: Tensor) -> Tensor:
        logits = self._head(hidden, table).float()  # [rows, vocab_size]
        return F.cross_entropy(logits, labels, reduction="none")
