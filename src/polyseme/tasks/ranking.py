"""Ranking: a query and each of its candidates are read together and scored, which gives their order.

Nogueira and Cho 2019, "Passage Re-ranking with BERT", learns each pair apart; with `softmax` the candidates
of a query are compared (Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach").
The network is a classifier with one score, a `CrossEncoder` for sentence-transformers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.checkpoints.formats import Format
from polyseme.errors import DataError
from polyseme.models.batch import Batch, Loss, States
from polyseme.models.heads import ClassificationHead
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.tasks.answer_settings import RankingSettings
from polyseme.tasks.candidates import Query, example_of, read_queries
from polyseme.tasks.metrics import accuracy
from polyseme.tasks.on_backbone import OnBackbone
from polyseme.tasks.predictions import RankingPrediction
from polyseme.tasks.ranking_scores import ranking_scores
from polyseme.tasks.side_by_side import side_by_side_scores
from polyseme.tasks.task import Inventory, Row
from polyseme.tasks.text_rows import chosen_pooling, text_rows
from polyseme.text.tokenizer import Tokenizer


class Grades(Inventory, frozen=True):
    """What is known of the grades."""

    highest: float = 1.0
    """The one that counts as certain."""


@dataclass(frozen=True, slots=True)
class Order:
    """The candidates of a query in the order of the file, each with its score between 0 and 1."""

    query: str
    candidates: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def order(self) -> list[int]:
        """The numbers of the candidates, the best first; equal ones as in the file."""
        return sorted(range(len(self.scores)), key=lambda number: -self.scores[number])


class Ranking:
    """The task; a `Task` of `Query` and `Order`.

    >>> task = Ranking(RankingSettings(loss="softmax"))
    >>> task.metrics
    ('mrr', 'map', 'ndcg_at_10', 'accuracy')
    """

    name = "ranking"
    head_name = "classification"
    settings_kind = RankingSettings
    inventory_kind = Grades
    metrics = ("mrr", "map", "ndcg_at_10", "accuracy")
    problem = "regression"

    def __init__(self, settings: RankingSettings | None = None) -> None:
        self.settings = settings or RankingSettings()

    def read(self, path: Path, *, labelled: bool) -> Iterator[Query]:
        """The queries of a file, each with all its candidates."""
        return read_queries(path, self.settings, labelled=labelled)

    def fit(self, examples: Iterable[Query]) -> Grades:
        """The highest grade; where all are alike there is nothing to learn."""
        grades = {grade for example in examples for grade in example.grades or ()}
        if len(grades) < 2:
            raise DataError(
                f"the training pairs have only the labels {sorted(grades)}; ranking needs some that suit and "
                "some that do not"
            )
        return Grades(labels=("relevance",), highest=max(grades))

    def stratum(self, example: Query) -> object:
        """Whether it has a candidate that suits."""
        return example.grades is not None and max(example.grades) > 0

    def encode(
        self, example: Query, tokenizer: Tokenizer, inventory: Inventory, *, max_length: int
    ) -> list[Row]:
        """[CLS] query [SEP] candidate [SEP] for every candidate, of which the longer text is cut first."""
        rows = []
        for number, candidate in enumerate(example.candidates):
            label = _label(example, number, inventory)
            rows += text_rows(example.text, candidate, label, tokenizer, max_length=max_length)
        return LAYOUTS[self.settings.loss](rows)

    def reading(self, config: TransformerConfig, format: Format) -> dict[str, Any]:
        """As a classifier of the family reads."""
        return format.reading(self.head_name, chosen_pooling(None, format.poolings))

    def build(
        self,
        backbone: Transformer,
        inventory: Inventory,
        *,
        reading: Mapping[str, Any],
        head: nn.Module | None = None,
    ) -> "CrossEncoder":
        """The network with the given head, or with a fresh one from torch's global generator."""
        head = head or ClassificationHead(backbone.config, 1, **reading)
        return CrossEncoder(backbone, head, self.settings)

    def decode(
        self, outputs: Sequence[NDArray[np.float32]], examples: Sequence[Query], inventory: Inventory
    ) -> list[Order]:
        """A sigmoid of every score: half is as likely to suit as not."""
        return [
            Order(
                example.text,
                example.candidates,
                tuple((1 / (1 + np.exp(-output.astype(np.float64)[:, 0]))).tolist()),
            )
            for output, example in zip(outputs, examples, strict=True)
        ]

    def score(self, answers: Sequence[Order], examples: Sequence[Query]) -> dict[str, float]:
        """MRR, MAP and nDCG@10 of the orders, and the accuracy of all pairs at a score of one half."""
        grades = [example.grades or (0.0,) * len(example.candidates) for example in examples]
        given = [score > 0.5 for answer in answers for score in answer.scores]
        true = [grade > 0 for of_query in grades for grade in of_query]
        return ranking_scores([answer.scores for answer in answers], grades) | {
            "accuracy": accuracy(given, true)
        }

    def report(
        self, answers: Sequence[Order], examples: Sequence[Query], inventory: Inventory
    ) -> dict[str, Any]:
        """The scores, and over how many queries and pairs they are."""
        return {
            "examples": len(examples),
            "pairs": sum(len(example.candidates) for example in examples),
            "queries_with_an_answer": sum(max(example.grades or (0.0,)) > 0 for example in examples),
            **self.score(answers, examples),
        }

    def write(self, answer: Order) -> dict[str, Any]:
        """The query, a score a candidate in the file's order, and the candidates, the best first."""
        return {
            "query": answer.query,
            "scores": list(answer.scores),
            "order": answer.order,
            "ranked": [answer.candidates[number] for number in answer.order],
        }

    def rows(self, answer: Order, example: Query) -> list[tuple[int, Mapping[str, Any], dict[str, Any]]]:
        """Each pair with its score and its place among the query's candidates, from 1."""
        places = {number: place for place, number in enumerate(answer.order, 1)}
        cells = example.cells or ({},) * len(example.candidates)
        return [
            (
                example.rows[number] if example.rows else number,
                cells[number] or {"query": example.text, "candidate": candidate},
                {"score": score, "rank": places[number]},
            )
            for number, (candidate, score) in enumerate(zip(answer.candidates, answer.scores, strict=True))
        ]

    def example(self, given: Any, *, where: str) -> Query:
        """From a query and a list of candidates."""
        return example_of(given, where)

    def prediction(self, answer: Order) -> RankingPrediction:
        """The scores and the order of the candidates."""
        return RankingPrediction(answer.scores, tuple(answer.order))

    def inputs(self, example: Query) -> Mapping[str, Any]:
        """The query."""
        return {"query": example.text}


class CrossEncoder(OnBackbone):
    """A backbone with a head that scores pairs."""

    only_head_reads = True

    def __init__(self, backbone: Transformer, head: nn.Module, settings: RankingSettings) -> None:
        super().__init__(backbone, head)
        self._loss = LOSSES[settings.loss]

    def loss(self, states: States, batch: Batch) -> Loss:
        """The mean loss of the pairs, or of the queries."""
        assert batch.labels is not None
        total = self._loss(self.outputs(states, batch).squeeze(-1), batch.labels)
        return Loss(total, {"ranking": total.detach()}, len(batch.labels))

    def outputs(self, states: States, batch: Batch) -> Tensor:
        """`[batch, 1]`, before the sigmoid."""
        logits: Tensor = self.head(states, batch.attention_mask)
        return logits.float()


def _label(example: Query, number: int, inventory: Inventory) -> NDArray[np.float32] | None:
    """Whether a query begins, the number of the candidate, and its grade as a share of the highest."""
    assert isinstance(inventory, Grades)
    if example.grades is None:
        return None
    share = min(example.grades[number] / inventory.highest, 1.0)
    return np.array([number == 0, number, share], dtype=np.float32)


def _pairs_alone(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels[:, 2])


def _candidates_compared(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each query's candidates with their grades' shares; without any, nothing."""
    scores, grades = side_by_side_scores(logits, labels)
    total = grades.sum(dim=1)
    wanted = grades / total.clamp(min=1e-12)[:, None]  # [queries, candidates]
    chances = scores.log_softmax(dim=1).masked_fill(wanted == 0, 0.0)
    return -(wanted * chances).sum() / (total > 0).sum().clamp(min=1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary": _pairs_alone,
    "softmax": _candidates_compared,
}


def _apart(rows: list[Row]) -> list[Row]:
    return rows


def _beside(rows: list[Row]) -> list[Row]:
    first, *others = rows
    return [replace(first, beside=tuple(others), cut=max(row.cut for row in rows))]


LAYOUTS: dict[str, Callable[[list[Row]], list[Row]]] = {"binary": _apart, "softmax": _beside}
"""How rows stand in batches, by the loss."""
