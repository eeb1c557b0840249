"""Replaced-token detection: a small generator fills blanks, and the backbone says which tokens it made up.

Clark et al. 2020, "ELECTRA", sections 2 and 3.1 to 3.3; the rules below are those of the published code.
Whole words: Cui et al. 2021, "Pre-Training with Whole Word Masking for Chinese BERT", section 5.2.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from polyseme.models.batch import IGNORED, Batch, Loss
from polyseme.models.cross_entropy import sparse_cross_entropy
from polyseme.models.heads import MaskedLMHead, ReplacedTokenHead
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.objectives.contract import Companion, Objective, Place
from polyseme.objectives.masked_lm import MaskedLMSettings, Masking, choose_units, number_units
from polyseme.objectives.packing import plan_packed
from polyseme.objectives.rows import Arrays, Rows
from polyseme.objectives.samples import Integers, Samples
from polyseme.objectives.segments import plan_segments
from polyseme.records import Record
from polyseme.seeding import RowGenerator
from polyseme.text.store import Store

PLANS: dict[str, Callable[..., Samples]] = {"packed": plan_packed, "segments": plan_segments}
"""How rows are made, by the names of the setting."""
_PREDICTIONS = 128


class ReplacedTokenSettings(Record, frozen=True, kw_only=True):
    """How tokens are hidden, filled in and judged."""

    rows: Literal["packed", "segments"] = "packed"
    """Several texts in a row that is nearly full, or one or two segments of one text, as published."""
    unit: Literal["token", "word"] = "token"
    """What is hidden as a whole: single tokens, or all tokens of a word."""
    rate: float = 0.15
    """Share of a row's tokens to hide from the generator, counted with the special tokens (large: 0.25)."""
    masked: float = 0.85
    """Share of the hidden tokens that become [MASK]; the rest stay as they are, and are filled in too."""
    repeated: bool = False
    """Whether positions are drawn with replacement, as the published code does: of 19 in a row of 128 only
    17.7 then differ."""
    generator_size: float = 0.25
    """Hidden size, intermediate size and heads of the generator, as a share of the backbone's."""
    generator_from: str | None = None
    """Folder or hub name of the generator to go on with. None: the folder generator of the model that the
    run goes on from, or a fresh one."""
    generator_weight: float = 1.0
    """Of the generator's masked-LM loss in the sum."""
    weight: float = 50.0
    """Of the loss of the detection in the sum."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate must lie between 0 and 1, got {self.rate}")
        if not 0 <= self.masked <= 1:
            raise ValueError(f"masked is a share from 0 to 1, got {self.masked}")
        if not 0 < self.generator_size <= 1:
            raise ValueError(f"generator_size is a share above 0 and up to 1, got {self.generator_size}")
        if self.repeated and self.unit == "word":
            raise ValueError('repeated draws single tokens; set unit = "token", or repeated = false')


@dataclass(frozen=True)
class Blanks:
    """The loader's half: rows with blanks for the generator, and a lot for what it will fill in."""

    masking: Masking
    rows: Literal["packed", "segments"]
    repeated: bool

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """Texts cut at sentences and packed, or segments of one text."""
        return PLANS[self.rows](store, documents, length=length, seed=seed, epoch=epoch)

    def chance_epoch(self, epoch: int) -> int:
        """New blanks in each epoch."""
        return epoch

    def __call__(self, rows: Rows, rng: RowGenerator) -> Arrays:
        """`predicted` and `labels` name the blanks in reading order; `lots` say which guess is taken."""
        units = number_units(rows, unit=self.masking.settings.unit)
        budget = self.masking.budget(rows.lengths, progress=rows.progress)
        # The published code leaves room for int((rate + 0.005) · length) blanks, which the rounded share of
        # a row never exceeds at the lengths in use (19 at 128, 77 of 79 at 512): there is no cap to keep.
        hidden = draw_repeatedly(units, budget, rng) if self.repeated else choose_units(units, budget, rng)
        input_ids = self.masking.replace(rows.input_ids, hidden, rng)
        predicted = np.flatnonzero(hidden)
        lots = rng.random(hidden.shape[1])  # drawn for every place, so that the padding moves none
        return rows.arrays(input_ids) | {
            "predicted": predicted,
            "labels": rows.input_ids.reshape(-1)[predicted],
            "lots": lots.reshape(-1)[predicted],
        }


def draw_repeatedly(
    units: npt.NDArray[np.int64], budget: Integers, rng: RowGenerator
) -> npt.NDArray[np.bool_]:
    """`budget` draws among the tokens of each row, with replacement: `[batch, length]`, true where drawn.

    A token that was drawn twice is one blank; the published code asks it twice.
    """
    batch, length = units.shape
    count = units.max(axis=1, initial=-1) + 1  # [batch], since units are single tokens
    drawn = (rng.random(int(budget.max(initial=0))) * count[:, None]).astype(np.int64)  # [batch, draws]
    counted = np.arange(drawn.shape[1]) < np.where(count > 0, budget, 0)[:, None]
    taken = np.zeros((batch, length + 1), dtype=np.bool_)  # the last column stands for no unit
    taken[np.nonzero(counted)[0], drawn[counted]] = True
    hidden: npt.NDArray[np.bool_] = np.take_along_axis(taken, units, axis=1)
    return hidden


class ReplacedToken(Objective):
    """The device's half: the generator guesses, and the backbone judges every token."""

    Settings = ReplacedTokenSettings
    vocabulary = "masked-lm"
    alone = True

    def __init__(self, settings: ReplacedTokenSettings, config: TransformerConfig, store: Store) -> None:
        super().__init__()
        self.settings = settings
        masking = Masking(
            MaskedLMSettings(unit=settings.unit, rate=settings.rate, masked=settings.masked, random=0.0),
            vocab_size=config.vocab_size,
            mask_id=store.tokenizer.mask_id,
        )
        masking.check(store)
        self.corruption = Blanks(masking, rows=settings.rows, repeated=settings.repeated)
        self.heads = nn.ModuleDict({"replaced-token": ReplacedTokenHead(config)})
        self.generator = Transformer(generator_config(config, settings.generator_size))
        self.generator_heads = nn.ModuleDict({"masked-lm": MaskedLMHead(self.generator.config)})
        self.adopted = False

    @classmethod
    def head_names(cls, settings: ReplacedTokenSettings) -> tuple[str, ...]:
        """The backbone's own head; the generator's stays with the generator."""
        return ("replaced-token",)

    def places(self) -> dict[str, Place]:
        """The generator goes on where its folder left it."""
        return {"generator": Place(self.settings.generator_from, ("masked-lm",), setting="generator_from")}

    def adopt(self, name: str, companion: Companion) -> None:
        """Take the generator and its head, in whatever size they were saved."""
        self.generator, self.adopted = companion.backbone, True
        self.generator_heads = nn.ModuleDict(companion.heads)

    def join(self, backbone: Transformer, *, fresh: bool) -> None:
        """Let the generator read by the backbone's embeddings: tokens, positions, segments and their norm."""
        if self.adopted:
            theirs, ours = self.generator.embeddings.state_dict(), backbone.embeddings.state_dict()
            differ = [name for name in {**ours, **theirs} if not _equal(ours.get(name), theirs.get(name))]
            if differ:
                raise ValueError(
                    f"the generator's embeddings.{differ[0]} is not the backbone's, and they share all "
                    "embeddings; name the generator that was trained with this model in generator_from"
                )
        self.generator.embeddings = backbone.embeddings

    def companions(self) -> dict[str, Companion]:
        """The generator is a masked language model of its own."""
        return {"generator": Companion(self.generator, dict(self.generator_heads.items()))}

    def forward(self, backbone: nn.Module, batch: Batch) -> Loss:
        """The generator's cross-entropy and the detection's, each a mean in nats."""
        assert batch.predicted is not None
        assert batch.labels is not None
        assert batch.lots is not None
        masked_lm, guesses = self.guess(batch)
        replaced, wrong = fill_in(batch, guesses)  # each [batch, length]
        head = self.heads["replaced-token"]
        scores = head(backbone(replace(batch, input_ids=replaced)).last).float()  # [batch, length]
        real = torch.ones_like(wrong) if batch.attention_mask is None else batch.attention_mask.bool()
        each = F.binary_cross_entropy_with_logits(scores, wrong.to(scores.dtype), reduction="none")
        detection = (each * real).sum() / real.sum()
        return Loss(
            total=masked_lm * self.settings.generator_weight + detection * self.settings.weight,
            parts={"masked-lm": masked_lm.detach(), "replaced-token": detection.detach()},
            predictions=len(batch.labels),
            decisions={} if self.training else {"replaced-token": (scores[real], wrong[real].long())},
        )

    def guess(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The generator's mean cross-entropy over the blanks, and a token drawn for each: `[predictions]`."""
        assert batch.predicted is not None
        assert batch.labels is not None
        assert batch.lots is not None
        head = self.generator_heads["masked-lm"]
        assert isinstance(head, MaskedLMHead)
        count = len(batch.labels)
        extra = -count % _PREDICTIONS  # shapes repeat, as in masked_lm
        predicted = F.pad(batch.predicted, (0, extra))
        labels = F.pad(batch.labels, (0, extra), value=IGNORED)
        hidden = self.generator(batch).last.flatten(0, 1).index_select(0, predicted)
        transformed = head.transform(hidden)  # [predictions, embedding_size]
        table = self.generator.embeddings.tokens.weight
        loss = sparse_cross_entropy(transformed, table, head.bias, labels)
        with torch.no_grad():
            logits = F.linear(transformed, table, head.bias)  # [predictions, vocab_size]
            guesses = draw(logits[:count], batch.lots)
        return loss, guesses


def draw(logits: Tensor, lots: Tensor) -> Tensor:
    """A token for each row with the probabilities softmax(logits): the one on whose share the lot falls.

    The published code adds Gumbel noise and takes the highest: the same distribution, for a random number
    for each token of the vocabulary instead of one. `[predictions, vocab_size]` and `[predictions]` in.
    """
    shares = logits.float().softmax(dim=-1).cumsum(dim=-1)
    places = lots.to(shares.dtype)[:, None] * shares[:, -1:]
    drawn = torch.searchsorted(shares, places, right=True)[:, 0]  # right: never a token of probability 0
    return drawn.clamp(max=logits.size(-1) - 1)


def fill_in(batch: Batch, guesses: Tensor) -> tuple[Tensor, Tensor]:
    """The original rows with the guesses in their blanks, and where these are wrong: a right guess is an
    original token."""
    assert batch.predicted is not None
    assert batch.labels is not None
    shape = batch.input_ids.shape
    original = batch.input_ids.flatten().index_copy(0, batch.predicted, batch.labels)
    filled = original.index_copy(0, batch.predicted, guesses)
    return filled.view(shape), (filled != original).view(shape)


def generator_config(config: TransformerConfig, size: float) -> TransformerConfig:
    """The backbone's choices with a share of its sizes, and a projection of its own for the embeddings."""
    hidden_size = round(config.hidden_size * size)
    same = hidden_size == config.embedding_size
    try:
        return msgspec.structs.replace(
            config,
            hidden_size=hidden_size,
            intermediate_size=round(config.intermediate_size * size),
            num_heads=max(1, round(config.num_heads * size)),
            embedding=msgspec.structs.replace(config.embedding, size=None if same else config.embedding_size),
            pooler=False,
        )
    except ValueError as error:
        raise ValueError(f"generator_size {size} of this model does not come out even: {error}") from error


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
