"""Perplexity with memory: every token is asked from all that the model remembers of its document.

Dai et al. 2019, "Transformer-XL", section 4.1.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from polyseme.evaluation.scoring import SCORES, Floats, Scorer
from polyseme.evaluation.tokenized import TokenizedText
from polyseme.models.adaptive import AdaptiveLMHead
from polyseme.models.batch import Batch
from polyseme.models.batching import batches_by_length, pad
from polyseme.models.transformer.memory import Memory, read_on


class SegmentScorer(Scorer):
    """Reads each document in segments of at most `max_length`, the first behind a separator."""

    kind = "perplexity"
    head = "adaptive-lm"

    def nats(self, texts: Sequence[TokenizedText]) -> Iterator[Floats]:
        """−log p of every token, also of the first, which follows the end of another document."""
        end = np.asarray([self.tokenizer.separator_id], dtype=np.int32)
        streams = sorted((np.concatenate([end, text.ids]) for text in texts), key=len, reverse=True)
        lengths = [min(len(stream) - 1, self.max_length) for stream in streams]
        for numbers in batches_by_length(lengths, max_tokens=self.settings.batch_tokens):
            yield from self._documents([streams[n] for n in numbers])

    def _documents(self, streams: Sequence[npt.NDArray[np.int32]]) -> Iterator[Floats]:
        """Segment by segment, the longest document first; those that have ended are left out."""
        memory: Memory = ()
        for start in range(0, len(streams[0]) - 1, self.max_length):
            going = [stream for stream in streams if len(stream) - 1 > start]
            stops = [min(start + self.max_length, len(stream) - 1) for stream in going]
            pairs = list(zip(going, stops, strict=True))
            # No wider than a segment: padding must not be remembered by a document that goes on.
            ids, real = pad(
                [stream[start:stop] for stream, stop in pairs],
                padding=self.tokenizer.filling_id,
                most=self.max_length,
            )
            wanted = np.concatenate([stream[start + 1 : stop + 1] for stream, stop in pairs])
            memory = tuple(states[: len(going)] for states in memory)
            costs, memory = self._segment(ids, real, wanted.astype(np.int64), memory)
            yield costs

    @torch.inference_mode()
    def _segment(
        self,
        ids: npt.NDArray[np.int64],
        real: npt.NDArray[np.bool_],
        wanted: npt.NDArray[np.int64],
        memory: Memory,
    ) -> tuple[Floats, Memory]:
        """−log p of the `wanted` tokens and what is remembered; padding is last, so that nothing sees it."""
        assert isinstance(self._head, AdaptiveLMHead)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            states, memory = read_on(self.backbone, Batch(torch.from_numpy(ids).to(self.device)), memory)
            hidden = states.last[torch.from_numpy(real).to(self.device)]  # [asked, hidden_size]
            labels = torch.from_numpy(wanted).to(self.device)
            rows = max(1, SCORES // self.backbone.config.vocab_size)
            pieces = zip(torch.split(hidden, rows), torch.split(labels, rows), strict=True)
            tokens = self.backbone.embeddings.tokens
            parts = [self._head.costs(some, of_some, tokens) for some, of_some in pieces]
        costs: Floats = torch.cat(parts).double().cpu().numpy()
        return costs, memory
