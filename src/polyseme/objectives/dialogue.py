"""Dialogue: are these turns one conversation, or was a response put in from elsewhere?

Sun et al. 2019, "ERNIE", section 3.2.3 (dialogue language model). Roles take the place of segments: the
first turn of a row and every second one after it ask (type 0), the turns between answer (type 1).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from polyseme.errors import DataError
from polyseme.models.transformer.config import TransformerConfig
from polyseme.objectives.pairs import Drawing, LabelledRows, PairObjective, Span, check_shares
from polyseme.objectives.samples import Integers, Samples, SampleWriter, document_blocks
from polyseme.records import Record
from polyseme.seeding import generator
from polyseme.text.store import Mark, Store

FAKE, TRUE = 0, 1


class DialogueSettings(Record, frozen=True, kw_only=True):
    """How rows of turns are made."""

    turns: int = 3
    """The most turns in a row: a question, a response, a question …"""
    fake: float = 0.5
    """Share of the rows in which one response is replaced by a turn of another dialogue."""
    weight: float = 1.0
    """Of this loss in the sum."""

    def __post_init__(self) -> None:
        check_shares(self, "fake")
        if self.turns < 2:
            raise ValueError(f"turns must be at least 2, a question and its response, got {self.turns}")


@dataclass(frozen=True)
class Turns(LabelledRows):
    """The loader's half: some turns of a dialogue in a row, of which one may be false."""

    settings: DialogueSettings

    def check(self, store: Store) -> None:
        """Refuse a store that does not know where turns start."""
        if Mark.TURN not in store.marks_present:
            raise ValueError(
                "dialogue reads turns, but the store has no turn marks; prepare it again with --turns "
                "(each line of a document is a turn), or with --format pairs"
            )

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """Each turn once, but where one alone is left at the end: it comes with the turn before it."""
        if len(documents) < 2:
            raise DataError(
                f"dialogue needs at least 2 dialogues to draw from, and there is {len(documents)}; "
                "separate them by empty lines"
            )
        writer = SampleWriter("pair")
        for number, block in enumerate(document_blocks(store, documents)):
            draw = Drawing(store, documents, generator(seed, "dialogue", epoch, number))
            for document in block.tolist():
                for row, label in self._rows(document, draw):
                    writer.add(_fitted(row, most=length - 1 - len(row)), label=label)
            writer.end_block()
        samples = writer.finish()
        if not len(samples):
            raise DataError("no dialogue has two turns; write each turn on a line of its own")
        return samples

    def _rows(self, document: int, draw: Drawing) -> list[tuple[list[Span], int]]:
        turns = turns_of(draw.store, document)
        rows = []
        for begin in range(0, len(turns) - 1 if len(turns) > 1 else 0, self.settings.turns):
            rows.append(turns[begin : begin + self.settings.turns])
        if rows and (len(turns) - 1) % self.settings.turns == 0:
            rows.append(turns[-2:])
        labelled = []
        for row in rows:
            label = TRUE
            if draw.rng.random() < self.settings.fake:
                label, response = FAKE, 1 + 2 * int(draw.rng.integers(len(row) // 2))
                others = turns_of(draw.store, draw.other(document))
                row = [*row[:response], others[draw.rng.integers(len(others))], *row[response + 1 :]]
            labelled.append((row, label))
        return labelled


def turns_of(store: Store, document: int) -> list[Span]:
    """The turns of a document as spans of the store."""
    start, end = store.document_starts[document : document + 2]
    _, marks = store.gather(np.array([start]), np.array([end]))
    borders = [*(np.flatnonzero(marks & Mark.TURN) + start).tolist(), int(end)]
    return list(pairwise(borders))


def _fitted(row: list[Span], *, most: int) -> list[Span]:
    """The turns, the longest ones cut at their ends so that together they have at most `most` tokens."""
    sizes = sorted(stop - start for start, stop in row)
    left, cap = most, most
    for number, size in enumerate(sizes):
        cap = left // (len(sizes) - number)
        if size > cap:
            break
        left -= size
    else:
        return row
    return [(start, min(stop, start + cap)) for start, stop in row]


class Dialogue(PairObjective):
    """The device's half. Its head is that of ERNIE's sentence loss, with the same label for what is true."""

    Settings = DialogueSettings
    name = "dialogue"
    answers = ("one turn comes from another dialogue", "the turns are one dialogue")

    def __init__(self, settings: DialogueSettings, config: TransformerConfig, store: Store) -> None:
        corruption = Turns(settings)
        corruption.check(store)
        if config.type_vocab_size < 2:
            raise ValueError(
                f"dialogue tells two roles apart, but type_vocab_size is {config.type_vocab_size}; make it 2"
            )
        super().__init__(corruption, "next-sentence", settings.weight, config)

    @classmethod
    def head_names(cls, settings: DialogueSettings) -> tuple[str, ...]:
        """The pair head, by the name that the folder has for it."""
        return ("next-sentence",)
