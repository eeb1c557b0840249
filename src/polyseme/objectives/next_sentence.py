"""Next sentence: does segment B follow segment A, or does it come from anywhere?

Devlin et al. 2019, "BERT", section 3.1; the rules below are those of the published data script.
"""

from dataclasses import dataclass

import numpy as np
import torch.nn as nn
import torch.nn.functional as F

from polyseme.errors import DataError
from polyseme.models.batch import Batch, Loss, States
from polyseme.models.heads import PairHead
from polyseme.models.transformer.config import TransformerConfig
from polyseme.objectives.contract import Objective
from polyseme.objectives.rows import Arrays, Rows
from polyseme.objectives.samples import Integers, Samples, SampleWriter, document_blocks
from polyseme.records import Record
from polyseme.seeding import RowGenerator, generator
from polyseme.text.store import Store

FOLLOWS, RANDOM = 0, 1
_SPECIAL = 3  # [CLS] A [SEP] B [SEP]
_TRIES = 10

Span = tuple[int, int]


class NextSentenceSettings(Record, frozen=True, kw_only=True):
    """How pairs of segments are made."""

    random: float = 0.5
    """Share of the pairs whose second segment is drawn from another document. A chunk of one sentence has
    no second half, so it always gets a drawn one, and short documents raise the share."""
    short: float = 0.1
    """Share of the documents whose pairs aim at a shorter length, drawn from 2 to the full one."""
    weight: float = 1.0
    """Of this loss in the sum."""

    def __post_init__(self) -> None:
        for name in ("random", "short"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Pairs:
    """The loader's half: pairs of segments from the store."""

    settings: NextSentenceSettings

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """Pairs of segments that fill up to `length` tokens with [CLS] and two [SEP]."""
        if len(documents) < 2:
            raise DataError(
                f"next sentence needs at least 2 documents to draw from, and there is {len(documents)}; "
                "separate the documents by empty lines, or choose a recipe without it"
            )
        writer = SampleWriter("pair")
        for number, block in enumerate(document_blocks(store, documents)):
            draw = _Drawing(store, documents, self.settings, generator(seed, "pairs", epoch, number))
            for document in block.tolist():
                draw.document(document, most=length - _SPECIAL, writer=writer)
            writer.end_block()
        return writer.finish()

    def chance_epoch(self, epoch: int) -> int:
        """New pairs in each epoch."""
        return epoch

    def __call__(self, rows: Rows, rng: RowGenerator) -> Arrays:
        """The rows as they are, with each pair's label."""
        assert rows.pair_labels is not None
        return rows.arrays(rows.input_ids) | {"pair_labels": rows.pair_labels}


class _Drawing:
    """Makes the pairs of one block of documents, in order, from one stream of chance."""

    def __init__(
        self, store: Store, documents: Integers, settings: NextSentenceSettings, rng: np.random.Generator
    ) -> None:
        self.store, self.documents, self.settings, self.rng = store, documents, settings, rng

    def document(self, document: int, *, most: int, writer: SampleWriter) -> None:
        """Walk through a document, chunk by chunk; each chunk gives one pair."""
        sentences = self.sentences(document)
        target = most
        if self.rng.random() < self.settings.short:
            target = int(self.rng.integers(2, most + 1))
        i = 0
        while i < len(sentences) - 1:
            begin = i
            while i < len(sentences) - 1 and sentences[i] - sentences[begin] < target:
                i += 1
            count = i - begin
            cut = begin + (int(self.rng.integers(1, count)) if count >= 2 else 1)
            first = (sentences[begin], sentences[cut])
            if count == 1 or self.rng.random() < self.settings.random:
                second, label = self.elsewhere(document, least=target - (first[1] - first[0])), RANDOM
                i = cut  # what was not used comes again
            else:
                second, label = (sentences[cut], sentences[i]), FOLLOWS
            writer.add(self.shorten(first, second, most=most), label=label)

    def sentences(self, document: int) -> list[int]:
        """The borders of a document's sentences: count + 1 positions in the store."""
        start, end = self.store.document_starts[document : document + 2]
        first, last = np.searchsorted(self.store.sentence_starts, (start, end))
        return [*self.store.sentence_starts[first:last].tolist(), int(end)]

    def elsewhere(self, document: int, *, least: int) -> Span:
        """Sentences of another document from a random one on, at least `least` tokens where it has them."""
        for _ in range(_TRIES):
            other = int(self.documents[self.rng.integers(len(self.documents))])
            if other != document:
                break
        borders = self.sentences(other)
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


class NextSentence(Objective):
    """The device's half: two classes on the pooled first state."""

    Settings = NextSentenceSettings

    def __init__(self, settings: NextSentenceSettings, config: TransformerConfig, store: Store) -> None:
        super().__init__()
        self.corruption = Pairs(settings)
        if not config.pooler:
            raise ValueError("next sentence reads the pooled first state; set pooler = true in the model")
        self.heads = nn.ModuleDict({"next-sentence": PairHead(config)})
        self.weight = settings.weight

    @classmethod
    def head_names(cls, settings: NextSentenceSettings) -> tuple[str, ...]:
        """The pair head."""
        return ("next-sentence",)

    def loss(self, backbone: nn.Module, states: States, batch: Batch) -> Loss:
        """Mean cross-entropy in nats over the pairs."""
        assert batch.pair_labels is not None
        logits = self.heads["next-sentence"](states.pooled)  # [batch, 2]
        loss = F.cross_entropy(logits.float(), batch.pair_labels)
        return Loss(
            total=loss * self.weight,
            parts={"next-sentence": loss.detach()},
            predictions=len(batch.pair_labels),
            decisions={"next-sentence": (logits.detach(), batch.pair_labels)},
        )
