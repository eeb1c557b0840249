"""Rows: samples laid out as a model reads them, a whole batch at once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyseme.objectives.samples import Integers, Layout, Samples
from polyseme.text.store import Store

Arrays = dict[str, npt.NDArray[np.generic]]
"""What the loader hands on: arrays by the field names of `models.batch.Batch`."""


@dataclass(frozen=True)
class Rows:
    """A batch before an objective touches it; every array is `[batch, length]` unless said otherwise."""

    input_ids: npt.NDArray[np.int64]
    marks: npt.NDArray[np.uint8]
    """The store's bits of each token; 0 at special tokens and padding."""
    attention_mask: npt.NDArray[np.bool_]
    real: npt.NDArray[np.bool_]
    """True where a token comes from the text: neither special nor padding."""
    spans: npt.NDArray[np.int64]
    """Number of the span (0, 1 …) that each position belongs to, its special tokens included."""
    position_ids: npt.NDArray[np.int64]
    layout: Layout
    samples: Integers
    """The number of each row's sample in its epoch: `[batch]`."""
    pair_labels: npt.NDArray[np.int64] | None
    progress: float
    """How much of the training lies behind, from 0 to 1."""

    @property
    def lengths(self) -> Integers:
        """Tokens in each row, special ones included: `[batch]`."""
        counts: Integers = self.attention_mask.sum(axis=1)
        return counts

    def arrays(self, input_ids: npt.NDArray[np.int64]) -> Arrays:
        """What the model reads of these rows, with `input_ids` in place of the original ones."""
        arrays: Arrays = {"input_ids": input_ids}
        if not self.attention_mask.all():
            arrays["attention_mask"] = self.attention_mask
        if self.layout == "packed":
            arrays["document_ids"] = (self.spans + 1) * self.attention_mask
            arrays["position_ids"] = self.position_ids
        elif self.layout == "pair" and self.spans.any():
            arrays["token_type_ids"] = self.spans % 2  # the turns of a dialogue take turns
        elif self.layout == "behind":
            arrays["token_type_ids"] = self.spans
        return arrays


def lay_out(store: Store, samples: Samples, chosen: Integers, *, length: int, progress: float = 0.0) -> Rows:
    """The rows of the samples numbered `chosen`: `[CLS]`, spans, `[SEP]`s as their layout says, and padding
    to the longest row (to `length` unless rows are pairs, so that shapes stay the same)."""
    tokenizer, layout = store.tokenizer, samples.layout
    length = samples.length or length
    counts = samples.rows[chosen + 1] - samples.rows[chosen]  # [batch]
    row = np.repeat(np.arange(len(chosen)), counts)  # [spans]
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    span = np.repeat(samples.rows[chosen], counts) + within
    starts, stops = samples.starts[span], samples.stops[span]
    sizes = stops - starts

    opens, closes = _FRAMES[layout](sizes, row, within, length)  # spans with [CLS] before, [SEP] after
    widths = sizes + opens + closes
    ends = np.cumsum(widths)
    row_begins = np.concatenate([[0], ends[np.cumsum(counts) - 1]])[:-1]
    begins = ends - widths - row_begins[row]  # [spans], inside their row
    used = np.bincount(row, weights=widths, minlength=len(chosen)).astype(np.int64)
    if used.max(initial=0) > length:
        raise ValueError(f"a row of {used.max()} tokens was planned where length is {length}")
    width = int(used.max(initial=0)) if layout in ("pair", "joined", "behind") else length

    shape = (len(chosen), width)
    input_ids = np.full(shape, tokenizer.filling_id, dtype=np.int64)
    marks = np.zeros(shape, dtype=np.uint8)
    real = np.zeros(shape, dtype=np.bool_)
    span_of = np.zeros(shape, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)

    inside = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = np.repeat(row * width + begins + opens, sizes) + inside
    ids, bits = store.gather(starts, stops)
    input_ids.reshape(-1)[place] = ids
    marks.reshape(-1)[place] = bits
    real.reshape(-1)[place] = True
    if opens.any():
        input_ids[row[opens], begins[opens]] = tokenizer.first_id
    if closes.any():
        input_ids[row[closes], (begins + widths - 1)[closes]] = tokenizer.separator_id

    covered = np.arange(int(widths.sum())) - np.repeat(np.cumsum(widths) - widths, widths)
    place = np.repeat(row * width + begins, widths) + covered
    span_of.reshape(-1)[place] = np.repeat(within, widths)
    position_ids.reshape(-1)[place] = covered + (0 if layout == "packed" else np.repeat(begins, widths))
    labels = samples.pair_labels
    return Rows(
        input_ids=input_ids,
        marks=marks,
        attention_mask=np.arange(width) < used[:, None],
        real=real,
        spans=span_of,
        position_ids=position_ids,
        layout=layout,
        samples=chosen,
        pair_labels=None if labels is None else labels[chosen].astype(np.int64),
        progress=progress,
    )


Booleans = npt.NDArray[np.bool_]


def _together(sizes: Integers, row: Integers, within: Integers, length: int) -> tuple[Booleans, Booleans]:
    return within == 0, np.ones(len(sizes), dtype=np.bool_)


def _each(sizes: Integers, row: Integers, within: Integers, length: int) -> tuple[Booleans, Booleans]:
    everywhere = np.ones(len(sizes), dtype=np.bool_)
    return everywhere, everywhere


def _between(sizes: Integers, row: Integers, within: Integers, length: int) -> tuple[Booleans, Booleans]:
    """A separator ends every document but one that fills its row to the end or goes on in the next."""
    if not len(sizes):
        return np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.bool_)
    last = np.append(row[1:] != row[:-1], True)
    taken = np.bincount(row, weights=sizes) + np.bincount(row) - 1  # [rows], without the last separator
    return np.zeros(len(sizes), dtype=np.bool_), ~last | (taken[row] < length)


def _bare(sizes: Integers, row: Integers, within: Integers, length: int) -> tuple[Booleans, Booleans]:
    nowhere = np.zeros(len(sizes), dtype=np.bool_)
    return nowhere, nowhere


def _behind(sizes: Integers, row: Integers, within: Integers, length: int) -> tuple[Booleans, Booleans]:
    return within == 2, within < 2


_FRAMES: dict[Layout, Callable[[Integers, Integers, Integers, int], tuple[Booleans, Booleans]]] = {
    "pair": _together,
    "packed": _each,
    "contiguous": _between,
    "joined": _bare,
    "behind": _behind,
}
"""Which spans begin with `[CLS]` and which end with `[SEP]`: from sizes, row, number in the row, length."""
