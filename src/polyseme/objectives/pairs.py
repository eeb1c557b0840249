"""Pairs of segments: a walk through every document, chunk by chunk, where each chunk gives one pair.

Devlin et al. 2019, "BERT", section 3.1; chunks, cuts and shortening are those of the published data script.
What the second segment is, and what is asked of the pair, the objectives say: next sentence, sentence order.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch.nn as nn
import torch.nn.functional as F

from polyseme.errors import DataError
from polyseme.models.batch import Batch, Loss, States
from polyseme.models.heads import PairHead
from polyseme.models.transformer.config import TransformerConfig
from polyseme.objectives.contract import Corruption, Objective
from polyseme.objectives.rows import Arrays, Rows
from polyseme.objectives.samples import Integers, Samples, SampleWriter, document_blocks
from polyseme.records import Record
from polyseme.seeding import RowGenerator, generator
from polyseme.text.store import Store

_SPECIAL = 3  # [CLS] A [SEP] B [SEP]
_TRIES = 10

Span = tuple[int, int]


class PairSettings(Record, frozen=True, kw_only=True):
    """What all objectives over pairs share."""

    short: float = 0.1
    """Share of the documents whose pairs aim at a shorter length, drawn from 2 to the full one."""
    weight: float = 1.0
    """Of this loss in the sum."""

    def __post_init__(self) -> None:
        check_shares(self, "short")


def check_shares(settings: Record, *names: str) -> None:
    """Refuse a field that is no share."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"{name} is a share from 0 to 1, got {getattr(settings, name)}")


class Chunk(NamedTuple):
    """Sentences of one document in a row, cut into two segments; one sentence alone has no second segment."""

    document: int
    borders: list[int]
    """Where its sentences start in the store, and where the last one ends."""
    cut: int
    """The number of sentences in the first segment."""
    target: int
    """How many tokens the pair should have."""

    @property
    def sentences(self) -> int:
        return len(self.borders) - 1

    @property
    def first(self) -> Span:
        return self.borders[0], self.borders[self.cut]

    @property
    def second(self) -> Span:
        return self.borders[self.cut], self.borders[-1]


class Pair(NamedTuple):
    """Two segments and what is to be said of them."""

    first: Span
    second: Span
    label: int
    used: int
    """How many sentences of the chunk are done with; the others come again."""


class LabelledRows:
    """What all corruptions share whose rows have labels of their own and are not touched."""

    def chance_epoch(self, epoch: int) -> int:
        """New rows in each epoch."""
        return epoch

    def __call__(self, rows: Rows, rng: RowGenerator) -> Arrays:
        """The rows as they are, with their labels."""
        assert rows.pair_labels is not None
        return rows.arrays(rows.input_ids) | {"pair_labels": rows.pair_labels}


@dataclass(frozen=True)
class PairSampling(LabelledRows):
    """The loader's half: pairs of segments from the store; `pair` is what an objective adds."""

    settings: PairSettings
    draws_elsewhere: ClassVar[bool] = True
    """Whether segments of other documents are drawn, so that one document is too few."""

    def pair(self, chunk: Chunk, draw: "Drawing") -> Pair | None:
        """What becomes of a chunk; None: nothing."""
        raise NotImplementedError

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """Pairs of segments that fill up to `length` tokens with [CLS] and two [SEP]."""
        if self.draws_elsewhere and len(documents) < 2:
            raise DataError(
                f"these pairs need at least 2 documents to draw from, and there is {len(documents)}; "
                "separate the documents by empty lines, or choose a recipe without pairs"
            )
        writer = SampleWriter("pair")
        for number, block in enumerate(document_blocks(store, documents)):
            draw = Drawing(store, documents, generator(seed, "pairs", epoch, number))
            for document in block.tolist():
                self._walk(document, draw, most=length - _SPECIAL, writer=writer)
            writer.end_block()
        return writer.finish()

    def _walk(self, document: int, draw: "Drawing", *, most: int, writer: SampleWriter) -> None:
        """Walk through a document, chunk by chunk."""
        sentences = draw.sentences(document)
        target = most
        if draw.rng.random() < self.settings.short:
            target = int(draw.rng.integers(2, most + 1))
        i = 0
        while i < len(sentences) - 1:
            begin = i
            while i < len(sentences) - 1 and sentences[i] - sentences[begin] < target:
                i += 1
            count = i - begin
            cut = int(draw.rng.integers(1, count)) if count >= 2 else 1
            pair = self.pair(Chunk(document, sentences[begin : i + 1], cut, target), draw)
            if pair is not None:
                i = begin + pair.used
                writer.add(draw.shorten(pair.first, pair.second, most=most), label=pair.label)


class Drawing:
    """What the pairs of one block of documents are drawn with: the store, and one stream of chance."""

    def __init__(self, store: Store, documents: Integers, rng: np.random.Generator) -> None:
        self.store, self.documents, self.rng = store, documents, rng

    def sentences(self, document: int) -> list[int]:
        """The borders of a document's sentences: count + 1 positions in the store."""
        start, end = self.store.document_starts[document : document + 2]
        first, last = np.searchsorted(self.store.sentence_starts, (start, end))
        return [*self.store.sentence_starts[first:last].tolist(), int(end)]

    def other(self, document: int) -> int:
        """Another document, unless ten tries all meet the same one."""
        for _ in range(_TRIES):
            other = int(self.documents[self.rng.integers(len(self.documents))])
            if other != document:
                break
        return other

    def elsewhere(self, document: int, *, least: int) -> Span:
        """Sentences of another document from a random one on, at least `least` tokens where it has them."""
        borders = self.sentences(self.other(document))
        begin = int(self.rng.integers(len(borders) - 1))
        end = begin + 1
        while end < len(borders) - 1 and borders[end] - borders[begin] < least:
            end += 1
        return borders[begin], borders[end]

    def shorten(self, first: Span, second: Span, *, most: int) -> list[Span]:
        """Take tokens off the longer segment, one by one, from its front or its back, until the pair fits."""
        sizes = [first[1] - first[0], second[1] - second[0]]
        kept = list(sizes)
        while sum(kept) > most:
            longer = 0 if kept[0] > kept[1] else 1
            other = kept[1 - longer]
            kept[longer] -= max(1, min(sum(kept) - most, kept[longer] - other))
        spans = []
        for (start, stop), size, rest in zip((first, second), sizes, kept, strict=True):
            front = int(self.rng.binomial(size - rest, 0.5))
            spans.append((start + front, stop - (size - rest - front)))
        return spans


class PairObjective(Objective):
    """The device's half: two classes on the pooled first state."""

    name: str
    """Of the loss, as it is reported."""

    def __init__(self, corruption: Corruption, head: str, weight: float, config: TransformerConfig) -> None:
        super().__init__()
        self.corruption = corruption
        if not config.pooler:
            raise ValueError(
                f"{self.name.replace('-', ' ')} reads the pooled first state; set pooler = true in the model"
            )
        self.heads = nn.ModuleDict({head: PairHead(config)})
        self.head, self.weight = head, weight

    def loss(self, backbone: nn.Module, states: States, batch: Batch) -> Loss:
        """Mean cross-entropy in nats over the pairs."""
        assert batch.pair_labels is not None
        logits = self.heads[self.head](states.pooled)  # [batch, 2]
        loss = F.cross_entropy(logits.float(), batch.pair_labels)
        return Loss(
            total=loss * self.weight,
            parts={self.name: loss.detach()},
            predictions=len(batch.pair_labels),
            decisions={self.name: (logits.detach(), batch.pair_labels)},
        )
