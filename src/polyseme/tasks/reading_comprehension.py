"""Reading comprehension: a question on a passage is answered by a span of it, by yes or no, or not at all.

Devlin et al. 2018, "BERT", sections 4.2 and 4.3; with yes and no, Duan et al. 2019, "CJRC". Long passages are
read by windows that overlap. Answers of the passage as a whole stand beside its tokens in the softmax of
beginnings and in that of ends, each with one score from the state before the texts, in both.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.checkpoints.formats import Format
from polyseme.embedding.windows import windows
from polyseme.errors import CheckpointError, DataError, SettingsError
from polyseme.models.answering import QuestionAnsweringHead
from polyseme.models.batch import Batch, Loss, States
from polyseme.models.initialising import initialise
from polyseme.models.pooling import pool
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.tasks.answer_settings import ReadingSettings
from polyseme.tasks.on_backbone import OnBackbone
from polyseme.tasks.predictions import AnswerSpan, QAPrediction
from polyseme.tasks.questions import Question, Span, question_of, read_questions
from polyseme.tasks.reading_scores import RULES, Count, best_threshold, suited_rule
from polyseme.tasks.spans import Candidate, best_spans, null_score, shifted
from polyseme.tasks.task import ByToken, Inventory, Outputs, Row
from polyseme.text.encoded import Int32s
from polyseme.text.tokenizer import Tokenizer

_SEEN = 200
"""Questions whose passages are looked at to choose the rule that scores."""

_LEAST_ROOM = 8
"""Tokens of the passage that a window must hold."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One possible answer with its score, and its share of the probability of the n best."""

    text: str
    """Empty for no answer."""
    start: int | None
    """In characters of the passage; None where the answer is none of its spans."""
    stop: int | None
    score: float
    probability: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The answer to a question, and the others."""

    id: str
    best: Answered
    n_best: tuple[Answered, ...]


class ReadingComprehension:
    """The task; a `Task` of `Question` and `Reading`.

    >>> task = ReadingComprehension(ReadingSettings(max_answer_length=30))
    >>> task.metrics
    ('f1', 'exact_match')
    """

    name = "reading-comprehension"
    head_name = "question-answering"
    settings_kind = ReadingSettings
    inventory_kind = Inventory
    metrics = ("f1", "exact_match")
    problem = None

    def __init__(self, settings: ReadingSettings | None = None) -> None:
        self.settings = settings or ReadingSettings()

    def read(self, path: Path, *, labelled: bool) -> Iterator[Question]:
        """The questions of a file of SQuAD, CMRC 2018 or CJRC, or of JSON lines, in order."""
        settings = self.settings
        return read_questions(path, labelled=labelled, encoding=settings.encoding, errors=settings.errors)

    def lesson(self, example: Question) -> Question:
        """The question, unless its answer is not at its place in the passage."""
        if example.lesson is None:
            raise DataError(example.fault)
        return example

    def fit(self, examples: Iterable[Question]) -> Inventory:
        """The kinds of answers: `span`, `none` where there may be no answer, then those of whole passages."""
        kinds = {_kind(example) for example in examples}
        if "span" not in kinds:
            raise DataError("no training question has an answer that stands in its passage")
        if self.settings.no_answer != "auto":
            kinds = kinds - {"none"} | ({"none"} if self.settings.no_answer == "yes" else set())
        return Inventory(labels=tuple(sorted(kinds, key=lambda kind: (kind != "span", kind != "none", kind))))

    def stratum(self, example: Question) -> object:
        """The kind of its answer."""
        return _kind(example)

    def encode(
        self, example: Question, tokenizer: Tokenizer, inventory: Inventory, *, max_length: int
    ) -> list[Row]:
        """[CLS] question [SEP] passage [SEP] for every window of the passage.

        A window that does not hold the answer teaches that there is none.
        """
        question, passage = tokenizer.encode_batch([example.text])[0], tokenizer.encode(example.passage)
        cut = max(len(question) - self.settings.max_question_length, 0)
        question = question[: self.settings.max_question_length]
        room = max_length - tokenizer.frame.pair_size - len(question)
        if room < _LEAST_ROOM:
            raise SettingsError(
                f"max_length {max_length} leaves {max(room, 0)} tokens of the passage beside a question of "
                f"{len(question)}; raise max_length or lower max_question_length"
            )
        span = _token_span(example.lesson, passage.offsets)
        rows = []
        for number, window in enumerate(
            windows(len(passage), size=room, overlap=min(self.settings.overlap, room // 2))
        ):
            ids = passage.ids[window.start : window.stop]
            input_ids, types = tokenizer.frame.pair(question, ids)
            null = 0 if tokenizer.frame.before else len(input_ids) - 1
            first = len(tokenizer.frame.before) + len(question) + len(tokenizer.frame.between)
            owned = np.zeros(len(ids), dtype=np.int64)
            owned[window.own_start - window.start : window.own_stop - window.start] = 1
            inside = span is not None and window.start <= span[0] and span[1] < window.stop
            shift = first - window.start
            ends = (span[0] + shift, span[1] + shift) if span is not None and inside else (null, null)
            rows.append(
                Row(
                    input_ids,
                    types,
                    label=_label(example, inventory, ends),
                    cut=cut if number == 0 else 0,
                    asked=np.concatenate([[null], np.arange(first, first + len(ids))]),
                    places=_places(number, passage.offsets[window.start : window.stop], owned),
                )
            )
        return rows

    def reading(self, config: TransformerConfig, format: Format) -> dict[str, Any]:
        """What the family's reader has between states and scores; a family without one is refused."""
        if self.head_name not in format.heads:
            raise CheckpointError(
                f"a {format.family} folder cannot hold a reader of passages, which transformers has no class "
                "for; start from a model of another family, such as bert, roberta or electra"
            )
        whole = "last" if "last" in format.poolings else "first"
        return {"whole": whole, **format.reading(self.head_name, whole)}

    def build(
        self,
        backbone: Transformer,
        inventory: Inventory,
        *,
        reading: Mapping[str, Any],
        head: nn.Module | None = None,
    ) -> "Reader":
        """The network with the given head, or with a fresh one from torch's global generator."""
        told = dict(reading)
        whole = told.pop("whole", "first")
        head = head or QuestionAnsweringHead(backbone.config, **told)
        threshold = self.settings.null_threshold
        return Reader(backbone, head, inventory, pooling=whole, null_threshold=threshold)

    def tune(
        self, module: "Reader", outputs: list[Any], examples: Sequence[Question], inventory: Inventory
    ) -> list[Any]:
        """Choose how far no answer must lie above the best answer for the best F1 of these questions."""
        if module.null_threshold is None or self.settings.null_threshold is not None:
            return outputs
        count = self._rule(examples)
        bests = [self._candidates(*pair, inventory)[0] for pair in zip(outputs, examples, strict=True)]
        lead = np.array([null_score(out) - best.score for out, best in zip(outputs, bests, strict=True)])
        answered, unanswered = (
            np.array(
                [count(text, example.gold or ()).f1 for text, example in zip(texts, examples, strict=True)]
            )
            for texts in ([best.text for best in bests], [""] * len(bests))
        )
        more = best_threshold(lead, answered, unanswered)
        module.null_threshold += more
        return [shifted(output, -more) for output in outputs]

    def decode(
        self, outputs: Sequence[Any], examples: Sequence[Question], inventory: Inventory
    ) -> list[Reading]:
        """The best of the windows' spans, of the whole passage's answers, and of no answer."""
        readings = []
        for output, example in zip(outputs, examples, strict=True):
            found = self._candidates(output, example, inventory)
            if {"yes": True, "no": False, "auto": "none" in inventory.labels}[self.settings.no_answer]:
                found = _ranked([*found, Answered("", None, None, null_score(output), 0.0)])
            found = _shared(found[: self.settings.n_best])
            readings.append(Reading(example.id, found[0], tuple(found)))
        return readings

    def score(self, answers: Sequence[Reading], examples: Sequence[Question]) -> dict[str, float]:
        """F1 and exact match as the official script counts them, of 1."""
        return _means(self._counts(answers, examples))

    def report(
        self, answers: Sequence[Reading], examples: Sequence[Question], inventory: Inventory
    ) -> dict[str, Any]:
        """The scores of all questions and of each kind of them."""
        counts = self._counts(answers, examples)
        of_kind: dict[str, list[Count]] = {}
        for count, example in zip(counts, examples, strict=True):
            of_kind.setdefault(_gold_kind(example), []).append(count)
        return {
            "examples": len(examples),
            **_means(counts),
            "rule": self._rule_name(examples),
            "labels": {
                kind: {**_means(of_one), "support": len(of_one)} for kind, of_one in sorted(of_kind.items())
            },
        }

    def write(self, answer: Reading) -> dict[str, Any]:
        """The answer with its characters in the passage, and the n best."""
        return {"id": answer.id, **_plain(answer.best), "n_best": [_plain(one) for one in answer.n_best]}

    def example(self, given: Any, *, where: str) -> Question:
        """From a pair of question and passage."""
        return question_of(given, where)

    def prediction(self, answer: Reading) -> QAPrediction:
        """The answer with its characters in the passage, and the n best."""
        return QAPrediction(_span(answer.best), tuple(map(_span, answer.n_best)))

    def inputs(self, example: Question) -> Mapping[str, Any]:
        """Its id, question and passage."""
        return {"id": example.id, "question": example.text, "context": example.passage}

    def _candidates(self, output: ByToken, example: Question, inventory: Inventory) -> list[Answered]:
        """The best answers, no answer left out; one at least."""
        spans = best_spans(
            output,
            example.passage,
            count=self.settings.n_best,
            max_length=self.settings.max_answer_length,
        ) or [Candidate(0, 0, 0.0)]  # A passage of which the tokenizer sees nothing.
        found = [Answered(example.passage[a:b], a, b, score, 0.0) for a, b, score in spans]
        wholes = _wholes(inventory)
        if wholes:
            scores = 2 * np.asarray(output.text, dtype=np.float64).mean(axis=0)
            found += [
                Answered(name, None, None, score, 0.0)
                for name, score in zip(wholes, scores.tolist(), strict=True)
            ]
        return _ranked(found)

    def _rule_name(self, examples: Sequence[Question]) -> str:
        if self.settings.rule != "auto":
            return self.settings.rule
        seen = (example.passage for example in islice(examples, _SEEN))
        return suited_rule(seen, [example.gold or () for example in examples])

    def _rule(self, examples: Sequence[Question]) -> Any:
        return RULES[self._rule_name(examples)]

    def _counts(self, answers: Sequence[Reading], examples: Sequence[Question]) -> list[Count]:
        count = self._rule(examples)
        return [
            count(answer.best.text, example.gold or ())
            for answer, example in zip(answers, examples, strict=True)
        ]


class Reader(OnBackbone):
    """A backbone with a head for spans, one for answers of the whole passage, and the threshold of dev."""

    null_threshold: Tensor | None
    """Where a question may have no answer."""

    def __init__(
        self,
        backbone: Transformer,
        head: nn.Module,
        inventory: Inventory,
        *,
        pooling: str,
        null_threshold: float | None,
    ) -> None:
        super().__init__(backbone, head)
        wholes = _wholes(inventory)
        self.wholes = nn.Linear(backbone.config.hidden_size, len(wholes)) if wholes else None
        if self.wholes is not None:
            initialise(self.wholes, backbone.config)
        self._chosen = null_threshold
        self._pooling = pooling
        threshold = torch.zeros((), dtype=torch.float64) if "none" in inventory.labels else None
        self.register_buffer("null_threshold", threshold)

    def loss(self, states: States, batch: Batch) -> Loss:
        """The mean loss of beginnings and ends."""
        assert batch.labels is not None
        said = self.outputs(states, batch)
        tokens = said.tokens
        if batch.attention_mask is not None:
            tokens = tokens.masked_fill(~batch.attention_mask.bool()[..., None], float("-inf"))
        if said.text is not None:
            tokens = torch.cat((said.text[..., None].expand(-1, -1, 2), tokens), dim=1)
        # The answers of the whole passage come first: [batch, wholes + length, 2]
        total = F.cross_entropy(tokens, batch.labels)
        return Loss(total, {"question-answering": total.detach()}, len(batch.labels))

    def outputs(self, states: States, batch: Batch) -> ByToken:
        """`[batch, length, 2]` of the tokens, and `[batch, wholes]` where there are answers of that kind."""
        tokens = self.head(states.last).float()
        if self.wholes is None:
            return ByToken(tokens)
        pooled = pool(states.last, batch.attention_mask, self._pooling)  # [batch, hidden_size]
        return ByToken(tokens, self.wholes(pooled).float())

    def settled(self, outputs: list[Outputs]) -> list[Outputs]:
        """No answer scores less by the threshold."""
        of_dev = 0.0 if self.null_threshold is None else float(self.null_threshold)
        threshold = of_dev if self._chosen is None else self._chosen
        return [shifted(output, -threshold) for output in outputs if isinstance(output, ByToken)]


def _kind(example: Question) -> str:
    if isinstance(example.lesson, Span):
        return "span"
    return example.lesson or "none"


def _gold_kind(example: Question) -> str:
    """The kind of a question's answers, also where nothing can be learned from them."""
    return "span" if example.lesson is None else _kind(example)


def _wholes(inventory: Inventory) -> tuple[str, ...]:
    return tuple(kind for kind in inventory.labels if kind not in ("span", "none"))


def _token_span(lesson: Span | str | None, offsets: Int32s) -> tuple[int, int] | None:
    """The first and the last token of the answer; None where there is none that the tokenizer sees."""
    if not isinstance(lesson, Span):
        return None
    touched = np.flatnonzero((offsets[:, 1] > lesson.start) & (offsets[:, 0] < lesson.stop))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def _label(example: Question, inventory: Inventory, ends: tuple[int, int]) -> NDArray[np.int64] | None:
    """Beginning and end, counted behind the answers of the whole passage."""
    if example.gold is None:
        return None
    wholes = _wholes(inventory)
    if isinstance(example.lesson, str) and example.lesson:
        if example.lesson not in wholes:
            return None
        ends = (wholes.index(example.lesson) - len(wholes),) * 2
    return np.array(ends, dtype=np.int64) + len(wholes)


def _places(window: int, offsets: Int32s, owned: NDArray[np.int64]) -> Int32s:
    tokens = np.column_stack([np.full(len(owned), window), offsets, owned])  # [tokens, 4]
    return np.concatenate([[(window, -1, -1, 1)], tokens]).astype(np.int32)


def _ranked(found: list[Answered]) -> list[Answered]:
    return sorted(found, key=lambda one: -one.score)


def _shared(found: list[Answered]) -> list[Answered]:
    """The same with the probabilities of a softmax over them."""
    weights = np.exp(np.array([one.score for one in found]) - found[0].score)
    shares = (weights / weights.sum()).tolist()
    return [
        Answered(one.text, one.start, one.stop, one.score, share)
        for one, share in zip(found, shares, strict=True)
    ]


def _means(counts: Sequence[Count]) -> dict[str, float]:
    total = max(len(counts), 1)
    return {
        "f1": sum(count.f1 for count in counts) / total,
        "exact_match": sum(count.exact for count in counts) / total,
    }


def _span(answer: Answered) -> AnswerSpan:
    return AnswerSpan(answer.text, answer.start, answer.stop, answer.score, answer.probability)


def _plain(answer: Answered) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "start": answer.start,
        "end": answer.stop,
        "score": answer.score,
        "probability": answer.probability,
    }
