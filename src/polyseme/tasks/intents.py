"""Intent and slots together: what an utterance wants, and which of its words say with what.

Chen et al. 2019, "BERT for Joint Intent Classification and Slot Filling", section 3.2: the intent from the
pooled state, each word's slot from the state of its first token, and the sum of both losses.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.checkpoints.formats import Format
from polyseme.errors import DataError
from polyseme.models.batch import IGNORED, Batch, Loss, States
from polyseme.models.heads import ClassificationHead
from polyseme.models.initialising import initialise
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.tasks.classification import LOSSES
from polyseme.tasks.entities import score_entities
from polyseme.tasks.intent_settings import IntentSettings
from polyseme.tasks.label_values import refuse_doubtful
from polyseme.tasks.metrics import accuracy, by_label
from polyseme.tasks.on_backbone import OnBackbone
from polyseme.tasks.predictions import EntityPrediction, IntentPrediction
from polyseme.tasks.tag_schemes import OUTSIDE, Span, spans
from polyseme.tasks.tagged_texts import Entity
from polyseme.tasks.task import ByToken, Inventory, Row
from polyseme.tasks.text_rows import chosen_pooling
from polyseme.tasks.utterances import Utterance, read_utterances, slot_tags, utterance_of
from polyseme.tasks.word_rows import word_row
from polyseme.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Understood:
    """One answer."""

    intents: tuple[str, ...]
    probabilities: dict[str, float]
    tags: tuple[str, ...]
    """Of each word."""
    entities: tuple[Entity, ...]
    """The slots, by the characters of the text."""
    text: str


class IntentInventory(Inventory, frozen=True):
    """The intents, and the tags of the slots, O first."""

    slots: tuple[str, ...] = (OUTSIDE,)


class Intents:
    """The task; a `Task` of `Utterance` and `Understood`.

    >>> Intents().metrics
    ('sentence_accuracy', 'intent_accuracy', 'slot_f1')
    """

    name = "intents"
    head_name = "classification"
    settings_kind = IntentSettings
    inventory_kind = IntentInventory
    metrics = ("sentence_accuracy", "intent_accuracy", "slot_f1")

    def __init__(self, settings: IntentSettings | None = None) -> None:
        self.settings = settings or IntentSettings()
        self.problem: Literal["single", "multi"] = "multi" if self.settings.several else "single"

    def read(self, path: Path, *, labelled: bool) -> Iterator[Utterance]:
        """The utterances of a folder or file, in order."""
        return read_utterances(path, self.settings, labelled=labelled)

    def fit(self, examples: Iterable[Utterance]) -> IntentInventory:
        """Intents and slot tags by spelling."""
        examples = list(examples)
        tags = {tag for example in examples for tag in slot_tags(example.tagged, "bio")} - {OUTSIDE}
        return IntentInventory(
            labels=intent_names(examples, self.settings.skip_label), slots=(OUTSIDE, *sorted(tags))
        )

    def stratum(self, example: Utterance) -> object:
        """Its intents."""
        return example.intents

    def encode(
        self, example: Utterance, tokenizer: Tokenizer, inventory: IntentInventory, *, max_length: int
    ) -> list[Row]:
        """One row; an utterance longer than the model is cut."""
        known = {tag: number for number, tag in enumerate(inventory.slots)}
        labels = None
        if example.intents is not None:
            tags = slot_tags(example.tagged, "bio")
            new = next((tag for tag in tags if tag not in known), None)
            if new is not None and self.settings.unseen == "refuse":
                raise unseen(example, f"slot {new!r}")
            labels = [known.get(tag, IGNORED) for tag in tags]
        intent = intent_label(example, inventory, self.settings.several, self.settings.unseen)
        return [word_row(example.tagged, tokenizer, max_length=max_length, label=intent, word_labels=labels)]

    def reading(self, config: TransformerConfig, format: Format) -> dict[str, Any]:
        """As a classifier's."""
        return {"pooling": chosen_pooling(self.settings.pooling, format.poolings), **format.classifier}

    def build(
        self,
        backbone: Transformer,
        inventory: IntentInventory,
        *,
        reading: Mapping[str, Any],
        head: nn.Module | None = None,
    ) -> "IntentsAndSlots":
        """The network, with the given head of the intents or a fresh one."""
        head = head or ClassificationHead(backbone.config, len(inventory.labels), **reading)
        return IntentsAndSlots(backbone, head, len(inventory.slots), self.settings)

    def decode(
        self, outputs: Sequence[ByToken], examples: Sequence[Utterance], inventory: IntentInventory
    ) -> list[Understood]:
        """The best intent, or those above one half; the best tag of each word, O where none was read."""
        return [
            self._answer(said, example, inventory) for said, example in zip(outputs, examples, strict=True)
        ]

    def score(self, answers: Sequence[Understood], examples: Sequence[Utterance]) -> dict[str, float]:
        """Utterances with everything right, those with the intent right, and F1 of the slots."""
        intents = [set(a.intents) == set(e.intents or ()) for a, e in zip(answers, examples, strict=True)]
        found, there = _slots(answers, examples)
        whole = [i and set(f) == set(t) for i, f, t in zip(intents, found, there, strict=True)]
        return {
            "sentence_accuracy": accuracy(whole, [True] * len(whole)),
            "intent_accuracy": accuracy(intents, [True] * len(intents)),
            "slot_f1": score_entities(found, there, _type).all.f1,
        }

    def report(
        self, answers: Sequence[Understood], examples: Sequence[Utterance], inventory: IntentInventory
    ) -> dict[str, Any]:
        """The scores, and those of each intent and of each slot."""
        given, true = [a.intents for a in answers], [e.intents or () for e in examples]
        intents = sorted({*inventory.labels, *(name for names in true for name in names)})
        slots = score_entities(*_slots(answers, examples), _type)
        return {
            "examples": len(examples),
            **self.score(answers, examples),
            "slot_precision": slots.all.precision,
            "slot_recall": slots.all.recall,
            "labels": {name: score._asdict() for name, score in by_label(given, true, intents).items()},
            "slots": {name: score._asdict() for name, score in slots.types.items()},
        }

    def write(self, answer: Understood) -> dict[str, Any]:
        """`intent`, or `intents` where there may be several, and the slots with their characters."""
        several = self.settings.several
        return {
            **({"intents": list(answer.intents)} if several else {"intent": answer.intents[0]}),
            "slots": [
                {"type": e.type, "text": answer.text[e.start : e.end], "start": e.start, "end": e.end}
                for e in answer.entities
            ],
            "probabilities": answer.probabilities,
        }

    def example(self, given: Any, *, where: str) -> Utterance:
        """From a text, a list of words, or an object of text or tokens, and slots."""
        return utterance_of(given, where, self.settings)

    def prediction(self, answer: Understood) -> IntentPrediction:
        """The intents and the slots with their characters."""
        slots = tuple(
            EntityPrediction(e.type, answer.text[e.start : e.end], e.start, e.end) for e in answer.entities
        )
        return IntentPrediction(answer.intents, slots, answer.probabilities)

    def inputs(self, example: Utterance) -> Mapping[str, Any]:
        """The keys of its object, or the text."""
        return example.tagged.cells or {"text": example.tagged.text}

    def _answer(self, said: ByToken, example: Utterance, inventory: IntentInventory) -> Understood:
        intents, probabilities = chosen_intents(said.text[0], inventory, several=self.settings.several)
        tagged = example.tagged
        tags = [OUTSIDE] * len(tagged.words)
        for word, number in zip(said.places, said.tokens.argmax(axis=-1), strict=True):
            tags[word] = inventory.slots[number]
        entities = tuple(
            Entity(kind, int(tagged.words[start, 0]), int(tagged.words[stop - 1, 1]))
            for kind, start, stop in spans(tags)
        )
        return Understood(intents, probabilities, tuple(tags), entities, tagged.text)


class IntentsAndSlots(OnBackbone):
    """A backbone with a head of the intents, and one score a slot tag at each token."""

    def __init__(
        self, backbone: Transformer, head: nn.Module, num_slots: int, settings: IntentSettings
    ) -> None:
        super().__init__(backbone, head)
        config = backbone.config
        self.dropout = nn.Dropout(config.dropout)
        self.slots = nn.Linear(config.hidden_size, num_slots)
        initialise(self.slots, config)
        self._loss = LOSSES[settings.several]
        self._slot_weight = settings.slot_weight

    def loss(self, states: States, batch: Batch) -> Loss:
        """The loss of the intents and that of the slots, each a mean over what it predicts."""
        assert batch.labels is not None
        assert batch.token_labels is not None
        intent = self._loss(self.head(states, batch.attention_mask).float(), batch.labels, 0.0, None)
        slot = F.cross_entropy(
            self._scores(states).flatten(0, 1), batch.token_labels.flatten(), ignore_index=IGNORED
        )
        parts = {"intent": intent.detach(), "slots": slot.detach()}
        return Loss(intent + self._slot_weight * slot, parts, len(batch.labels))

    def outputs(self, states: States, batch: Batch) -> ByToken:
        """The scores of the slots, `[batch, length, slots]`, and of the intents, `[batch, intents]`."""
        return ByToken(self._scores(states), self.head(states, batch.attention_mask).float())

    def _scores(self, states: States) -> Tensor:
        scores: Tensor = self.slots(self.dropout(states.last))
        return scores.float()


def intent_names(examples: Sequence[Utterance], skip_label: str | None = None) -> tuple[str, ...]:
    """The intents of the training utterances, by spelling; there must be two."""
    counts = Counter(name for example in examples for name in example.intents or ())
    refuse_doubtful(counts, skip_label)
    names = sorted(counts)
    if len(names) < 2:
        raise DataError(
            f"the {len(examples)} training utterances have only the intents {names}; at least two are needed"
        )
    return tuple(names)


def intent_label(
    example: Utterance, inventory: Inventory, several: bool, unseen_ones: str
) -> NDArray[np.float32] | NDArray[np.int64] | None:
    """The number of the intent, or which intents there are; None where that is not known."""
    if example.intents is None:
        return None
    new = next((name for name in example.intents if name not in inventory.labels), None)
    if new is not None:
        if unseen_ones == "refuse":
            raise unseen(example, f"intent {new!r}")
        return None
    if several:
        return np.array([name in example.intents for name in inventory.labels], dtype=np.float32)
    return np.array(inventory.labels.index(example.intents[0]), dtype=np.int64)


def unseen(example: Utterance, what: str) -> DataError:
    """The refusal of what no training utterance has."""
    return DataError(
        f"{example.where}: the {what} was never seen in training; count it as missed with --unseen miss"
    )


def chosen_intents(
    scores: NDArray[np.float32], inventory: Inventory, *, several: bool
) -> tuple[tuple[str, ...], dict[str, float]]:
    """The intents that the scores say, at least one, and the probability of each."""
    exact = scores.astype(np.float64)
    if several:
        chances = 1 / (1 + np.exp(-exact))
        chosen = [n for n, chance in enumerate(chances) if chance > 0.5] or [int(exact.argmax())]
    else:
        chances = np.exp(exact - exact.max())
        chances /= chances.sum()
        chosen = [int(exact.argmax())]
    names = inventory.labels
    return tuple(names[n] for n in chosen), dict(zip(names, chances.tolist(), strict=True))


def _slots(
    answers: Sequence[Understood], examples: Sequence[Utterance]
) -> tuple[list[list[Span]], list[list[Span]]]:
    """The slots that were found and those that are there, by words."""
    found = [spans(answer.tags) for answer in answers]
    return found, [spans(slot_tags(example.tagged, "bio")) for example in examples]


def _type(span: Span) -> str:
    return span.type
