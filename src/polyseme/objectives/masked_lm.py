"""Masked language model: some words are hidden, and the model says what they were.

Devlin et al. 2019, "BERT", section 3.1 and appendix A.1; whole words: Cui et al. 2019,
"Pre-Training with Whole Word Masking for Chinese BERT"; packed rows and a mask rate above
15 %: Portes et al. 2023, "MosaicBERT".
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from polyseme.models.batch import IGNORED, Batch, Loss, States
from polyseme.models.cross_entropy import sparse_cross_entropy
from polyseme.models.heads import MaskedLMHead
from polyseme.models.transformer.config import TransformerConfig
from polyseme.objectives.contract import Objective
from polyseme.objectives.packing import plan_packed
from polyseme.objectives.rows import Arrays, Rows
from polyseme.objectives.samples import Integers, Samples
from polyseme.objectives.similar import SimilarSettings, SimilarWords, similar_words
from polyseme.objectives.units import (
    HOW_TO_MARK,
    UNIT_MARKS,
    Choose,
    Unit,
    check_unit_settings,
    chooser,
    unit_at,
    unit_sizes,
    units_of,
)
from polyseme.records import Record
from polyseme.seeding import RowGenerator
from polyseme.text.store import Store

_PREDICTIONS = 128
_PLURAL = {"word": "words", "phrase": "phrases", "entity": "entities"}


class MaskedLMSettings(Record, frozen=True, kw_only=True):
    """How words are hidden."""

    unit: Unit = "word"
    """What is hidden as a whole: single tokens, or all tokens of a word, a phrase, an entity."""
    rate: float = 0.15
    """Share of a row's tokens to hide, counted with the special tokens as BERT does."""
    final_rate: float | None = None
    """Where the share ends: it falls in a straight line while training goes on. None: it stays."""
    most: int | None = None
    """Never hide more than so many tokens of a row (BERT: 20 at length 128, 77 at 512). None: no cap."""
    masked: float = 0.8
    """Share of the hidden tokens that become [MASK]."""
    random: float = 0.1
    """Share that become any token of the vocabulary; the rest stay as they are."""
    lowest_random: int = 0
    """The least id that such a token may have (ERNIE: 1, all but the padding)."""
    similar: SimilarSettings | None = None
    """Words instead of tokens are replaced, by similar ones instead of [MASK] (MacBERT). None: by [MASK]."""
    selection: Literal["budget", "each"] = "budget"
    """budget: units in random order while they fit into the share; each: every unit by a lot of its own."""
    ngram: tuple[float, ...] = ()
    """Hide runs of 1, 2 … units: the chance of each length (ALBERT: 6/11, 3/11, 2/11). Empty: no runs."""
    stages: tuple[Unit, ...] = ()
    """Units one after another while training goes on (ERNIE: token, phrase, entity), instead of `unit`."""
    stage_shares: tuple[float, ...] = ()
    """Share of the training that each stage takes. Empty: all the same."""
    whole: float = 1.0
    """Share of the rows that hide whole units; the others hide single tokens (ERNIE: drawn for each file)."""
    copies: int | None = None
    """Static masks: so many different epochs, which then repeat (BERT: 10). None: always new ones."""
    weight: float = 1.0
    """Of this loss in the sum."""

    def __post_init__(self) -> None:
        for name in ("rate", "final_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value}")
        if self.most is not None and self.most < 1:
            raise ValueError(f"most must be at least 1, got {self.most}; leave it out for no cap")
        if min(self.masked, self.random) < 0 or self.masked + self.random > 1:
            raise ValueError(
                f"masked and random are shares whose sum is at most 1, got {self.masked} and {self.random}"
            )
        if self.lowest_random < 0:
            raise ValueError(f"lowest_random must be at least 0, got {self.lowest_random}")
        if self.copies is not None and self.copies < 1:
            raise ValueError(f"copies must be at least 1, got {self.copies}; leave it out for new masks")
        if self.copies is not None and self.final_rate is not None:
            raise ValueError("static masks (copies) cannot change their rate (final_rate); leave one out")
        check_unit_settings(self)
        if self.similar is None:
            return
        if units_of(self) != ("word",) or self.whole < 1:
            raise ValueError('similar replaces whole words; set unit = "word" alone, or leave it out')
        if self.lowest_random:
            raise ValueError("similar draws no special token anyhow; leave lowest_random out")


@dataclass(frozen=True)
class Masking:
    """The loader's half: rows of packed texts, and which of their tokens are hidden."""

    settings: MaskedLMSettings
    vocab_size: int
    mask_id: int
    similar: SimilarWords | None = None

    def check(self, store: Store) -> None:
        """Refuse a store that lacks the marks that the units need, or ids to draw."""
        if self.settings.lowest_random >= self.vocab_size:
            raise ValueError(
                f"lowest_random is {self.settings.lowest_random}, but there are {self.vocab_size} ids"
            )
        for unit in units_of(self.settings):
            if unit in UNIT_MARKS and UNIT_MARKS[unit] not in store.marks_present:
                raise ValueError(
                    f"whole {_PLURAL[unit]} are to be hidden, but the store has no {unit} marks; "
                    f'prepare it again with {HOW_TO_MARK[unit]}, or set unit = "token"'
                )

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """Texts cut at sentences and packed into rows."""
        return plan_packed(store, documents, length=length, seed=seed, epoch=epoch)

    def chance_epoch(self, epoch: int) -> int:
        """Static masks start over after `copies` epochs."""
        return epoch if self.settings.copies is None else epoch % self.settings.copies

    def __call__(self, rows: Rows, rng: RowGenerator) -> Arrays:
        """Hide words of every row; `predicted` and `labels` name them in reading order."""
        units = self.units(rows, rng)
        budget = self.budget(rows.lengths, progress=rows.progress)
        hidden = self.choose(units, budget, rng)  # [batch, length]
        if self.similar is None:
            input_ids = self.replace(rows.input_ids, hidden, rng)
        else:
            input_ids = self.similar.replace(rows.input_ids, units, hidden, rng)
        predicted = np.flatnonzero(hidden)
        return rows.arrays(input_ids) | {
            "predicted": predicted,
            "labels": rows.input_ids.reshape(-1)[predicted],
        }

    @cached_property
    def choose(self) -> Choose:
        """How units are chosen."""
        return chooser(self.settings, choose_units)

    def units(self, rows: Rows, rng: RowGenerator) -> npt.NDArray[np.int64]:
        """The unit of each token; rows that do not hide whole units have a unit for each token."""
        units = number_units(rows, unit=unit_at(self.settings, rows.progress))
        if self.settings.whole == 1:
            return units
        return np.where(rng.random(1) < self.settings.whole, units, number_units(rows, unit="token"))

    def budget(self, lengths: Integers, *, progress: float) -> Integers:
        """How many tokens each row may lose: Python's rounding (half to even), at least 1, at most `most`."""
        first, last = self.settings.rate, self.settings.final_rate
        rate = first if last is None else first + (last - first) * progress
        budget: Integers = np.maximum(1, np.rint(lengths * rate).astype(np.int64))
        return budget if self.settings.most is None else np.minimum(budget, self.settings.most)

    def replace(
        self, input_ids: npt.NDArray[np.int64], hidden: npt.NDArray[np.bool_], rng: RowGenerator
    ) -> npt.NDArray[np.int64]:
        """The ids that the model reads: each hidden token takes its own lot, also within a word."""
        length = input_ids.shape[1]
        lot = rng.random(length)
        lowest = self.settings.lowest_random
        chance = lowest + rng.integers(self.vocab_size - lowest, length)
        to_mask = hidden & (lot < self.settings.masked)
        to_random = hidden & ~to_mask & (lot < self.settings.masked + self.settings.random)
        return np.where(to_mask, self.mask_id, np.where(to_random, chance, input_ids))


def number_units(rows: Rows, *, unit: Unit) -> npt.NDArray[np.int64]:
    """Which unit of its row each token belongs to, counted from 0; −1 at special tokens and padding.

    A span begins a unit even in the middle of a word, so no unit reaches over a separator.
    """
    begins = rows.real.copy()
    if unit in UNIT_MARKS:
        follows = np.zeros_like(rows.real)
        follows[:, 1:] = rows.real[:, :-1]  # the token before is text too
        begins &= ~follows | (rows.marks & UNIT_MARKS[unit] != 0)
    numbers = np.cumsum(begins, axis=1) - 1
    return np.where(rows.real, numbers, -1)


def choose_units(units: npt.NDArray[np.int64], budget: Integers, rng: RowGenerator) -> npt.NDArray[np.bool_]:
    """Hide units in random order while they fit into the budget: `[batch, length]`, true where hidden.

    A unit that would overflow is passed over, and smaller ones after it may still fit (BERT's rule for
    whole words). All rows go on together, one unit at a time, until every budget is used up.
    """
    batch, length = units.shape
    lots = rng.random(length)  # drawn by unit number, so that the stream does not depend on the text
    if length == 0:
        return np.zeros((batch, 0), dtype=np.bool_)
    sizes = unit_sizes(units)
    turn = np.argsort(np.where(sizes > 0, lots, 2.0), axis=1)
    ordered = np.take_along_axis(sizes, turn, axis=1)
    left = budget.astype(np.int64)
    taken = np.zeros((batch, length), dtype=np.bool_)
    for i in range(int((sizes > 0).sum(axis=1).max(initial=0))):
        size = ordered[:, i]
        fits = (size > 0) & (size <= left)
        taken[:, i] = fits
        left = left - size * fits
        if not left.any():
            break
    hidden_units = np.zeros((batch, length + 1), dtype=np.bool_)  # the last column stands for no unit
    np.put_along_axis(hidden_units, turn, taken, axis=1)
    chosen: npt.NDArray[np.bool_] = np.take_along_axis(hidden_units, units, axis=1)
    return chosen


class MaskedLM(Objective):
    """The device's half: only the hidden positions reach the vocabulary."""

    Settings = MaskedLMSettings
    vocabulary = "masked-lm"

    def __init__(self, settings: MaskedLMSettings, config: TransformerConfig, store: Store) -> None:
        super().__init__()
        mask_id = store.tokenizer.mask_id
        corruption = Masking(settings, vocab_size=config.vocab_size, mask_id=mask_id)
        corruption.check(store)
        if settings.similar is not None:
            similar = similar_words(settings.similar, store, replaced=settings.masked, random=settings.random)
            corruption = replace(corruption, similar=similar)
        self.corruption = corruption
        self.heads = nn.ModuleDict({"masked-lm": MaskedLMHead(config)})
        self.weight = settings.weight

    def loss(self, backbone: nn.Module, states: States, batch: Batch) -> Loss:
        """Mean cross-entropy in nats over the hidden tokens of the batch."""
        assert batch.predicted is not None
        assert batch.labels is not None
        head = self.heads["masked-lm"]
        assert isinstance(head, MaskedLMHead)
        # Shapes repeat: a new one for each batch would fill oneDNN's cache of compiled products.
        extra = -len(batch.labels) % _PREDICTIONS
        predicted = F.pad(batch.predicted, (0, extra))
        labels = F.pad(batch.labels, (0, extra), value=IGNORED)
        hidden = states.last.flatten(0, 1).index_select(0, predicted)  # [predictions, hidden_size]
        table: Tensor = backbone.embeddings.tokens.weight  # type: ignore[union-attr, assignment]
        loss = sparse_cross_entropy(head.transform(hidden), table, head.bias, labels)
        return Loss(
            total=loss * self.weight,
            parts={"masked-lm": loss.detach()},
            predictions=len(batch.labels),
        )
