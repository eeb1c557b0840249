"""Regression: a text, or a pair of texts, gets a number, such as how alike two sentences are."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.checkpoints.formats import Format
from polyseme.errors import DataError
from polyseme.models.batch import Batch, Loss, States
from polyseme.models.heads import ClassificationHead
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.tasks.label_values import refuse_doubtful
from polyseme.tasks.labelled_texts import MarkedText, read_marked, text_and_pair, texts_by_name
from polyseme.tasks.metrics import pearson, spearman
from polyseme.tasks.on_backbone import OnBackbone
from polyseme.tasks.predictions import RegressionPrediction
from polyseme.tasks.reading_report import announced, shortened
from polyseme.tasks.settings import RegressionSettings
from polyseme.tasks.skipping import parsed
from polyseme.tasks.task import Inventory, Row
from polyseme.tasks.text_rows import chosen_pooling, text_rows
from polyseme.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ScoredText:
    """One example."""

    text: str
    pair: str | None
    score: float | None
    """None where the file does not say."""
    where: str
    """File and line, for messages."""
    cells: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Of an example to answer, the columns of its row."""


class Scale(Inventory, frozen=True):
    """What the scores of the training examples are like; the one label is what the number is called."""

    labels: tuple[str, ...] = ("score",)
    mean: float = 0.0
    deviation: float = 1.0


class Regression:
    """The task; a `Task` of `ScoredText` and a number.

    >>> Regression().metrics
    ('spearman', 'pearson')
    """

    name = "regression"
    head_name = "classification"
    settings_kind = RegressionSettings
    inventory_kind = Scale
    problem: Literal["regression"] = "regression"
    metrics = ("spearman", "pearson")

    def __init__(self, settings: RegressionSettings | None = None) -> None:
        self.settings = settings or RegressionSettings()

    def read(self, path: Path, *, labelled: bool) -> Iterator[ScoredText]:
        """The examples of a TSV, CSV or JSON file, in order; a score that is no number is a `DataError`."""
        marked, about = read_marked(path, self.settings, labelled=labelled, role="score")

        def example(text: MarkedText) -> ScoredText:
            score = _number(text) if labelled else None
            return ScoredText(text.text, text.pair, score, text.where, text.cells)

        return announced(parsed(marked, example), path, lambda first: f"{about}; the first: {_shown(first)}")

    def fit(self, examples: Iterable[ScoredText]) -> Scale:
        """Mean and deviation of the scores."""
        scores = np.array([example.score for example in examples], dtype=np.float64)
        refuse_doubtful(Counter(f"{score:g}" for score in scores.tolist()), self.settings.skip_label)
        if len(scores) < 2 or scores.min() == scores.max():
            raise DataError(
                f"the {len(scores)} training texts have {len(np.unique(scores))} different scores; "
                "there is nothing to learn from fewer than two"
            )
        return Scale(mean=float(scores.mean()), deviation=float(scores.std()))

    def stratum(self, example: ScoredText) -> object:
        """Its score, to the next whole number."""
        return None if example.score is None else round(example.score)

    def encode(
        self, example: ScoredText, tokenizer: Tokenizer, inventory: Inventory, *, max_length: int
    ) -> list[Row]:
        """As a classifier's texts and pairs."""
        return text_rows(
            example.text,
            example.pair,
            None if example.score is None else np.array([example.score], dtype=np.float32),
            tokenizer,
            max_length=max_length,
            by_windows=self.settings.long_texts == "windows",
        )

    def reading(self, config: TransformerConfig, format: Format) -> dict[str, Any]:
        """As a classifier's."""
        return {"pooling": chosen_pooling(self.settings.pooling, format.poolings), **format.classifier}

    def build(
        self,
        backbone: Transformer,
        inventory: Scale,
        *,
        reading: Mapping[str, Any],
        head: nn.Module | None = None,
    ) -> "Regressor":
        """The network with the given head, or with a fresh one, whose first answer is the mean."""
        if head is None:
            head = ClassificationHead(backbone.config, 1, **reading)
            if head.dense.bias is not None:
                nn.init.constant_(head.dense.bias, inventory.mean)
        return Regressor(backbone, head, inventory)

    def decode(
        self,
        outputs: Sequence[NDArray[np.float32]],
        examples: Sequence[ScoredText],
        inventory: Inventory,
    ) -> list[float]:
        """The mean over a text's rows."""
        return [float(of_text.mean(dtype=np.float64)) for of_text in outputs]

    def score(self, answers: Sequence[float], examples: Sequence[ScoredText]) -> dict[str, float]:
        """The correlation of the ranks, and of the numbers."""
        true = _true(examples)
        return {"spearman": spearman(answers, true), "pearson": pearson(answers, true)}

    def report(
        self, answers: Sequence[float], examples: Sequence[ScoredText], inventory: Inventory
    ) -> dict[str, Any]:
        """The scores, and how far the numbers are from the true ones."""
        errors = np.asarray(answers) - np.asarray(_true(examples))
        return {
            "examples": len(examples),
            **self.score(answers, examples),
            "mean_squared_error": float(np.mean(errors**2)),
            "mean_absolute_error": float(np.mean(np.abs(errors))),
        }

    def write(self, answer: float) -> dict[str, Any]:
        """`score`."""
        return {"score": answer}

    def example(self, given: Any, *, where: str) -> ScoredText:
        """From a text, or a pair of texts."""
        return ScoredText(*text_and_pair(given, where), None, where)

    def prediction(self, answer: float) -> RegressionPrediction:
        """The score."""
        return RegressionPrediction(answer)

    def inputs(self, example: ScoredText) -> Mapping[str, Any]:
        """The columns of its row, or text and pair."""
        return example.cells or texts_by_name(example.text, example.pair)


class Regressor(OnBackbone):
    """A backbone with a head of one score."""

    only_head_reads = True
    deviation: Tensor

    def __init__(self, backbone: Transformer, head: nn.Module, scale: Scale) -> None:
        super().__init__(backbone, head)
        # The error counts in deviations of the scores: the rates that suit 0–5 then suit 0–1 and 0–100.
        self.register_buffer("deviation", torch.tensor(scale.deviation), persistent=False)

    def loss(self, states: States, batch: Batch) -> Loss:
        """The mean squared error."""
        assert batch.labels is not None
        loss = F.mse_loss(self.outputs(states, batch) / self.deviation, batch.labels / self.deviation)
        return Loss(loss, {"regression": loss.detach()}, len(batch.labels))

    def outputs(self, states: States, batch: Batch) -> Tensor:
        """`[batch, 1]`"""
        scores: Tensor = self.head(states, batch.attention_mask)
        return scores.float()


def _number(text: MarkedText) -> float:
    try:
        number = float(text.mark)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(text.mark, bool) or not math.isfinite(number):
        raise DataError(f"{text.where}: {text.column} is {text.mark!r:.60}; a score must be a number")
    return number


def _shown(example: ScoredText) -> str:
    """An example in a line about its file."""
    texts = shortened(example.text) + ("" if example.pair is None else f" and {shortened(example.pair)}")
    return texts if example.score is None else f"{texts} → {example.score:g}"


def _true(examples: Sequence[ScoredText]) -> list[float]:
    return [math.nan if example.score is None else example.score for example in examples]
