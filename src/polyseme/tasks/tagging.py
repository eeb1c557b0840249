"""Tagging: the words of a text get tags, and these say where entities begin and end."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from polyseme import progress
from polyseme.checkpoints.formats import Format
from polyseme.embedding.windows import windows
from polyseme.errors import DataError
from polyseme.models.batch import IGNORED
from polyseme.models.tagging import TokenClassificationHead
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.tasks.entities import EntityScore, EntityScores, score_entities
from polyseme.tasks.metrics import accuracy
from polyseme.tasks.predictions import EntityPrediction, TaggingPrediction
from polyseme.tasks.tag_schemes import Span, all_tags, refuse_mixed, scheme_of, spans, tags_of
from polyseme.tasks.tagged_files import read_tagged
from polyseme.tasks.tagged_texts import Entity, TaggedText, tagged_of
from polyseme.tasks.taggers import Tagger
from polyseme.tasks.tagging_settings import TaggingSettings
from polyseme.tasks.task import ByToken, Inventory, Row
from polyseme.text.tokenizer import Tokenizer


class Found(NamedTuple):
    """An entity that was found: the characters from `start` to before `end`."""

    type: str
    start: int
    end: int
    score: float
    """The mean probability of its words' tags."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """One answer."""

    text: str
    entities: tuple[Found, ...]
    words: tuple[str, ...]
    tags: tuple[str, ...]
    """Of the words: they say exactly these entities."""
    scheme: str


class Tagging:
    """The task; a `Task` of `TaggedText` and `Tagged`.

    >>> Tagging(TaggingSettings(tagger="crf")).metrics
    ('f1', 'precision', 'recall', 'macro_f1', 'accuracy')
    """

    name = "tagging"
    head_name = "token-classification"
    settings_kind = TaggingSettings
    inventory_kind = Inventory
    problem = None

    def __init__(self, settings: TaggingSettings | None = None) -> None:
        self.settings = settings or TaggingSettings()
        scores = ("f1", "precision", "recall", "macro_f1")
        self.metrics = ("accuracy", *scores) if self.settings.scheme == "plain" else (*scores, "accuracy")

    def read(self, path: Path, *, labelled: bool) -> Iterator[TaggedText]:
        """The texts of a file of any usual form, in order."""
        return read_tagged(path, self.settings, labelled=labelled)

    def fit(self, examples: Iterable[TaggedText]) -> Inventory:
        """O, and all tags of the types in order, in the chosen scheme or that of the file."""
        kept = list(examples)
        types = sorted({entity.type for example in kept for entity in example.entities or ()})
        if not types:
            raise DataError(
                f"the {len(kept)} training texts have no entity; a tagger needs some, in the last column or "
                "where --label-column says"
            )
        scheme: str = self.settings.scheme
        if scheme == "auto":
            tags = {tag for example in kept for tag in example.tags or ()}
            refuse_mixed(tags)
            scheme = scheme_of(tags)
            if tags:
                progress.say(f"the tags are of the scheme {scheme}; types: {', '.join(types[:12])}")
            scheme = "bio" if scheme == "io" else scheme
        return Inventory(labels=all_tags(types, scheme))

    def stratum(self, example: TaggedText) -> object:
        """The types of its entities."""
        return tuple(sorted({entity.type for entity in example.entities or ()}))

    def encode(
        self, example: TaggedText, tokenizer: Tokenizer, inventory: Inventory, *, max_length: int
    ) -> list[Row]:
        """[CLS] text [SEP], in as many windows as it takes; the first token of each word is asked for.

        A word without any token is not asked for, and gets its tag from the words around it.
        """
        ids, word_of_token = tokens_of(example, tokenizer)
        firsts = np.flatnonzero(np.diff(word_of_token, prepend=-1))  # [words]
        labels = self._labels(example, inventory)
        size = max_length - tokenizer.frame.size
        rows = []
        for window in windows(len(ids), size=size, overlap=int(self.settings.overlap * size)):
            own = firsts[(firsts >= window.own_start) & (firsts < window.own_stop)]
            asked = own - window.start + len(tokenizer.frame.before)
            row = tokenizer.framed(ids[window.start : window.stop])
            token_labels = None
            if labels is not None:
                token_labels = np.full(len(row), IGNORED, dtype=np.int64)
                token_labels[asked] = labels[word_of_token[own]]
            rows.append(
                Row(
                    row,
                    tokenizer.frame.segments(len(row)),
                    token_labels=token_labels,
                    asked=asked,
                    places=word_of_token[own],
                )
            )
        return rows

    def reading(self, config: TransformerConfig, format: Format) -> dict[str, Any]:
        """The transform and dropout that the family has before a tagger's scores."""
        return dict(format.readings.get(self.head_name, {}))

    def build(
        self,
        backbone: Transformer,
        inventory: Inventory,
        *,
        reading: Mapping[str, Any],
        head: nn.Module | None = None,
    ) -> Tagger:
        """The network with the given head, or with a fresh one from torch's global generator."""
        head = head or TokenClassificationHead(backbone.config, len(inventory.labels), **reading)
        return Tagger(backbone, head, inventory.labels, self.settings)

    def decode(
        self, outputs: Sequence[ByToken], examples: Sequence[TaggedText], inventory: Inventory
    ) -> list[Tagged]:
        """The tags and entities of each text, from the settled tags of its words."""
        scheme = scheme_of(inventory.labels)
        return [
            _answer(output, example, inventory, scheme)
            for output, example in zip(outputs, examples, strict=True)
        ]

    def score(self, answers: Sequence[Tagged], examples: Sequence[TaggedText]) -> dict[str, float]:
        """F1, precision and recall of whole entities, F1 as the mean of the types, and accuracy of tags.

        Tags are compared in the network's scheme.
        """
        scores = _entity_scores(answers, examples)
        tags = [
            tags_of(example.word_spans(), len(answer.tags), answer.scheme)
            for answer, example in zip(answers, examples, strict=True)
        ]
        every = {
            "f1": scores.all.f1,
            "precision": scores.all.precision,
            "recall": scores.all.recall,
            "macro_f1": scores.macro_f1,
            "accuracy": accuracy(
                [tag for answer in answers for tag in answer.tags],
                [tag for of_text in tags for tag in of_text],
            ),
        }
        return {name: every[name] for name in self.metrics}

    def report(
        self, answers: Sequence[Tagged], examples: Sequence[TaggedText], inventory: Inventory
    ) -> dict[str, Any]:
        """The scores, and precision, recall and F1 of each type."""
        types = _entity_scores(answers, examples).types
        return {
            "examples": len(examples),
            "words": sum(len(answer.words) for answer in answers),
            **self.score(answers, examples),
            "labels": {kind: EntityScore._asdict(score) for kind, score in types.items()},
        }

    def write(self, answer: Tagged) -> dict[str, Any]:
        """The text, its entities with their characters, and the tag of each word."""
        return {
            "text": answer.text,
            "entities": [
                {
                    "type": entity.type,
                    "start": entity.start,
                    "end": entity.end,
                    "text": answer.text[entity.start : entity.end],
                    "score": entity.score,
                }
                for entity in answer.entities
            ],
            "words": list(answer.words),
            "tags": list(answer.tags),
        }

    def example(self, given: Any, *, where: str) -> TaggedText:
        """From a text, or a list of words."""
        return tagged_of(given, where)

    def prediction(self, answer: Tagged) -> TaggingPrediction:
        """The entities with their characters, and the tag of each word."""
        entities = tuple(
            EntityPrediction(e.type, answer.text[e.start : e.end], e.start, e.end, e.score)
            for e in answer.entities
        )
        return TaggingPrediction(answer.text, entities, answer.words, answer.tags)

    def inputs(self, example: TaggedText) -> Mapping[str, Any]:
        """The keys of its object, or the text."""
        return example.cells or {"text": example.text}

    def columns(self, answer: Tagged) -> str:
        """A word, a tab and its tag a line, then a blank line."""
        lines = [f"{word}\t{tag}\n" for word, tag in zip(answer.words, answer.tags, strict=True)]
        return "".join(lines) + "\n"

    def _labels(self, example: TaggedText, inventory: Inventory) -> NDArray[np.int64] | None:
        """The number of each word's tag; None where nobody knows."""
        if example.entities is None:
            return None
        place = {label: number for number, label in enumerate(inventory.labels)}
        tags = tags_of(example.word_spans(), len(example.words), scheme_of(inventory.labels))
        for tag in tags:
            if tag not in place:
                known = ", ".join(inventory.labels[:20]) + (" …" if len(inventory.labels) > 20 else "")
                raise DataError(f"{example.where}: the tag {tag!r} is unknown; the model knows {known}")
        return np.array([place[tag] for tag in tags], dtype=np.int64)


def tokens_of(example: TaggedText, tokenizer: Tokenizer) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The ids of a text's tokens and the word of each; no token holds letters of two words."""
    if tokenizer.crosses_words:
        encoded = tokenizer.encode(example.text, starts=example.words[:, 0])
        return encoded.ids, encoded.words.astype(np.int64)
    ids, _, counts = tokenizer.encode_joined(
        [example.text[start:end] for start, end in example.words.tolist()]
    )
    return ids, np.repeat(np.arange(len(counts)), counts)


def _answer(output: ByToken, example: TaggedText, inventory: Inventory, scheme: str) -> Tagged:
    words: list[int] = output.places.tolist()
    found = spans(inventory.labels[int(number)] for number in output.tokens[:, 0])
    # Of the words that were asked for to all of them: what lies between two words of an entity belongs to it.
    whole = [Span(span.type, words[span.start], words[span.stop - 1] + 1) for span in found]
    entities = tuple(
        Found(
            span.type,
            int(example.words[all_words.start, 0]),
            int(example.words[all_words.stop - 1, 1]),
            float(output.tokens[span.start : span.stop, 1].mean(dtype=np.float64)),
        )
        for span, all_words in zip(found, whole, strict=True)
    )
    return Tagged(
        text=example.text,
        entities=entities,
        words=tuple(example.text[start:end] for start, end in example.words.tolist()),
        tags=tuple(tags_of(whole, len(example.words), scheme)),
        scheme=scheme,
    )


def _entity_scores(answers: Sequence[Tagged], examples: Sequence[TaggedText]) -> EntityScores:
    return score_entities(
        [[Entity(found.type, found.start, found.end) for found in answer.entities] for answer in answers],
        [example.entities or () for example in examples],
        lambda entity: entity.type,
    )
