"""What a model folder holds once it is in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from polyseme.records import Record

if TYPE_CHECKING:
    from torch import Tensor, nn

    from polyseme.models.transformer.model import Transformer
    from polyseme.text.tokenizer import Tokenizer

FORMAT_VERSION = 1

HEADS = {
    "masked-lm": "polyseme.models.heads:MaskedLMHead",
    "causal-lm": "polyseme.models.heads:CausalLMHead",
    "permutation-lm": "polyseme.models.transformer.streams:PermutationLMHead",
    "adaptive-lm": "polyseme.models.adaptive:AdaptiveLMHead",
    "next-sentence": "polyseme.models.heads:PairHead",
    "sentence-order": "polyseme.models.heads:PairHead",
    "replaced-token": "polyseme.models.heads:ReplacedTokenHead",
    "classification": "polyseme.models.heads:ClassificationHead",
    "question-answering": "polyseme.models.answering:QuestionAnsweringHead",
    "multiple-choice": "polyseme.models.answering:MultipleChoiceHead",
    "token-classification": "polyseme.models.tagging:TokenClassificationHead",
    "seq2seq-lm": "polyseme.models.transformer.encoder_decoder:Seq2SeqLMHead",
}
"""The heads that a folder can hold, by their names in `Model.heads`: import paths of their classes."""

PREDICT_TOKENS = ("masked-lm", "causal-lm", "seq2seq-lm", "permutation-lm", "adaptive-lm")
"""The heads that score the whole vocabulary, with the token table as their matrix."""

READ_POOLED = ("next-sentence", "sentence-order", "classification", "multiple-choice")
"""The heads that read what a pooler makes of the first state, in families that have one."""

POOL = ("classification", "multiple-choice")
"""The heads that are told how to pool the states."""

NAMES_CLASSES = ("classification", "token-classification")
"""The heads whose scores are of classes that the card names."""

FINETUNED_BY = {
    "classification": "classification",
    "question-answering": "reading-comprehension",
    "multiple-choice": "multiple-choice",
    "token-classification": "tagging",
}
"""The heads that fine-tuning makes, and the task of the command."""

TOLD_APART = ("classification", "question-answering", "multiple-choice", "token-classification")
"""The heads whose tensors families give the same names: config.json's `architectures` says which it is."""


class Card(Record, frozen=True):
    """What a model is and how it was made: the file polyseme.json."""

    family: str
    """Which published layout the folder has: one of the table of formats."""
    format_version: int = FORMAT_VERSION
    """Version of this file; a reader refuses what is newer than itself."""
    recipe: dict[str, Any] | None = None
    """The recipe that the model was made with."""
    made: dict[str, Any] = msgspec.field(default_factory=dict)
    """How it was made: settings, seed, versions, fingerprint of the data."""
    labels: list[str] | None = None
    """Names of the classes, in the order of the classifier's scores."""
    problem: Literal["single", "multi", "regression"] | None = None
    """Whether a text has exactly one of the classes or any number of them, or gets a number as it is."""
    pooling: str | None = None
    """How an embedding model makes one vector of a text; None for models that are none."""
    normalize: bool = False
    """Whether an embedding model's vectors have length 1."""
    max_length: int | None = None
    """The most tokens that an embedding model reads of a text, [CLS] and [SEP] included."""
    prompt: str = ""
    """What an embedding model reads before every text, unless another prompt is asked for."""
    prompts: dict[str, str] = msgspec.field(default_factory=dict)
    """Prompts of an embedding model by their names, as "query" and "passage"."""
    include_prompt: bool = True
    """Whether an embedding model pools the tokens of the prompt too."""
    dimensions: int | None = None
    """How many of a vector's dimensions an embedding model gives; None: all."""

    def __post_init__(self) -> None:
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            twice = next(name for name in self.labels if self.labels.count(name) > 1)
            raise ValueError(f"labels must differ, but {twice!r} stands there twice")


@dataclass
class Model:
    """A network with its heads, its tokenizer and its card.

    >>> model = load("runs/mini/model", heads=["masked-lm"])  # doctest: +SKIP
    >>> model.heads["masked-lm"]  # doctest: +SKIP
    """

    backbone: Transformer
    card: Card
    heads: dict[str, nn.Module] = field(default_factory=dict)
    """By the names of `HEADS`."""
    tokenizer: Tokenizer | None = None
    task_tensors: dict[str, Tensor] = field(default_factory=dict)
    """What a task keeps beside heads that have a published layout, by the names in its network."""
    after_pooling: list[nn.Module] = field(default_factory=list)
    """What an embedding model computes of a pooled text before its vector is scaled to length 1."""
