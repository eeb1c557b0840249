"""An intent from an utterance and from slots that are known of it: a tagger's answers, or a list's finds.

The label of each token is embedded, the query's states attend to the labels, and both are read together for
the intent. Our reading of Xiaomi AI Lab's report on BERT in its voice assistant (2020), of which no code and
no figures are public; docs/decisions/fused-intents.md says what is chosen here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from polyseme.checkpoints.formats import Format
from polyseme.models.batch import Batch, Loss, States
from polyseme.models.heads import ClassificationHead
from polyseme.models.initialising import initialise
from polyseme.models.label_attention import UNKNOWN_LABEL, LabelAttention
from polyseme.models.pooling import pool
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.embeddings import norm
from polyseme.models.transformer.model import Transformer
from polyseme.tasks.classification import LOSSES, Labelling
from polyseme.tasks.intent_settings import FusedIntentSettings
from polyseme.tasks.intents import chosen_intents, intent_label, intent_names
from polyseme.tasks.metrics import accuracy, by_label, macro_f1
from polyseme.tasks.on_backbone import OnBackbone
from polyseme.tasks.predictions import IntentPrediction
from polyseme.tasks.tag_schemes import OUTSIDE, tags_of
from polyseme.tasks.task import Inventory, Row
from polyseme.tasks.text_rows import chosen_pooling
from polyseme.tasks.upstream import Upstream
from polyseme.tasks.utterances import Utterance, read_utterances, utterance_of
from polyseme.tasks.word_rows import word_row
from polyseme.text.tokenizer import Tokenizer

_UNKNOWN = "[unknown]"
_BLOCK = 2048
"""Utterances tagged at once."""


class FusedInventory(Inventory, frozen=True):
    """The intents, and the labels of the slots: none, unknown, and those of the training utterances."""

    slots: tuple[str, ...] = (OUTSIDE, _UNKNOWN)


class FusedIntents:
    """The task; a `Task` of `Utterance` and `Labelling`.

    >>> FusedIntents().metrics
    ('accuracy', 'macro_f1')
    """

    name = "fused-intents"
    head_name = "classification"
    settings_kind = FusedIntentSettings
    inventory_kind = FusedInventory
    metrics = ("accuracy", "macro_f1")

    def __init__(self, settings: FusedIntentSettings | None = None) -> None:
        self.settings = settings or FusedIntentSettings()
        self.problem: Literal["single", "multi"] = "multi" if self.settings.several else "single"
        self._upstream = None if self.settings.tagger is None else Upstream(self.settings.tagger)

    def read(self, path: Path, *, labelled: bool) -> Iterator[Utterance]:
        """The utterances with the slots that the file says, or with those that the tagger finds."""
        utterances = read_utterances(path, self.settings, labelled=labelled)
        if self._upstream is None:
            yield from utterances
            return
        while block := list(islice(utterances, _BLOCK)):
            yield from self._tagged(block)

    def fit(self, examples: Iterable[Utterance]) -> FusedInventory:
        """Intents and slot labels by spelling."""
        examples = list(examples)
        labels = {label for example in examples for label in _labels(example)} - {OUTSIDE}
        names = intent_names(examples, self.settings.skip_label)
        return FusedInventory(labels=names, slots=(OUTSIDE, _UNKNOWN, *sorted(labels)))

    def stratum(self, example: Utterance) -> object:
        """Its intents."""
        return example.intents

    def encode(
        self, example: Utterance, tokenizer: Tokenizer, inventory: FusedInventory, *, max_length: int
    ) -> list[Row]:
        """One row, with the label of each word at all of its tokens; a new label is the unknown one."""
        known = {label: number for number, label in enumerate(inventory.slots)}
        hints = [known.get(label, UNKNOWN_LABEL) for label in _labels(example)]
        intent = intent_label(example, inventory, self.settings.several, self.settings.unseen)
        row = word_row(example.tagged, tokenizer, max_length=max_length, label=intent, word_hints=hints)
        return [replace(row, asked=None, places=None)]

    def reading(self, config: TransformerConfig, format: Format) -> dict[str, Any]:
        """As a classifier's."""
        return {"pooling": chosen_pooling(self.settings.pooling, format.poolings), **format.classifier}

    def build(
        self,
        backbone: Transformer,
        inventory: FusedInventory,
        *,
        reading: Mapping[str, Any],
        head: nn.Module | None = None,
    ) -> "FusedClassifier":
        """The network, with the given head or a fresh one."""
        head = head or ClassificationHead(backbone.config, len(inventory.labels), **reading)
        return FusedClassifier(backbone, head, inventory, self.settings)

    def decode(
        self,
        outputs: Sequence[NDArray[np.float32]],
        examples: Sequence[Utterance],
        inventory: Inventory,
    ) -> list[Labelling]:
        """The best intent, or those above one half."""
        several = self.settings.several
        return [Labelling(*chosen_intents(said[0], inventory, several=several)) for said in outputs]

    def score(self, answers: Sequence[Labelling], examples: Sequence[Utterance]) -> dict[str, float]:
        """Accuracy (of several intents, exact sets) and macro F1."""
        given, true = _given_and_true(answers, examples)
        names = sorted({name for names in (*given, *true) for name in names})
        exact = accuracy([set(g) for g in given], [set(t) for t in true])
        return {"accuracy": exact, "macro_f1": macro_f1(given, true, names)}

    def report(
        self, answers: Sequence[Labelling], examples: Sequence[Utterance], inventory: Inventory
    ) -> dict[str, Any]:
        """The scores, and those of each intent."""
        given, true = _given_and_true(answers, examples)
        names = sorted({*inventory.labels, *(name for names in true for name in names)})
        return {
            "examples": len(examples),
            **self.score(answers, examples),
            "labels": {name: score._asdict() for name, score in by_label(given, true, names).items()},
        }

    def write(self, answer: Labelling) -> dict[str, Any]:
        """`intent`, or `intents` where there may be several, and the probability of each."""
        several = self.settings.several
        said = {"intents": list(answer.labels)} if several else {"intent": answer.labels[0]}
        return {**said, "probabilities": answer.probabilities}

    def example(self, given: Any, *, where: str) -> Utterance:
        """From a text, a list of words, or an object of text or tokens, and slots."""
        return utterance_of(given, where, self.settings)

    def completed(self, examples: list[Utterance]) -> list[Utterance]:
        """With the slots that the tagger finds, where there is one."""
        return examples if self._upstream is None else self._tagged(examples)

    def prediction(self, answer: Labelling) -> IntentPrediction:
        """The intents; the slots were known before."""
        return IntentPrediction(answer.labels, (), answer.probabilities)

    def inputs(self, example: Utterance) -> Mapping[str, Any]:
        """The keys of its object, or the text."""
        return example.tagged.cells or {"text": example.tagged.text}

    def _tagged(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """The utterances with the slots that the tagger finds in them."""
        assert self._upstream is not None
        entities = self._upstream.entities([utterance.tagged for utterance in utterances])
        return [
            replace(utterance, tagged=replace(utterance.tagged, entities=tuple(found), tags=None))
            for utterance, found in zip(utterances, entities, strict=True)
        ]


class Beside(nn.Module):
    """[H; C] pooled and read by one linear layer: the classifier's own scores, and those of C's half."""

    def __init__(self, backbone: Transformer, num_labels: int) -> None:
        super().__init__()
        config = backbone.config
        self.dropout = nn.Dropout(config.dropout)
        self.dense = nn.Linear(config.hidden_size, num_labels, bias=False)
        initialise(self, config)

    def forward(self, head: nn.Module, states: States, found: Tensor, mask: Tensor | None) -> Tensor:
        pooling = str(head.pooling)
        pooled = pool(found, mask, "first" if pooling == "pooler" else pooling)  # [batch, hidden_size]
        scores: Tensor = head(states, mask) + self.dense(self.dropout(pooled))
        return scores


class Added(nn.Module):
    """LN(H + C), which the classifier reads in H's place."""

    def __init__(self, backbone: Transformer, num_labels: int) -> None:
        super().__init__()
        self.norm = norm(backbone.config)
        # The backbone's own, which is saved and trained there.
        self._pooler = (getattr(backbone, "pooler", None),)

    def forward(self, head: nn.Module, states: States, found: Tensor, mask: Tensor | None) -> Tensor:
        last = self.norm(states.last + found)
        (pooler,) = self._pooler
        pooled = None if pooler is None else pooler(last)
        scores: Tensor = head(States(last, pooled=pooled), mask)
        return scores


FUSIONS: dict[str, type[Beside] | type[Added]] = {"beside": Beside, "added": Added}
"""How the query and what it found among the labels are joined."""


class FusedClassifier(OnBackbone):
    """A backbone with a classification head, and the attention to known labels joined to it."""

    def __init__(
        self,
        backbone: Transformer,
        head: nn.Module,
        inventory: FusedInventory,
        settings: FusedIntentSettings,
    ) -> None:
        super().__init__(backbone, head)
        self.attention = LabelAttention(
            backbone.config,
            num_labels=len(inventory.slots),
            label_size=settings.label_size,
            attention_size=settings.attention_size,
            dropout=settings.label_dropout,
        )
        self.fusion = FUSIONS[settings.fusion](backbone, len(inventory.labels))
        self._loss = LOSSES[settings.several]

    def loss(self, states: States, batch: Batch) -> Loss:
        """The mean loss of the intents."""
        assert batch.labels is not None
        loss = self._loss(self.outputs(states, batch), batch.labels, 0.0, None)
        return Loss(loss, {"intent": loss.detach()}, len(batch.labels))

    def outputs(self, states: States, batch: Batch) -> Tensor:
        """`[batch, intents]`"""
        assert batch.token_hints is not None
        found = self.attention(states.last, batch.token_hints, batch.attention_mask)
        scores: Tensor = self.fusion(self.head, states, found, batch.attention_mask)
        return scores.float()


def _labels(example: Utterance) -> list[str]:
    """The label of each word in one scheme, whoever says it; O where nobody says anything."""
    tagged = example.tagged
    return tags_of(tagged.word_spans(), len(tagged.words), "bio")


def _given_and_true(
    answers: Sequence[Labelling], examples: Sequence[Utterance]
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    return [answer.labels for answer in answers], [example.intents or () for example in examples]
