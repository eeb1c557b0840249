"""What `Predictor.predict` returns: one small record for each input, by task."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClassificationPrediction:
    """The label of a text, or its labels."""

    label: str | None
    """The most probable one; None where a text may have several."""
    labels: tuple[str, ...]
    """All that apply; empty where none of several does."""
    probabilities: Mapping[str, float]
    """Of every label that the model knows."""


@dataclass(frozen=True, slots=True)
class RegressionPrediction:
    """The score of a text or of a pair of texts."""

    score: float


@dataclass(frozen=True, slots=True)
class EntityPrediction:
    """A span of the text."""

    type: str
    text: str
    start: int
    """In characters."""
    end: int
    """One past its last character."""
    score: float | None = None
    """The mean probability of its words' tags; None where the task gives none."""


@dataclass(frozen=True, slots=True)
class TaggingPrediction:
    """The entities of a text, and the tags of its words."""

    text: str
    entities: tuple[EntityPrediction, ...]
    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IntentPrediction:
    """The intent of an utterance, or its intents, and its slots."""

    intents: tuple[str, ...]
    slots: tuple[EntityPrediction, ...]
    probabilities: Mapping[str, float]
    """Of every intent that the model knows."""


@dataclass(frozen=True, slots=True)
class AnswerSpan:
    """A possible answer to a question."""

    text: str
    """Empty for no answer."""
    start: int | None
    """In characters of the passage; None where the answer does not stand in it, such as YES."""
    end: int | None
    score: float
    probability: float


@dataclass(frozen=True, slots=True)
class QAPrediction:
    """The answer to a question on a passage."""

    answer: AnswerSpan
    n_best: tuple[AnswerSpan, ...]
    """The best answers, the first one included."""


@dataclass(frozen=True, slots=True)
class MultipleChoicePrediction:
    """The choice that answers a question."""

    choice: int
    """Its number, from 0."""
    answer: str
    probabilities: tuple[float, ...]
    """Of the choices in their order."""


@dataclass(frozen=True, slots=True)
class RankingPrediction:
    """How well each candidate suits a query."""

    scores: tuple[float, ...]
    """Between 0 and 1, in the candidates' order."""
    order: tuple[int, ...]
    """The numbers of the candidates, the best first."""


@dataclass(frozen=True, slots=True)
class MultitaskPrediction:
    """What a model of several tasks says of a text."""

    predictions: Mapping[str, "Prediction"]
    """By the names of the tasks."""


Prediction = (
    ClassificationPrediction
    | RegressionPrediction
    | TaggingPrediction
    | IntentPrediction
    | QAPrediction
    | MultipleChoicePrediction
    | RankingPrediction
    | MultitaskPrediction
)
