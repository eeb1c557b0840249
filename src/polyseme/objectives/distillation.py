"""Distillation: a student predicts hidden words, and in every place as its teacher predicts.

Sanh et al. 2019, "DistilBERT", section 3, with the weights and masks of its published code; soft targets:
Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from polyseme.models.batch import Batch, Loss, States
from polyseme.models.heads import MaskedLMHead
from polyseme.models.soft_targets import Scorer, soft_divergence
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.objectives.contract import Companion, Objective, Place
from polyseme.objectives.masked_lm import MaskedLM, MaskedLMSettings, Masking
from polyseme.objectives.rows import Arrays, Rows
from polyseme.objectives.samples import Integers, Samples
from polyseme.records import Record
from polyseme.seeding import RowGenerator
from polyseme.text.store import Store


class DistillationSettings(Record, frozen=True, kw_only=True):
    """Who teaches, what is hidden, and how much each part counts."""

    teacher: str = ""
    """The folder or hub name of a masked language model with the store's vocabulary."""
    begin: Literal["fresh", "teacher"] = "fresh"
    """teacher: a student that goes on from no model begins with its teacher's embeddings, its head and as
    many of its layers, from the first to the last: 0, 2, 4, 7, 9 and 11 of twelve."""
    temperature: float = 2.0
    """What both networks' scores are divided by before they are compared: more shows the teacher's doubts."""
    soft_weight: float = 5.0
    """Of the divergence from the teacher's probabilities."""
    masked_weight: float = 2.0
    """Of the cross-entropy of the hidden tokens."""
    cosine_weight: float = 1.0
    """Of the angle between the last states of both; it needs a student as wide as its teacher."""
    hidden_only: bool = False
    """Whether the probabilities are compared at the hidden tokens only, and not at all tokens."""
    rate: float = 0.15
    """Share of a row's tokens to hide, rounded up, counted with the special tokens."""
    smoothing: float = 0.7
    """Tokens are hidden in proportion to count^−smoothing, so rare ones more often. 0: all alike."""
    masked: float = 0.8
    """Share of the hidden tokens that become [MASK]."""
    random: float = 0.1
    """Share that become any token of the vocabulary; the rest stay as they are."""

    def __post_init__(self) -> None:
        MaskedLMSettings(unit="token", rate=self.rate, masked=self.masked, random=self.random)
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        for name in ("soft_weight", "masked_weight", "cosine_weight", "smoothing"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class RareTokens:
    """The loader's half: packed rows in which rare tokens are hidden more often than common ones.

    The published code draws once from all tokens of a batch together; here every row draws for itself with
    the same probabilities, so that what is hidden in a row does not depend on its company.
    """

    masking: Masking
    weights: npt.NDArray[np.float64]
    """The relative chance of each token: `[vocab_size]`."""

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """Texts cut at sentences and packed into rows."""
        return self.masking.plan(store, documents, length=length, seed=seed, epoch=epoch)

    def chance_epoch(self, epoch: int) -> int:
        """New masks in each epoch."""
        return epoch

    def __call__(self, rows: Rows, rng: RowGenerator) -> Arrays:
        """Hide tokens of every row; `predicted` and `labels` name them in reading order."""
        budget = np.ceil(rows.lengths * self.masking.settings.rate).astype(np.int64)
        hidden = draw_by_weight(np.where(rows.real, self.weights[rows.input_ids], 0.0), budget, rng)
        predicted = np.flatnonzero(hidden)
        return rows.arrays(self.masking.replace(rows.input_ids, hidden, rng)) | {
            "predicted": predicted,
            "labels": rows.input_ids.reshape(-1)[predicted],
        }


def draw_by_weight(
    weights: npt.NDArray[np.float64], budget: Integers, rng: RowGenerator
) -> npt.NDArray[np.bool_]:
    """`budget` different places of each row, drawn one by one by their weights: `[batch, length]`.

    The places with the highest u^(1/weight), u being uniform: Efraimidis and Spirakis 2006, "Weighted
    random sampling with a reservoir". A place of weight 0 is never drawn.
    """
    lots = np.log(1.0 - rng.random(weights.shape[1]))  # of (0, 1], so never of 0
    keys = np.divide(lots, weights, out=np.full(weights.shape, -np.inf), where=weights > 0)
    place = np.argsort(-keys, axis=1, kind="stable")
    drawn = np.zeros(weights.shape, dtype=np.bool_)
    np.put_along_axis(drawn, place, np.arange(weights.shape[1]) < budget[:, None], axis=1)
    chosen: npt.NDArray[np.bool_] = drawn & (weights > 0)
    return chosen


class Distillation(Objective):
    """The device's half: one pass of the student and one of the teacher over the same ids."""

    Settings = DistillationSettings
    vocabulary = "masked-lm"
    alone = True

    def __init__(self, settings: DistillationSettings, config: TransformerConfig, store: Store) -> None:
        super().__init__()
        self.settings = settings
        masking = MaskedLMSettings(
            unit="token",
            rate=settings.rate,
            masked=settings.masked,
            random=settings.random,
            weight=settings.masked_weight,
        )
        masked_lm = MaskedLM(masking, config, store)
        self.heads = masked_lm.heads
        self.masked_lm = (masked_lm,)  # a plain tuple: its head is registered above, once
        counts = np.maximum(store.counts.astype(np.float64), 1.0)
        self.corruption = RareTokens(masked_lm.corruption, counts**-settings.smoothing)  # type: ignore[arg-type]
        self.teacher: tuple[Companion, ...] = ()

    @classmethod
    def head_names(cls, settings: DistillationSettings) -> tuple[str, ...]:
        """The student's head over the vocabulary."""
        return ("masked-lm",)

    def places(self) -> dict[str, Place]:
        """The teacher and its head."""
        return {"teacher": Place(self.settings.teacher or None, ("masked-lm",), "teacher", required=True)}

    def adopt(self, name: str, companion: Companion) -> None:
        """Take the teacher, which learns nothing and is saved nowhere."""
        self.teacher = (frozen(companion),)  # a plain tuple: not a part of the module's state

    def join(self, backbone: Transformer, *, fresh: bool) -> None:
        """Refuse a student whose states cannot be compared with the teacher's; let a fresh one begin with
        the teacher's weights, if it is to."""
        for teacher in self.teacher:
            ours, theirs = backbone.config.vocab_size, teacher.backbone.config.vocab_size
            if ours != theirs:
                raise ValueError(
                    f"the student scores {ours} tokens and the teacher {theirs}; they must be the same"
                )
            ours, theirs = backbone.hidden_size, teacher.backbone.hidden_size
            if self.settings.cosine_weight and ours != theirs:
                raise ValueError(
                    f"the student's states have {ours} numbers and the teacher's {theirs}, so no angle can "
                    "be taken; set cosine_weight = 0, or give the student the teacher's hidden_size"
                )
            if fresh and self.settings.begin == "teacher":
                take_weights(backbone, teacher.backbone)
                self.heads["masked-lm"].load_state_dict(teacher.heads["masked-lm"].state_dict())

    def loss(self, backbone: nn.Module, states: States, batch: Batch) -> Loss:
        """The weighted sum; each part is a mean over its tokens."""
        (masked_lm,), (teacher,) = self.masked_lm, self.teacher
        assert isinstance(backbone, Transformer)
        hidden = masked_lm.loss(backbone, states, batch)
        with torch.no_grad():
            theirs = teacher.backbone(batch).last
        soft = self.divergence(backbone, states.last, theirs, batch)
        total, parts = hidden.total + soft * self.settings.soft_weight, {"soft-targets": soft.detach()}
        if self.settings.cosine_weight:
            angle = mean_over_tokens(1 - F.cosine_similarity(states.last, theirs, dim=-1), batch)
            total, parts["cosine"] = total + angle * self.settings.cosine_weight, angle.detach()
        return Loss(total=total, parts=hidden.parts | parts, predictions=hidden.predictions)

    def divergence(self, backbone: Transformer, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        """T² · KL(teacher ‖ student), a mean over all tokens or over the hidden ones."""
        (teacher,) = self.teacher
        weights = torch.ones(batch.input_ids.shape, device=ours.device)
        if self.settings.hidden_only:
            assert batch.predicted is not None
            weights = torch.zeros_like(weights).flatten().index_fill(0, batch.predicted, 1.0)
        elif batch.attention_mask is not None:
            weights = batch.attention_mask.to(weights.dtype)
        weights = weights.flatten() / weights.sum()
        return soft_divergence(
            _scorer(self.heads["masked-lm"], ours, backbone),
            _scorer(teacher.heads["masked-lm"], theirs, teacher.backbone),
            weights,
            temperature=self.settings.temperature,
        )


def spread(teacher: int, student: int) -> list[int]:
    """The layers of a teacher that a student begins with: evenly spread, the first and the last among them.

    >>> spread(12, 6)
    [0, 2, 4, 7, 9, 11]
    """
    return [round(number * (teacher - 1) / max(1, student - 1)) for number in range(student)]


def take_weights(student: Transformer, teacher: Transformer) -> None:
    """Fill the student with the teacher's weights; what only the teacher has (segments, a pooler) is left.

    A student's pooler stays fresh where the teacher has none. Raises `ValueError` where the sizes differ.
    """
    numbers = spread(len(teacher.layers), len(student.layers))
    stored = teacher.state_dict()
    taken: dict[str, Tensor] = {}
    for name, tensor in student.state_dict().items():
        theirs = name
        if name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            theirs = f"layers.{numbers[int(number)]}.{rest}"
        if theirs not in stored and name.startswith("pooler."):
            continue
        if theirs not in stored or stored[theirs].shape != tensor.shape:
            shape = list(stored[theirs].shape) if theirs in stored else "not there"
            raise ValueError(
                f"the student's {name} is {list(tensor.shape)} and the teacher's {theirs} is {shape}, so it "
                'cannot begin with the teacher\'s weights; set begin = "fresh", or make their sizes alike'
            )
        taken[name] = stored[theirs]
    student.load_state_dict(taken, strict=False)


def frozen(companion: Companion) -> Companion:
    """The same network and heads, in evaluation mode and without gradients."""
    for module in (companion.backbone, *companion.heads.values()):
        module.eval().requires_grad_(False)
    return companion


def mean_over_tokens(values: Tensor, batch: Batch) -> Tensor:
    """The mean of `[batch, length]` numbers over the real tokens."""
    if batch.attention_mask is None:
        return values.float().mean()
    real = batch.attention_mask
    return (values.float() * real).sum() / real.sum()


def _scorer(head: nn.Module, states: Tensor, backbone: Transformer) -> Scorer:
    assert isinstance(head, MaskedLMHead)
    return Scorer(head.transform(states.flatten(0, 1)), backbone.embeddings.tokens.weight, head.bias)
