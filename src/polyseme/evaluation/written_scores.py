"""What a text costs an encoder–decoder: by spans of one token, or as the second text of a pair.

The first is a pseudo-perplexity, as of masked models (Salazar et al. 2020), in the form in which such a model
was trained; the second is the perplexity of a translation, given its source.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from polyseme import progress
from polyseme.checkpoints.model import Model
from polyseme.errors import CheckpointError, DataError
from polyseme.evaluation.masked_scores import MaskedScorer, View
from polyseme.evaluation.scoring import Floats, Scorer
from polyseme.evaluation.settings import PerplexitySettings
from polyseme.evaluation.tokenized import TokenizedText
from polyseme.models.batching import batches_by_length, pad


class SpanScorer(MaskedScorer):
    """Hides each token of a text in a row of its own, as a span, and asks for the first token of the span."""

    head = "seq2seq-lm"

    @classmethod
    def of(cls, model: Model, settings: PerplexitySettings) -> Scorer:
        """A scorer of pairs where the file holds pairs."""
        return (PairScorer if settings.text.format == "pairs" else cls)(model, settings)

    def __init__(self, model: Model, settings: PerplexitySettings) -> None:
        super().__init__(model, settings)
        if not self.tokenizer.sentinel_ids:
            raise CheckpointError(
                "this model was not trained on hidden spans, for its tokenizer has no sentinels; "
                "score pairs of texts with format pairs"
            )

    def asked(self, views: Sequence[View], places: npt.NDArray[np.int64]) -> Floats:
        """−log p of one token of each view, given the others and that a span begins in its place."""
        before = len(self.tokenizer.frame.before)
        sentinel = self.tokenizer.sentinel_ids[0]
        rows, wanted = [], []
        for view, place in zip(views, places.tolist(), strict=True):
            stop = place + 1
            if self.settings.hide == "rest-of-word":
                stop += int(np.argmin(np.append(view.words[stop:] == view.words[place], False)))
            wanted.append(view.input_ids[before + place])
            parts = (view.input_ids[: before + place], [sentinel], view.input_ids[before + stop :])
            rows.append(np.concatenate(parts).astype(np.int32))
        matrix, real = pad(rows, padding=self.tokenizer.filling_id, most=self.positions)
        written = np.tile([self.model.backbone.config.padding_id, sentinel], (len(rows), 1))
        return self.costs(
            matrix,
            real,
            places=np.arange(len(rows)) * 2 + 1,
            wanted=np.array(wanted, dtype=np.int64),
            written=written,
        )


class PairScorer(Scorer):
    """Asks for each token of the second text of a pair, from the first text and the tokens before it."""

    kind = "perplexity"
    head = "seq2seq-lm"
    reads_pairs = True

    def nats(self, texts: Sequence[TokenizedText]) -> Iterator[Floats]:
        """−log p of every token of the second texts."""
        frame = self.tokenizer.frame
        room = self.max_length - frame.size
        sources = [np.zeros(0, np.int32) if text.source is None else text.source for text in texts]
        if cut := sum(len(source) > room for source in sources):
            progress.warn(
                f"{cut} of {len(texts)} first texts are longer than the {self.max_length} tokens read here; "
                "their beginnings were read"
            )
        longest = max(len(text.ids) for text in texts)
        if longest > self.positions:
            raise DataError(
                f"a second text has {longest} tokens, but this model writes at most {self.positions}; "
                "split the pair"
            )
        lengths = [len(source[:room]) + len(text.ids) for source, text in zip(sources, texts, strict=True)]
        for numbers in batches_by_length(lengths, max_tokens=self.settings.batch_tokens):
            rows = [frame.single(sources[n][:room]) for n in numbers]
            yield self._asked(rows, [texts[n].ids for n in numbers])

    def _asked(
        self, rows: Sequence[npt.NDArray[np.int32]], targets: Sequence[npt.NDArray[np.int32]]
    ) -> Floats:
        padding: int = self.model.backbone.config.padding_id
        matrix, real = pad(rows, padding=padding, most=self.positions)
        before = [np.concatenate([[padding], target[:-1]]).astype(np.int32) for target in targets]
        written, asked = pad(before, padding=padding, most=self.positions)
        wanted = np.concatenate(targets).astype(np.int64)
        return self.costs(matrix, real, places=np.flatnonzero(asked), wanted=wanted, written=written)
