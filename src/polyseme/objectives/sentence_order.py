"""Sentence order: do two consecutive segments stand in their order, or were they swapped?

Lan et al. 2020, "ALBERT", section 3.1; Cui et al. 2020, "MacBERT", section 3.2.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from polyseme.models.transformer.config import TransformerConfig
from polyseme.objectives.pairs import (
    Chunk,
    Drawing,
    Pair,
    PairObjective,
    PairSampling,
    PairSettings,
    Span,
    check_shares,
)
from polyseme.text.store import Mark, Store

IN_ORDER, SWAPPED = 0, 1


class SentenceOrderSettings(PairSettings, frozen=True, kw_only=True):
    """How pairs of segments are made."""

    swapped: float = 0.5
    """Share of the pairs whose segments change places."""
    faithful: bool = False
    """What becomes of a chunk of one sentence, which has no second segment: as ALBERT's published script has
    it, the second comes from another document and the label says swapped; otherwise the sentence is cut in
    two at a word."""
    head: Literal["sentence-order", "next-sentence"] = "sentence-order"
    """The head's name in the model folder. A BERT folder has one place for what is asked of a pair,
    cls.seq_relationship, which is called next-sentence here: MacBERT keeps its sentence order there."""

    def __post_init__(self) -> None:
        check_shares(self, "swapped", "short")


@dataclass(frozen=True)
class FaithfulOrders(PairSampling):
    """The loader's half, as published: a sentence alone is a negative from another document."""

    settings: SentenceOrderSettings

    def pair(self, chunk: Chunk, draw: Drawing) -> Pair | None:
        """The whole chunk, in one of two orders."""
        if chunk.sentences == 1:
            return self.single(chunk, draw)
        return self.ordered(chunk.first, chunk.second, draw, used=chunk.sentences)

    def ordered(self, first: Span, second: Span, draw: Drawing, *, used: int) -> Pair:
        """The two segments, swapped by lot."""
        if draw.rng.random() < self.settings.swapped:
            return Pair(second, first, label=SWAPPED, used=used)
        return Pair(first, second, label=IN_ORDER, used=used)

    def single(self, chunk: Chunk, draw: Drawing) -> Pair | None:
        """What becomes of a sentence alone."""
        least = chunk.target - (chunk.first[1] - chunk.first[0])
        return Pair(chunk.first, draw.elsewhere(chunk.document, least=least), label=SWAPPED, used=1)


@dataclass(frozen=True)
class Orders(FaithfulOrders):
    """The loader's half: the two segments always stand next to one another in the text."""

    draws_elsewhere: ClassVar[bool] = False

    def single(self, chunk: Chunk, draw: Drawing) -> Pair | None:
        """A sentence alone is cut at the start of a word, by lot; one that cannot be cut is left out."""
        start, stop = chunk.first
        _, marks = draw.store.gather(np.array([start]), np.array([stop]))
        marked = Mark.WORD in draw.store.marks_present
        places = np.flatnonzero(marks[1:] & Mark.WORD) + 1 if marked else np.arange(1, stop - start)
        if not len(places):
            return None
        middle = start + int(places[draw.rng.integers(len(places))])
        return self.ordered((start, middle), (middle, stop), draw, used=1)


class SentenceOrder(PairObjective):
    """The device's half."""

    Settings = SentenceOrderSettings
    name = "sentence-order"
    answers = ("the texts are in order", "the texts are swapped")

    def __init__(self, settings: SentenceOrderSettings, config: TransformerConfig, store: Store) -> None:
        kind = FaithfulOrders if settings.faithful else Orders
        super().__init__(kind(settings), settings.head, settings.weight, config)

    @classmethod
    def head_names(cls, settings: SentenceOrderSettings) -> tuple[str, ...]:
        """The pair head, by the name that the folder has for it."""
        return (settings.head,)
