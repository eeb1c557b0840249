"""Perplexity of a permutation model: of all orders of the tokens, that from left to right.

Yang et al. 2019, "XLNet", section 2.2: each order factorises the probability of the same text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from polyseme.evaluation.scoring import SCORES, Floats, Scorer
from polyseme.evaluation.tokenized import TokenizedText
from polyseme.models.batch import Batch
from polyseme.models.batching import batches_by_length, pad
from polyseme.models.transformer.streams import ask


@dataclass(frozen=True)
class _View:
    """A document or one window of it."""

    input_ids: npt.NDArray[np.int32]
    first: int
    """The first token that is asked; those before it were asked in the window before."""


class PermutationScorer(Scorer):
    """Asks the query stream for every token, in windows that share one half.

    The text stands without special tokens, which would come behind it and tell its length.
    """

    kind = "perplexity"
    head = "permutation-lm"

    def nats(self, texts: Sequence[TokenizedText]) -> Iterator[Floats]:
        """−log p of every token from those to its left; of the first, from nothing."""
        views = [view for text in texts for view in self._views(text.ids)]
        lengths = [len(view.input_ids) for view in views]
        for numbers in batches_by_length(lengths, max_tokens=self.settings.batch_tokens):
            yield self._asked([views[n] for n in numbers])

    def _views(self, ids: npt.NDArray[np.int32]) -> Iterator[_View]:
        half = self.max_length // 2
        start = 0
        while True:
            stop = min(start + self.max_length, len(ids))
            yield _View(ids[start:stop], 0 if start == 0 else half)
            if stop == len(ids):
                return
            start = stop - half

    @torch.inference_mode()
    def _asked(self, views: Sequence[_View]) -> Floats:
        ids, real = pad(
            [view.input_ids for view in views], padding=self.tokenizer.filling_id, most=self.positions
        )
        places = np.arange(ids.shape[1])
        asked = torch.from_numpy(real & (places >= np.asarray([view.first for view in views])[:, None]))
        every = torch.from_numpy(places).expand(ids.shape)
        batch = Batch(
            torch.from_numpy(ids), attention_mask=None if real.all() else torch.from_numpy(real), order=every
        ).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            query, _, _ = ask(self.backbone, batch, every.to(self.device))
            hidden = query.last[asked.to(self.device)]  # [asked, hidden_size]
            labels = batch.input_ids[asked.to(self.device)]
            table = self.backbone.embeddings.tokens.weight
            rows = max(1, SCORES // len(table))
            pieces = zip(torch.split(hidden, rows), torch.split(labels, rows), strict=True)
            parts = [self._cost(some, of_some, table) for some, of_some in pieces]
        costs: Floats = torch.cat(parts).double().cpu().numpy()
        return costs
