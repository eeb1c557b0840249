"""Multiple choice: a question on a passage, and the choices of which one answers it.

Each choice is read together with the passage and the question, and the scores of a question's choices are
compared by a softmax (Devlin et al. 2018, section 4.4; Sun et al. 2020, "C3").
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.checkpoints.formats import Format
from polyseme.embedding.windows import windows
from polyseme.errors import CheckpointError, SettingsError
from polyseme.models.answering import MultipleChoiceHead
from polyseme.models.batch import Batch, Loss, States
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.tasks.answer_settings import ChoiceSettings
from polyseme.tasks.choices import ChoiceQuestion, choice_question_of, read_choices
from polyseme.tasks.metrics import accuracy
from polyseme.tasks.on_backbone import OnBackbone
from polyseme.tasks.predictions import MultipleChoicePrediction
from polyseme.tasks.side_by_side import side_by_side_scores
from polyseme.tasks.task import Inventory, Row
from polyseme.text.encoded import Int32s
from polyseme.text.tokenizer import Tokenizer

_LEAST_ROOM = 8
"""Tokens of the passage that a row must have room for."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer."""

    id: str
    number: int
    """Of the choice, from 0."""
    text: str
    probabilities: tuple[float, ...]
    """Of the choices in their order."""


class MultipleChoice:
    """The task; a `Task` of `ChoiceQuestion` and `Choice`.

    >>> task = MultipleChoice(ChoiceSettings(long_texts="windows"))
    >>> task.metrics
    ('accuracy',)
    """

    name = "multiple-choice"
    head_name = "multiple-choice"
    settings_kind = ChoiceSettings
    inventory_kind = Inventory
    metrics = ("accuracy",)
    problem = None

    def __init__(self, settings: ChoiceSettings | None = None) -> None:
        self.settings = settings or ChoiceSettings()

    def read(self, path: Path, *, labelled: bool) -> Iterator[ChoiceQuestion]:
        """The questions of C3's JSON, or of JSON lines with `question`, `choices` and `answer`, in order."""
        settings = self.settings
        return read_choices(path, labelled=labelled, encoding=settings.encoding, errors=settings.errors)

    def fit(self, examples: Iterable[ChoiceQuestion]) -> Inventory:
        """Nothing is learned from the examples: choices have no names in common."""
        return Inventory(labels=())

    def stratum(self, example: ChoiceQuestion) -> object:
        """How many choices it has."""
        return len(example.choices)

    def encode(
        self, example: ChoiceQuestion, tokenizer: Tokenizer, inventory: Inventory, *, max_length: int
    ) -> list[Row]:
        """[CLS] passage [SEP] question choice [SEP] for every choice, side by side.

        Of a passage that is too long the end is cut, or every choice reads it by as many windows.
        """
        passage, *asked = tokenizer.encode_batch(
            [example.passage, *(f"{example.question} {choice}".strip() for choice in example.choices)]
        )
        room = max_length - tokenizer.frame.pair_size - max(map(len, asked))
        if room < min(_LEAST_ROOM, len(passage)):
            raise SettingsError(
                f"{example.where}: max_length {max_length} leaves {max(room, 0)} tokens of the passage "
                "beside the question and its longest choice; raise max_length"
            )
        cut, parts = 0, [passage]
        if self.settings.long_texts == "windows" and len(passage) > room:
            overlap = min(self.settings.overlap, room // 2)
            spans = windows(len(passage), size=room, overlap=overlap)
            parts = [passage[span.start : span.stop] for span in spans]
        rows: list[Row] = []
        for number, ids in enumerate(asked):
            for part in parts:
                # Of windows all are as long; else a short choice leaves more of the passage.
                left = room if len(parts) > 1 else max_length - tokenizer.frame.pair_size - len(ids)
                cut = max(cut, len(part) - left)
                rows.append(_row(part[:left], ids, tokenizer, _label(example, number, first=not rows)))
        return [replace(rows[0], beside=tuple(rows[1:]), cut=cut)]

    def reading(self, config: TransformerConfig, format: Format) -> dict[str, Any]:
        """What the family's chooser has between states and scores; a family without one is refused."""
        if self.head_name not in format.heads:
            raise CheckpointError(
                f"a {format.family} folder cannot hold a model for multiple choice, which transformers has "
                "no class for; start from a model of another family, such as bert, roberta or electra"
            )
        possible = list(format.poolings)
        return format.reading(self.head_name, "mean" if "mean" in possible else possible[0])

    def build(
        self,
        backbone: Transformer,
        inventory: Inventory,
        *,
        reading: Mapping[str, Any],
        head: nn.Module | None = None,
    ) -> "Chooser":
        """The network with the given head, or with a fresh one from torch's global generator."""
        return Chooser(backbone, head or MultipleChoiceHead(backbone.config, **reading))

    def decode(
        self,
        outputs: Sequence[NDArray[np.float32]],
        examples: Sequence[ChoiceQuestion],
        inventory: Inventory,
    ) -> list[Choice]:
        """The choice with the highest score, the best of its windows."""
        return [_answer(*pair) for pair in zip(outputs, examples, strict=True)]

    def score(self, answers: Sequence[Choice], examples: Sequence[ChoiceQuestion]) -> dict[str, float]:
        """The share of questions answered right."""
        right = [example.choices[example.answer or 0] for example in examples]
        return {"accuracy": accuracy([answer.text for answer in answers], right)}

    def report(
        self, answers: Sequence[Choice], examples: Sequence[ChoiceQuestion], inventory: Inventory
    ) -> dict[str, Any]:
        """The score, and that of the questions with as many choices."""
        of_count: dict[int, list[int]] = {}
        for place, example in enumerate(examples):
            of_count.setdefault(len(example.choices), []).append(place)
        return {
            "examples": len(examples),
            **self.score(answers, examples),
            "labels": {
                f"{count} choices": {
                    **self.score([answers[n] for n in places], [examples[n] for n in places]),
                    "support": len(places),
                }
                for count, places in sorted(of_count.items())
            },
        }

    def write(self, answer: Choice) -> dict[str, Any]:
        """The choice by its number from 0 and its text, and the probability of each."""
        return {
            "id": answer.id,
            "choice": answer.number,
            "answer": answer.text,
            "probabilities": list(answer.probabilities),
        }

    def example(self, given: Any, *, where: str) -> ChoiceQuestion:
        """From (question, choices), or (passage, question, choices)."""
        return choice_question_of(given, where)

    def prediction(self, answer: Choice) -> MultipleChoicePrediction:
        """The choice and the probability of each."""
        return MultipleChoicePrediction(answer.number, answer.text, answer.probabilities)

    def inputs(self, example: ChoiceQuestion) -> Mapping[str, Any]:
        """Its id, passage and question."""
        return {"id": example.id, "passage": example.passage, "question": example.question}


class Chooser(OnBackbone):
    """A backbone with a head that scores choices."""

    only_head_reads = True

    def loss(self, states: States, batch: Batch) -> Loss:
        """The mean loss of the questions, whose choices stand side by side in the batch."""
        assert batch.labels is not None
        scores, right = side_by_side_scores(self.outputs(states, batch), batch.labels)
        total = F.cross_entropy(scores, right.argmax(dim=1))
        return Loss(total, {"multiple-choice": total.detach()}, len(scores))

    def outputs(self, states: States, batch: Batch) -> Tensor:
        """`[batch]`"""
        logits: Tensor = self.head(states, batch.attention_mask)
        return logits.float()


def _row(part: Int32s, asked: Int32s, tokenizer: Tokenizer, label: NDArray[np.float32] | None) -> Row:
    input_ids, types = tokenizer.frame.pair(part, asked)
    return Row(input_ids, types, label)


def _label(example: ChoiceQuestion, number: int, *, first: bool) -> NDArray[np.float32] | None:
    """Whether a question begins, the number of the choice, and whether it is right."""
    if example.answer is None:
        return None
    return np.array([first, number, number == example.answer], dtype=np.float32)


def _answer(output: NDArray[np.float32], example: ChoiceQuestion) -> Choice:
    scores = output.astype(np.float64).reshape(len(example.choices), -1).max(axis=1)
    chances = np.exp(scores - scores.max())
    chances /= chances.sum()
    best = int(scores.argmax())
    return Choice(example.id, best, example.choices[best], tuple(chances.tolist()))
