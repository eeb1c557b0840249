"""Permutation language model: some words are predicted in an order drawn by lot, each from what comes before.

Yang et al. 2019, "XLNet: Generalized Autoregressive Pretraining for Language Understanding", sections 2.2
and 2.3; which words, and who sees whom, as the published data script has it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from polyseme.models.batch import IGNORED, Batch, Loss, States
from polyseme.models.cross_entropy import sparse_cross_entropy
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.models.transformer.streams import PermutationLMHead, ask, grid
from polyseme.objectives.contract import Objective
from polyseme.objectives.packing import cut_texts
from polyseme.objectives.rows import Arrays, Rows
from polyseme.objectives.samples import Integers, Samples, SampleWriter, document_blocks
from polyseme.records import Record
from polyseme.seeding import RowGenerator, generator
from polyseme.text.store import Mark, Store

_PREDICTIONS = 128
_SPECIAL = 3  # A [SEP] B [SEP] [CLS]

Booleans = npt.NDArray[np.bool_]


class PermutationLMSettings(Record, frozen=True, kw_only=True):
    """Which words are predicted, and in what order."""

    unit: Literal["word", "token"] = "word"
    """What is counted: n whole words are predicted together, or n tokens from a word's first on. The paper
    says words; the published code counts tokens, because it looks for a word's start at the wrong place."""
    longest: int = 5
    """The most units that are predicted together; n of them are drawn 1/n as often as one."""
    context: int = 6
    """Tokens around each predicted one that are only read, as far as the text has them."""
    share: float = 1 / 6
    """The most tokens of a row to predict, special ones counted (85 of 512)."""
    permuted: int = 256
    """Tokens that are ordered by lot together: later ones see all earlier ones, and never the other way."""
    random: float = 0.5
    """Share of the rows whose second segment is that of another row. Nothing asks for it."""
    weight: float = 1.0
    """Of this loss in the sum."""

    def __post_init__(self) -> None:
        for name in ("longest", "permuted"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.context < 0:
            raise ValueError(f"context must be at least 0, got {self.context}")
        if not 0 < self.share <= 1 or not 0 <= self.random <= 1:
            raise ValueError(f"share and random are shares up to 1, got {self.share} and {self.random}")


@dataclass(frozen=True)
class Permutations:
    """The loader's half: pairs of segments, what is predicted of them, and the order of it."""

    settings: PermutationLMSettings

    def check(self, store: Store) -> None:
        """Refuse a store that cannot say where words start, and a tokenizer without the special tokens."""
        if Mark.WORD not in store.marks_present:
            raise ValueError(
                "permutation-lm predicts from the start of words, but the store has no word marks; "
                "prepare it again with --words rjieba"
            )
        for role in ("first", "separator"):
            if role not in store.tokenizer.special_tokens:
                raise ValueError(
                    f"permutation-lm lays rows out as A [SEP] B [SEP] [CLS], and the tokenizer has no {role} "
                    "token; learn one with frame = behind"
                )

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """Texts of whole sentences cut in two; some of the second halves change places."""
        writer = SampleWriter("behind")
        most = length - _SPECIAL
        for number, block in enumerate(document_blocks(store, documents)):
            rng = generator(seed, "permutation", epoch, number)
            texts = cut_texts(store, block, most=most)
            texts = texts[texts[:, 1] - texts[:, 0] > 1]
            cuts = [_cut(store, start, stop, rng) for start, stop in texts.tolist()]
            halves = [(cut, stop) for cut, stop in zip(cuts, texts[:, 1].tolist(), strict=True)]
            drawn = rng.permutation(np.flatnonzero(rng.random(len(halves)) < self.settings.random)).tolist()
            exchanged = dict(zip(drawn, [*drawn[1:], *drawn[:1]], strict=True))
            for text, (start, cut) in enumerate(zip(texts[:, 0].tolist(), cuts, strict=True)):
                begin, end = halves[exchanged.get(text, text)]
                end = min(end, begin + most - (cut - start))
                writer.add([(start, cut), (begin, end), (end, end)])
            writer.end_block()
        return writer.finish()

    def chance_epoch(self, epoch: int) -> int:
        """New pairs and orders in each epoch."""
        return epoch

    def __call__(self, rows: Rows, rng: RowGenerator) -> Arrays:
        """The rows as they are; `order` says who sees whom, `predicted` and `labels` what is asked."""
        targets = self.targets(rows, rng)
        predicted = np.flatnonzero(targets)
        return rows.arrays(rows.input_ids) | {
            "order": self.order(rows, targets, rng),
            "predicted": predicted,
            "labels": rows.input_ids.reshape(-1)[predicted],
        }

    def targets(self, rows: Rows, rng: RowGenerator) -> Booleans:
        """What is predicted of each row: `[batch, length]`.

        Each segment has its part of the row's share, by its size; the published code gives each a half.
        """
        length = rows.input_ids.shape[1]
        sizes, sides = rng.random(2 * length), rng.random(2 * length)
        starts = rows.real & (rows.marks & Mark.WORD != 0)
        found = np.zeros(rows.input_ids.shape, dtype=np.bool_)
        for row in range(len(found)):
            budget = max(1, round(self.settings.share * int(rows.attention_mask[row].sum())))
            text = max(1, int(rows.real[row].sum()))
            used = 0
            for segment in (0, 1):
                places = np.flatnonzero(rows.real[row] & (rows.spans[row] == segment))
                chosen, used = self.choose(
                    starts[row, places],
                    round(budget * len(places) / text),
                    list(zip(sizes[row].tolist(), sides[row].tolist(), strict=True)),
                    used,
                )
                found[row, places] = chosen
        return found

    def choose(
        self, starts: Booleans, budget: int, lots: list[tuple[float, float]], used: int
    ) -> tuple[Booleans, int]:
        """Spans of one segment, in which words begin at `starts`, and how many `lots` are used up."""
        chosen = np.zeros(len(starts), dtype=np.bool_)
        words = np.flatnonzero(starts)
        left, place = budget, 0
        while left and place < len(starts) and used < len(lots):
            size, side = lots[used]
            used += 1
            units = self.units(size)
            if self.settings.unit == "token":
                units = min(units, left)
            before = int(side * units * self.settings.context)
            first = int(np.searchsorted(words, place + before))
            if first == len(words):
                break
            begin = int(words[first])
            end = self.end(words, first, units, len(starts), left)
            if end is None:
                break
            chosen[begin:end] = True
            left -= end - begin
            place = end + max(0, (end - begin) * self.settings.context - before)
        return chosen, used

    def units(self, lot: float) -> int:
        """How many units are predicted together, by a number from 0 to 1."""
        weights = 1 / np.arange(1, self.settings.longest + 1)
        return 1 + int(np.searchsorted(np.cumsum(weights / weights.sum()), lot, side="right"))

    def end(self, words: Integers, first: int, units: int, length: int, left: int) -> int | None:
        """Where a span from word `first` on ends; None where it does not fit the segment or what is left.

        Words that are too many are left out from the back; tokens that would reach the segment's end are
        not predicted at all, as in the published code.
        """
        begin = int(words[first])
        if self.settings.unit == "token":
            return begin + units if begin + units < length else None
        ends = np.append(words[first + 1 : first + 1 + units], length)[:units]
        fitting = ends[ends - begin <= left]
        return int(fitting[-1]) if len(fitting) else None

    def order(self, rows: Rows, targets: Booleans, rng: RowGenerator) -> npt.NDArray[np.int64]:
        """The rank of each token: what is not predicted comes first, all at once; targets and special
        tokens follow by lot, inside their part of the row."""
        length = targets.shape[1]
        turn = np.argsort(np.argsort(rng.random(length), axis=1), axis=1)
        read = rows.real & ~targets | ~rows.attention_mask
        part = np.arange(length) // self.settings.permuted
        ranks: npt.NDArray[np.int64] = part * (length + 1) + np.where(read, 0, 1 + turn)
        return ranks


def _cut(store: Store, start: int, stop: int, rng: np.random.Generator) -> int:
    """Where a text of at least two tokens is cut in two: at a sentence, or anywhere where it has only one."""
    first, last = np.searchsorted(store.sentence_starts, (start + 1, stop))
    if first < last:
        return int(store.sentence_starts[first + int(rng.integers(last - first))])
    return start + 1 + int(rng.integers(stop - start - 1))


class PermutationLM(Objective):
    """The device's half: the query stream asks the vocabulary."""

    Settings = PermutationLMSettings
    vocabulary = "permutation-lm"
    alone = True

    def __init__(self, settings: PermutationLMSettings, config: TransformerConfig, store: Store) -> None:
        super().__init__()
        if not (config.positions == "relative" and config.attention.relative.query_stream):
            raise ValueError(
                "permutation-lm asks for tokens without showing them; set positions to 'relative' and "
                "attention.relative.query_stream to true in the model"
            )
        self.corruption = Permutations(settings)
        self.corruption.check(store)
        self.heads = nn.ModuleDict({"permutation-lm": PermutationLMHead(config)})
        self.weight = settings.weight

    def forward(self, backbone: nn.Module, batch: Batch) -> Loss:
        """The loss of one pass of both streams over the batch."""
        assert isinstance(backbone, Transformer)
        assert batch.predicted is not None
        rows, length = batch.input_ids.shape
        targets, place = grid(batch.predicted, rows=rows, length=length)
        query, _, _ = ask(backbone, batch, targets)
        # Shapes repeat: a new one for each batch would fill oneDNN's cache of compiled products.
        place = F.pad(place, (0, -len(place) % _PREDICTIONS))
        asked = query.last.flatten(0, 1).index_select(0, place)  # [predictions, hidden_size]
        return self.loss(backbone, States(last=asked), batch)

    def loss(self, backbone: nn.Module, states: States, batch: Batch) -> Loss:
        """Mean cross-entropy in nats over the predicted tokens, from their states in the query stream."""
        assert batch.labels is not None
        head = self.heads["permutation-lm"]
        assert isinstance(head, PermutationLMHead)
        table: Tensor = backbone.embeddings.tokens.weight  # type: ignore[union-attr, assignment]
        labels = F.pad(batch.labels, (0, len(states.last) - len(batch.labels)), value=IGNORED)
        loss = sparse_cross_entropy(head.dropout(states.last), table, head.bias, labels)
        return Loss(
            total=loss * self.weight,
            parts={"permutation-lm": loss.detach()},
            predictions=len(batch.labels),
        )
