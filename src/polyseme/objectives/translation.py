"""Translation, and every other text to text: one side of a pair is read, the other one written.

Vaswani et al. 2017, sections 3.1 and 5.4. The store holds pairs (`prepare --format pairs`): each document has
two turns, one a side.
"""

from dataclasses import dataclass

import numpy as np
import torch.nn as nn

from polyseme.errors import DataError
from polyseme.models.batch import Batch, Loss, States
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.encoder_decoder import Seq2SeqLMHead
from polyseme.objectives.contract import Objective
from polyseme.objectives.rows import Arrays, Rows
from polyseme.objectives.samples import Integers, Samples, SampleWriter, document_blocks
from polyseme.objectives.sequences import Ends, Part, two_sided, written_loss
from polyseme.records import Record
from polyseme.seeding import RowGenerator
from polyseme.text.store import Mark, Store


class TranslationSettings(Record, frozen=True, kw_only=True):
    """What is read, and how what is written is judged."""

    backwards: bool = False
    """Read the second text of each pair and write the first."""
    label_smoothing: float = 0.1
    """Share of the truth that is spread over all tokens in training; held-out losses are without it."""
    weight: float = 1.0
    """Of this loss in the sum."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")


@dataclass(frozen=True)
class TwoTexts:
    """The loader's half: the two texts of each pair, cut to the length of a row."""

    settings: TranslationSettings
    ends: Ends

    def check(self, store: Store) -> None:
        """Refuse a store without pairs."""
        if Mark.TURN not in store.marks_present:
            raise ValueError(
                "translation needs pairs of texts, and the documents of the store are of one; prepare it "
                "again with --format pairs, from lines of two texts split by a tab"
            )

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """A sample for each document of two turns; others are left out.

        Texts are cut where their row, special tokens included, would be longer than `length`.
        """
        rooms = np.array([length - self.ends.size, length - 1])
        writer = SampleWriter("joined", length=2 * length)
        for block in document_blocks(store, documents):
            for pair in pairs_of(store, block).tolist():
                start, middle, stop = pair
                sides = [(start, middle), (middle, stop)]
                sides = sides[::-1] if self.settings.backwards else sides
                writer.add(
                    [
                        (first, min(last, first + room))
                        for (first, last), room in zip(sides, rooms, strict=True)
                    ]
                )
            writer.end_block()
        samples = writer.finish()
        if not len(samples):
            raise DataError("no document of the store has two texts; prepare it with --format pairs")
        return samples

    def chance_epoch(self, epoch: int) -> int:
        """Nothing is left to chance but the order."""
        return 0

    def __call__(self, rows: Rows, rng: RowGenerator) -> Arrays:
        """The first span of each row is read, the second one written."""
        sides = [Part(rows.input_ids, rows.real & (rows.spans == side)) for side in (0, 1)]
        return two_sided(sides[:1], sides[1:], self.ends)


def pairs_of(store: Store, documents: Integers) -> Integers:
    """Where each document of exactly two turns starts, where its second turn does, and where it stops."""
    starts, stops = store.document_starts[documents], store.document_starts[documents + 1]
    _, marks = store.gather(starts, stops)
    turn = marks & Mark.TURN != 0
    begins = np.cumsum(stops - starts) - (stops - starts)  # of each document, among the gathered marks
    turns = np.add.reduceat(turn, begins, dtype=np.int64) if len(begins) else np.zeros(0, np.int64)
    two = turns == 2
    places = np.flatnonzero(turn)
    owners = np.searchsorted(begins, places, side="right") - 1
    second = two[owners] & (places > begins[owners])
    middles = starts[owners[second]] + places[second] - begins[owners[second]]
    return np.stack([starts[two], middles, stops[two]], axis=1)


class Translation(Objective):
    """The device's half: every token of the second text is predicted from the first and those before it."""

    Settings = TranslationSettings
    vocabulary = "translation"

    def __init__(self, settings: TranslationSettings, config: TransformerConfig, store: Store) -> None:
        super().__init__()
        if config.decoder is None:
            raise ValueError("translation needs a decoder to write with; set decoder in the model")
        tokenizer = store.tokenizer
        ends = Ends(tokenizer.frame.before, tokenizer.frame.after, tokenizer.separator_id, config.padding_id)
        self.corruption = TwoTexts(settings, ends)
        self.corruption.check(store)
        self.heads = nn.ModuleDict({"seq2seq-lm": Seq2SeqLMHead(config)})
        self.label_smoothing, self.weight = settings.label_smoothing, settings.weight

    @classmethod
    def head_names(cls, settings: TranslationSettings) -> tuple[str, ...]:
        """That of the decoder."""
        return ("seq2seq-lm",)

    def loss(self, backbone: nn.Module, states: States, batch: Batch) -> Loss:
        """Mean cross-entropy in nats over the written tokens and their end, padding left out."""
        assert states.decoded is not None
        assert batch.labels is not None
        head = self.heads["seq2seq-lm"]
        assert isinstance(head, Seq2SeqLMHead)
        smoothing = self.label_smoothing if self.training else 0.0
        loss = written_loss(backbone, head, states.decoded, batch, label_smoothing=smoothing)
        return Loss(
            total=loss * self.weight, parts={"translation": loss.detach()}, predictions=len(batch.labels)
        )
