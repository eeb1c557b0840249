"""Two rows of each sample: one that the encoder reads, and one that the decoder writes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

from polyseme.models.batch import IGNORED, Batch
from polyseme.models.cross_entropy import sparse_cross_entropy
from polyseme.models.transformer.encoder_decoder import Seq2SeqLMHead
from polyseme.objectives.rows import Arrays
from polyseme.objectives.samples import Integers

_PREDICTIONS = 128


@dataclass(frozen=True)
class Ends:
    """The special tokens of the two rows."""

    before: tuple[int, ...]
    """Before what is read, as the tokenizer frames a text."""
    after: tuple[int, ...]
    """After it."""
    end: int
    """After what is written."""
    padding: int
    """Fills both up, and stands before what is written while it is predicted."""

    @property
    def size(self) -> int:
        """Special tokens of a row that is read."""
        return len(self.before) + len(self.after)


@dataclass(frozen=True)
class Part:
    """Some tokens of a batch, one or none in each of its places: `ids` and `kept` are `[batch, places]`.

    What several parts have in the same place stands in the order of the parts.
    """

    ids: npt.NDArray[np.int64]
    kept: npt.NDArray[np.bool_]


def two_sided(read: Sequence[Part], written: Sequence[Part], ends: Ends) -> Arrays:
    """The arrays of a batch from what stands in each of its rows.

    Every token of what is written, and its end, is predicted from those before it.
    """
    input_ids, real = _laid_out(read, ends.before, ends.after, ends.padding)
    targets, asked = _laid_out(written, (), (ends.end,), ends.padding)
    decoder_input_ids = np.full_like(targets, ends.padding)
    decoder_input_ids[:, 1:] = targets[:, :-1]
    predicted = np.flatnonzero(asked)
    arrays: Arrays = {
        "input_ids": input_ids,
        "decoder_input_ids": decoder_input_ids,
        "predicted": predicted,
        "labels": targets.reshape(-1)[predicted],
    }
    if not real.all():
        arrays["attention_mask"] = real
    if not asked.all():
        arrays["decoder_attention_mask"] = asked
    return arrays


def _laid_out(
    parts: Sequence[Part], before: tuple[int, ...], after: tuple[int, ...], padding: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The kept tokens of each row side by side between the special ones, and where tokens are."""
    ids = np.stack([part.ids for part in parts], axis=-1).reshape(len(parts[0].ids), -1)
    kept = np.stack([part.kept for part in parts], axis=-1).reshape(ids.shape)  # [batch, places × parts]
    counts: Integers = kept.sum(axis=1)
    width = int(counts.max(initial=0)) + len(before) + len(after)
    rows = np.full((len(ids), width), padding, dtype=np.int64)
    rows[:, : len(before)] = before
    places = len(before) + np.cumsum(kept, axis=1) - 1
    rows[np.nonzero(kept)[0], places[kept]] = ids[kept]
    for number, special in enumerate(after):
        rows[np.arange(len(ids)), len(before) + counts + number] = special
    return rows, np.arange(width) < (counts + len(before) + len(after))[:, None]


def written_loss(
    backbone: nn.Module,
    head: Seq2SeqLMHead,
    decoded: Tensor,
    batch: Batch,
    *,
    label_smoothing: float = 0.0,
    only: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy in nats over what is predicted (`only` those of it, `[predictions]`)."""
    assert batch.predicted is not None
    assert batch.labels is not None
    predicted, labels = batch.predicted, batch.labels
    if only is not None:
        predicted, labels = predicted[only], labels[only]
    # Shapes repeat: a new one for each batch would fill oneDNN's cache of compiled products.
    extra = -len(labels) % _PREDICTIONS
    predicted = F.pad(predicted, (0, extra))
    labels = F.pad(labels, (0, extra), value=IGNORED)
    hidden = decoded.flatten(0, 1).index_select(0, predicted)  # [predictions, hidden_size]
    table = head.table(backbone.embeddings.tokens.weight)  # type: ignore[union-attr, arg-type]
    return sparse_cross_entropy(head.transform(hidden), table, None, labels, label_smoothing=label_smoothing)
