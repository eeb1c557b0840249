"""Distillation of what is inside: a student imitates its teacher's states and attention scores.

Jiao et al. 2020, "TinyBERT", section 3.1, equations 7 to 9: the general distillation, with the rules of its
published code (one dense layer for all states; scores before the softmax).
"""

from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from polyseme.models.batch import Batch, Loss, States
from polyseme.models.initialising import initialise
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.looking import attention_scores
from polyseme.models.transformer.model import Transformer
from polyseme.objectives.contract import Companion, Objective, Place
from polyseme.objectives.distillation import frozen, mean_over_tokens
from polyseme.objectives.masked_lm import MaskedLMSettings, Masking
from polyseme.records import Record
from polyseme.text.store import Store

NOT_SEEN = -100.0
"""Scores up to here count as 0: in the published code they are of pairs that a mask has taken out."""


class HiddenDistillationSettings(Record, frozen=True, kw_only=True):
    """Who teaches, and what is imitated."""

    teacher: str = ""
    """The folder or hub name of a model with the store's vocabulary, whose layers are a multiple of the
    student's."""
    states_weight: float = 1.0
    """Of the squared differences of the states."""
    scores_weight: float = 1.0
    """Of the squared differences of the attention scores; they need as many heads in both networks."""
    masking: MaskedLMSettings = MaskedLMSettings(unit="token")
    """How words are hidden from both, since the teacher was trained to read such rows."""

    def __post_init__(self) -> None:
        if min(self.states_weight, self.scores_weight) < 0 or not self.states_weight + self.scores_weight:
            raise ValueError(
                "states_weight and scores_weight must be at least 0, and one of them above it, "
                f"got {self.states_weight} and {self.scores_weight}"
            )


@dataclass(frozen=True)
class LayerMap:
    """Which layer of the teacher each layer of the student imitates; counted evenly, from the bottom."""

    states: tuple[int, ...]
    """Of the teacher's states: the first are the embeddings' output."""
    scores: tuple[int, ...]
    """Of the teacher's layers: each the last of its share."""


def map_layers(teacher: int, student: int) -> LayerMap:
    """The even map; `ValueError` where the teacher's layers do not share out.

    >>> map_layers(12, 4)
    LayerMap(states=(0, 3, 6, 9, 12), scores=(2, 5, 8, 11))
    """
    if student < 1 or teacher % student:
        raise ValueError(
            f"the teacher's {teacher} layers do not share out evenly among the student's {student}; "
            "choose a size whose num_layers divides them"
        )
    share = teacher // student
    return LayerMap(tuple(range(0, teacher + 1, share)), tuple(range(share - 1, teacher, share)))


class HiddenDistillation(Objective):
    """The device's half: one pass of the student and one of the teacher, with every layer's states."""

    Settings = HiddenDistillationSettings
    alone = True

    def __init__(self, settings: HiddenDistillationSettings, config: TransformerConfig, store: Store) -> None:
        super().__init__()
        self.settings, self.config = settings, config
        self.corruption = Masking(
            settings.masking, vocab_size=config.vocab_size, mask_id=store.tokenizer.mask_id
        )
        self.corruption.check(store)
        self.heads = nn.ModuleDict()
        self.teacher: tuple[Transformer, ...] = ()
        self.fit: nn.Module = nn.Identity()

    @classmethod
    def head_names(cls, settings: HiddenDistillationSettings) -> tuple[str, ...]:
        """Nothing is predicted."""
        return ()

    def places(self) -> dict[str, Place]:
        """The teacher, whose heads teach nothing here."""
        return {"teacher": Place(self.settings.teacher or None, (), "teacher", required=True)}

    def adopt(self, name: str, companion: Companion) -> None:
        """Take the teacher, which learns nothing and is saved nowhere, and widen the student's states to it.

        A student as wide as its teacher is compared as it is.
        """
        self.teacher = (frozen(companion).backbone,)  # a plain tuple: not a part of the module's state
        if companion.backbone.hidden_size != self.config.hidden_size:
            self.fit = nn.Linear(self.config.hidden_size, companion.backbone.hidden_size)
            initialise(self.fit, self.config)

    def join(self, backbone: Transformer, *, fresh: bool) -> None:
        """Refuse a student whose layers or heads have no counterpart in the teacher."""
        for teacher in self.teacher:
            self.map = map_layers(teacher.config.num_layers, backbone.config.num_layers)
            ours, theirs = backbone.config.num_heads, teacher.config.num_heads
            if self.settings.scores_weight and ours != theirs:
                raise ValueError(
                    f"the student has {ours} attention heads and the teacher {theirs}, so their scores do "
                    "not compare; set the student's num_heads to the teacher's, or scores_weight = 0"
                )

    def forward(self, backbone: nn.Module, batch: Batch) -> Loss:
        """The sum over the layers of the mean squared differences."""
        (teacher,) = self.teacher
        assert isinstance(backbone, Transformer)
        with torch.no_grad():
            theirs = teacher(batch, every_layer=True)
        ours = backbone(batch, every_layer=True)
        total, parts = torch.zeros((), device=batch.input_ids.device), {}
        if self.settings.states_weight:
            states = self.compare_states(ours, theirs, batch)
            total, parts["states"] = total + states * self.settings.states_weight, states.detach()
        if self.settings.scores_weight:
            with torch.no_grad():
                wanted = attention_scores(teacher, batch, theirs, self.map.scores)
            found = attention_scores(backbone, batch, ours, range(len(wanted)))
            scores = compare_scores(found, wanted, batch)
            total, parts["scores"] = total + scores * self.settings.scores_weight, scores.detach()
        return Loss(total=total, parts=parts, predictions=batch.input_ids.size(0))

    def compare_states(self, ours: States, theirs: States, batch: Batch) -> Tensor:
        """The embeddings' output and each layer's states, widened by one dense layer for all of them."""
        total = torch.zeros((), device=batch.input_ids.device)
        for state, number in zip(ours.layers, self.map.states, strict=True):
            differences = (self.fit(state) - theirs.layers[number]).float().square()
            total = total + mean_over_tokens(differences.mean(dim=-1), batch)
        return total


def compare_scores(found: list[Tensor], wanted: list[Tensor], batch: Batch) -> Tensor:
    """The layers' mean squared differences of scores, over the pairs of real tokens that see each other.

    The published code also counts the pairs that do not, as zeros; where rows are packed these would be most.
    """
    total = torch.zeros((), device=batch.input_ids.device)
    for ours, theirs in zip(found, wanted, strict=True):
        pairs = (ours > -torch.inf).any(dim=1)  # [batch, length, length]
        if batch.attention_mask is not None:
            pairs = pairs & batch.attention_mask.bool()[:, :, None]
        differences = (_without_hidden(ours) - _without_hidden(theirs)).float().square().mean(dim=1)
        total = total + (differences * pairs).sum() / pairs.sum()
    return total


def _without_hidden(scores: Tensor) -> Tensor:
    return scores.masked_fill(scores <= NOT_SEEN, 0.0)
