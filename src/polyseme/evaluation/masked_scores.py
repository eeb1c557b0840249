"""Pseudo-perplexity: every token is hidden once, and asked of a masked model from all the others.

Salazar et al. 2020, "Masked Language Model Scoring", equations 1 and 2; with the rest of the token's word
hidden too: Kauf and Ivanova 2023, "A Better Way to Do Masked Language Model Scoring", section 3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyseme.embedding.windows import windows
from polyseme.evaluation.scoring import Floats, Scorer
from polyseme.evaluation.tokenized import TokenizedText
from polyseme.models.batching import batches_by_length, pad


@dataclass(frozen=True)
class View:
    """A document or one window of it, as the model reads it: special tokens stand around the ids."""

    input_ids: npt.NDArray[np.int32]
    words: npt.NDArray[np.int64]
    """`[tokens]`, without the special ones."""
    own: range
    """The tokens that are asked here: in a window those to which it gives the most context."""


class MaskedScorer(Scorer):
    """Hides each token of a text in a row of its own."""

    kind = "pseudo-perplexity"
    head = "masked-lm"

    def nats(self, texts: Sequence[TokenizedText]) -> Iterator[Floats]:
        """−log p of every token; a text of n tokens is n rows."""
        views = [view for text in texts for view in self._views(text)]
        view_of = np.repeat(np.arange(len(views)), [len(view.own) for view in views])  # [tokens]
        place_of = np.concatenate([np.asarray(view.own) for view in views])
        lengths = np.asarray([len(view.input_ids) for view in views])[view_of]
        for numbers in batches_by_length(lengths, max_tokens=self.settings.batch_tokens):
            yield self.asked([views[n] for n in view_of[numbers]], place_of[numbers])

    def _views(self, text: TokenizedText) -> Iterator[View]:
        frame = self.tokenizer.frame
        size = self.max_length - frame.size
        for window in windows(len(text.ids), size=size, overlap=size // 4):
            inside = slice(window.start, window.stop)
            yield View(
                frame.single(text.ids[inside]),
                text.words[inside],
                range(window.own_start - window.start, window.own_stop - window.start),
            )

    def asked(self, views: Sequence[View], places: npt.NDArray[np.int64]) -> Floats:
        """−log p of one token of each view, the one at its place."""
        rows = [view.input_ids for view in views]
        matrix, real = pad(rows, padding=self.tokenizer.filling_id, most=self.positions)
        before = len(self.tokenizer.frame.before)
        asked = np.arange(len(views)), places + before
        wanted = matrix[asked]
        matrix[asked] = self.tokenizer.mask_id
        if self.settings.hide == "rest-of-word":
            for row, (view, place) in enumerate(zip(views, places.tolist(), strict=True)):
                later = np.flatnonzero(view.words[place + 1 :] == view.words[place])
                matrix[row, place + before + 1 + later] = self.tokenizer.mask_id
        return self.costs(matrix, real, places=np.ravel_multi_index(asked, matrix.shape), wanted=wanted)
