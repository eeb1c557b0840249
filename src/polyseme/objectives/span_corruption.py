"""Span corruption: spans of a text are hidden, and written down one after the other.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
section 3.1.4, and the published preprocessors. What is read has a sentinel in the place of each span; what is
written has each sentinel with its span behind it, and then the end. The paper's figure 2 draws a last
sentinel before the end; the published code writes none, since a text there never ends with a shown span.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn as nn
from torch import Tensor

from polyseme.errors import SettingsError
from polyseme.models.batch import Batch, Loss, States
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.encoder_decoder import Seq2SeqLMHead
from polyseme.objectives.contract import Objective
from polyseme.objectives.rows import Arrays, Rows
from polyseme.objectives.samples import Integers, Samples, SampleWriter, document_blocks
from polyseme.objectives.sequences import Ends, Part, two_sided, written_loss
from polyseme.records import Record
from polyseme.seeding import RowGenerator, generator
from polyseme.text.store import Store


class SpanCorruptionSettings(Record, frozen=True, kw_only=True):
    """How spans are hidden."""

    rate: float = 0.15
    """Share of the tokens to hide."""
    mean_span: float = 3.0
    """Mean length of a hidden span, in tokens."""
    weight: float = 1.0
    """Of this loss in the sum."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate must lie between 0 and 1, got {self.rate}")
        if self.mean_span < 1:
            raise ValueError(f"mean_span must be at least 1, got {self.mean_span}")

    def counts(self, lengths: Integers) -> tuple[Integers, Integers]:
        """How many tokens of texts of these lengths are hidden, and in how many spans.

        Rounded as TensorFlow does, half to even and in float32; at least one token is hidden and one shown.
        """
        shares = lengths.astype(np.float32) * np.float32(self.rate)
        hidden = np.clip(np.rint(shares).astype(np.int64), 1, np.maximum(lengths - 1, 1))
        spans = np.rint(hidden.astype(np.float32) / np.float32(self.mean_span)).astype(np.int64)
        return hidden, np.clip(spans, 1, np.maximum(np.minimum(hidden, lengths - hidden), 1))

    def raw_length(self, length: int, *, special: int) -> int:
        """The longest text whose row, `special` tokens included, has at most `length` tokens once spans are
        hidden."""
        raw = length
        while self.read(raw + 1) + special <= length:
            raw += 1
        return raw

    def read(self, raw: int) -> int:
        """How many tokens are read of a text, without special ones but with sentinels."""
        hidden, spans = self.counts(np.array([raw]))
        return int(raw - hidden[0] + spans[0])

    def written(self, raw: int) -> int:
        """How many tokens are written, with sentinels and the end."""
        hidden, spans = self.counts(np.array([raw]))
        return int(hidden[0] + spans[0]) + 1


@dataclass(frozen=True)
class SpanHiding:
    """The loader's half: full rows of text, and which spans of them are hidden."""

    settings: SpanCorruptionSettings
    ends: Ends
    sentinels: tuple[int, ...]
    """The sentinel of the first span of a row, of the second …"""

    def raw_length(self, length: int) -> int:
        """The length of the texts whose rows have `length` tokens."""
        return self.settings.raw_length(length, special=self.ends.size)

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """Every token of the documents once: one document after another, cut wherever a row is full."""
        raw = self.raw_length(length)
        spans = int(self.settings.counts(np.array([raw]))[1][0])
        if spans > len(self.sentinels):
            raise SettingsError(
                f"rows of {length} tokens have {spans} hidden spans, and the tokenizer has "
                f"{len(self.sentinels)} sentinels; learn one with more, or take a shorter length"
            )
        writer = SampleWriter("joined", length=raw)
        for number, block in enumerate(document_blocks(store, documents)):
            rng = generator(seed, "spans", epoch, number)
            for row in cut_stream(store, block[rng.permutation(len(block))], length=raw):
                writer.add(row)
            writer.end_block()
        return writer.finish()

    def chance_epoch(self, epoch: int) -> int:
        """New spans in each epoch."""
        return epoch

    def __call__(self, rows: Rows, rng: RowGenerator) -> Arrays:
        """What is read, with a sentinel for each hidden span, and what is written."""
        hidden, spans = self.hide(rows.lengths, rows.real.shape[1], rng)
        sentinels = np.asarray(self.sentinels, dtype=np.int64)[np.maximum(spans, 0)]
        first = hidden.copy()
        first[:, 1:] &= ~hidden[:, :-1]
        text, sentinel = rows.input_ids, Part(sentinels, first)
        return two_sided(
            [sentinel, Part(text, rows.real & ~hidden)], [sentinel, Part(text, hidden)], self.ends
        )

    def hide(
        self, lengths: Integers, width: int, rng: RowGenerator
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Which tokens of rows of these lengths are hidden, and the number of the span that each belongs to
        or comes after: both `[batch, width]`.

        Shown and hidden spans take turns, a shown one first; the lengths of both are drawn evenly from all
        ways to cut so many tokens into so many spans.
        """
        hidden, spans = self.settings.counts(lengths)
        shown_ends = cut_evenly(lengths - hidden, spans, width, rng)
        hidden_ends = cut_evenly(hidden, spans, width, rng)  # both [batch, most spans]
        starts = shown_ends.copy()  # of each hidden span: what was shown so far, and the spans before it
        starts[:, 1:] += hidden_ends[:, :-1]
        stops = shown_ends + hidden_ends
        place = np.arange(width)
        used = np.arange(starts.shape[1]) < spans[:, None]
        begun = _count_at(starts, used, width)
        ended = _count_at(stops, used, width)
        return (begun > ended) & (place < lengths[:, None]), begun - 1


def _count_at(
    places: npt.NDArray[np.int64], used: npt.NDArray[np.bool_], width: int
) -> npt.NDArray[np.int64]:
    """At each place of a row, how many of the used `places` it has reached: `[batch, width]`."""
    marks = np.zeros((len(places), width + 1), dtype=np.int64)
    np.add.at(marks, (np.nonzero(used)[0], np.minimum(places[used], width)), 1)
    counted: npt.NDArray[np.int64] = np.cumsum(marks, axis=1)[:, :width]
    return counted


def cut_evenly(totals: Integers, parts: Integers, width: int, rng: RowGenerator) -> npt.NDArray[np.int64]:
    """Where the parts end if each total is cut into so many parts, none empty and every way as likely.

    `[batch, most parts]`; beyond a row's own parts its total is repeated. `width` bounds the totals, and so
    many numbers are drawn for each row.
    """
    lots = rng.random(width)
    borders = np.arange(1, width + 1)  # a part may end before any token but the first
    lots = np.where(borders < totals[:, None], lots, 2.0)
    rank = np.argsort(np.argsort(lots, axis=1, kind="stable"), axis=1, kind="stable")
    chosen = rank < (parts - 1)[:, None]
    most = int(parts.max(initial=1))
    ends = np.where(chosen, borders, totals[:, None])
    ends.sort(axis=1)
    cut: npt.NDArray[np.int64] = np.minimum(ends[:, :most], totals[:, None])
    return cut


def cut_stream(store: Store, documents: Integers, *, length: int) -> list[list[tuple[int, int]]]:
    """The documents in this order, without anything between them, in rows of `length` tokens.

    A last row of a single token is left out: nothing of it could be shown.
    """
    starts, stops = store.document_starts[documents], store.document_starts[documents + 1]
    ends = np.cumsum(stops - starts)
    begins = ends - (stops - starts)
    total = int(ends[-1]) if len(ends) else 0
    rows = []
    for begin in range(0, total - 1, length):
        end = min(begin + length, total)
        first, last = int(np.searchsorted(ends, begin, side="right")), int(np.searchsorted(begins, end))
        from_here = starts[first:last] + np.maximum(begin - begins[first:last], 0)
        to_there = np.minimum(stops[first:last], starts[first:last] + end - begins[first:last])
        rows.append(list(zip(from_here.tolist(), to_there.tolist(), strict=True)))
    return rows


class SpanCorruption(Objective):
    """The device's half: everything that is written is predicted, sentinels too."""

    Settings = SpanCorruptionSettings
    vocabulary = "span-corruption"

    def __init__(self, settings: SpanCorruptionSettings, config: TransformerConfig, store: Store) -> None:
        super().__init__()
        if config.decoder is None:
            raise ValueError("span-corruption needs a decoder to write the spans; set decoder in the model")
        tokenizer = store.tokenizer
        if not tokenizer.sentinel_ids:
            raise ValueError(
                "span-corruption puts sentinels in the place of spans, and the store's tokenizer has none; "
                "learn one with sentinels=100"
            )
        ends = Ends(tokenizer.frame.before, tokenizer.frame.after, tokenizer.separator_id, config.padding_id)
        self.corruption = SpanHiding(settings, ends, tokenizer.sentinel_ids)
        self.heads = nn.ModuleDict({"seq2seq-lm": Seq2SeqLMHead(config)})
        self.weight = settings.weight
        self.register_buffer("sentinels", torch.tensor(tokenizer.sentinel_ids), persistent=False)

    @classmethod
    def head_names(cls, settings: SpanCorruptionSettings) -> tuple[str, ...]:
        """That of the decoder."""
        return ("seq2seq-lm",)

    def loss(self, backbone: nn.Module, states: States, batch: Batch) -> Loss:
        """Mean cross-entropy in nats; the sentinels, which say nothing of the text, are a part apart."""
        assert states.decoded is not None
        assert batch.labels is not None
        head = self.heads["seq2seq-lm"]
        assert isinstance(head, Seq2SeqLMHead)
        sentinels: Tensor = self.sentinels  # type: ignore[assignment]
        special = torch.isin(batch.labels, sentinels)
        parts = {
            "span-corruption": written_loss(backbone, head, states.decoded, batch, only=~special),
            "sentinels": written_loss(backbone, head, states.decoded, batch, only=special),
        }
        share = special.float().mean()
        total = parts["span-corruption"] * (1 - share) + parts["sentinels"] * share
        return Loss(
            total=total * self.weight,
            parts={name: part.detach() for name, part in parts.items()},
            predictions=len(batch.labels),
        )
