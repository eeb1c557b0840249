"""Perplexity: every token is asked of a causal model from those before it (Jelinek et al. 1977)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyseme.evaluation.scoring import Floats, Scorer
from polyseme.evaluation.tokenized import TokenizedText
from polyseme.models.batching import batches_by_length, pad


@dataclass(frozen=True)
class _View:
    """What the model reads of a document at once, and what it is asked: `[length]` both."""

    input_ids: npt.NDArray[np.int32]
    next_ids: npt.NDArray[np.int32]
    first: int
    """The first place that is asked; those before it were asked in the view before."""


class CausalScorer(Scorer):
    """Asks for each token once, in windows that share one half."""

    kind = "perplexity"
    head = "causal-lm"

    def nats(self, texts: Sequence[TokenizedText]) -> Iterator[Floats]:
        """−log p of every token; the first costs log vocab_size where nothing stands before texts."""
        roles = self.tokenizer.special_tokens
        begin = next((getattr(self.tokenizer, f"{r}_id") for r in ("separator", "first") if r in roles), None)
        if begin is None:
            yield np.full(len(texts), math.log(self.model.backbone.config.vocab_size))
        before = np.asarray([] if begin is None else [begin], dtype=np.int32)
        streams = [np.concatenate([before, text.ids]) for text in texts]
        views = [view for stream in streams for view in self._views(stream)]
        for numbers in batches_by_length(
            [len(view.input_ids) for view in views], max_tokens=self.settings.batch_tokens
        ):
            yield self._asked([views[n] for n in numbers])

    def _views(self, stream: npt.NDArray[np.int32]) -> Iterator[_View]:
        step = self.max_length - self.max_length // 2
        start = 0
        while start < len(stream) - 1:
            stop = min(start + self.max_length, len(stream) - 1)
            first = 0 if start == 0 else self.max_length - step
            yield _View(stream[start:stop], stream[start + 1 : stop + 1], first)
            if stop == len(stream) - 1:
                return
            start += step

    def _asked(self, views: Sequence[_View]) -> Floats:
        matrix, real = pad(
            [view.input_ids for view in views], padding=self.tokenizer.filling_id, most=self.positions
        )
        firsts = np.asarray([view.first for view in views])
        asked = real & (np.arange(real.shape[1]) >= firsts[:, None])
        wanted = np.concatenate([view.next_ids[view.first :] for view in views]).astype(np.int64)
        return self.costs(matrix, real, places=np.flatnonzero(asked), wanted=wanted)
