"""Few examples: the label fills a blank in a text around the example, as in pre-training.

Schick and Schütze 2021, "Exploiting Cloze Questions for Few Shot Text Classification and Natural Language
Inference", section 3: one pattern with its verbalizer, without the ensemble and the unlabelled texts.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from polyseme.checkpoints.formats import Format
from polyseme.checkpoints.model import Model
from polyseme.errors import CheckpointError, DataError, SettingsError
from polyseme.models.batch import Batch, Loss, States
from polyseme.models.heads import MaskedLMHead
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.models.transformer.used_rows import UsedRows
from polyseme.records import nearest
from polyseme.tasks.classification import Classification
from polyseme.tasks.labelled_texts import LabelledText
from polyseme.tasks.on_backbone import OnBackbone
from polyseme.tasks.settings import ClassificationSettings, FinetuneSettings
from polyseme.tasks.task import Inventory, Row, Task, TaskModule
from polyseme.tasks.ways.full import Full
from polyseme.tasks.ways.settings import PATTERNS, FillingSettings
from polyseme.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from polyseme.tasks.preparation import Preparation

_HEAD = "masked-lm"
_PLACES = re.compile(r"(\{text\}|\{pair\}|\{blank\})")
_WITH_BLANKS = ("bpe", "byte-bpe", "unigram")
"""Vocabularies that spell the blank before a word as a part of the word."""


class BlankClassifier(OnBackbone):
    """The scores of the labels' words where the blank is; a word of several tokens has their sum, which is
    its log probability but for a term that all labels share."""

    def __init__(
        self,
        backbone: Transformer,
        head: MaskedLMHead,
        words: NDArray[np.int64],
        *,
        mask_id: int,
        smoothing: float,
    ) -> None:
        super().__init__(backbone, head)
        self.words: Tensor
        self.weights: Tensor | None
        self.register_buffer("words", torch.from_numpy(words), persistent=False)  # [labels, blanks]
        self.register_buffer("weights", None, persistent=False)
        self._mask_id, self._smoothing = mask_id, smoothing
        # Of the backbone's own table: what answers may stand on a compiled one, which has none.
        self._table = (backbone.embeddings.tokens,)

    def weigh(self, weights: Tensor) -> None:
        """Let each class count by its weight from now on: `[labels]`."""
        self.weights = weights

    def loss(self, states: States, batch: Batch) -> Loss:
        """The mean loss of the batch's rows, over the labels' words alone."""
        assert batch.labels is not None
        scores = self.outputs(states, batch)
        own = F.cross_entropy(scores, batch.labels, self.weights, label_smoothing=self._smoothing)
        return Loss(own, {"classification": own.detach()}, len(batch.labels))

    def outputs(self, states: States, batch: Batch) -> Tensor:
        """`[batch, labels]`"""
        blanks = states.last[batch.input_ids == self._mask_id]
        assert isinstance(self.head, MaskedLMHead)
        transformed = self.head.transform(blanks)
        transformed = transformed.view(len(batch.input_ids), -1, transformed.size(-1))  # [batch, blanks, …]
        table, words = self._table[0], self.words.to(self._table[0].weight.device)
        rows = table.weight[table.numbers[words] if isinstance(table, UsedRows) else words]
        rows = rows.to(transformed)  # [labels, blanks, embedding_size]
        scores = torch.einsum("bne,lne->bl", transformed, rows) + self.head.bias[self.words].sum(dim=1)
        return scores.float()


class BlankClassification(Classification):
    """Classification whose rows are a pattern around the text, and whose head is that of masked tokens."""

    head_name = _HEAD

    def __init__(
        self, settings: ClassificationSettings, filling: FillingSettings, tokenizer: Tokenizer
    ) -> None:
        super().__init__(settings)
        self.filling, self.tokenizer = filling, tokenizer
        self.carries = tokenizer.kind in _WITH_BLANKS
        parts = [part for part in _PLACES.split(filling.written or "") if part]
        before = parts.index("{blank}") - 1
        self.spaced = self.carries and before >= 0 and parts[before].endswith(" ")
        if self.spaced:
            parts[before] = parts[before].removesuffix(" ")
        self.parts = parts
        self._words: dict[tuple[str, ...], NDArray[np.int64]] = {}

    def words(self, inventory: Inventory) -> NDArray[np.int64]:
        """The tokens of each label's word: `[labels, blanks]`."""
        if inventory.labels not in self._words:
            self._words[inventory.labels] = self._tokens(inventory.labels)
        return self._words[inventory.labels]

    def encode(
        self, example: LabelledText, tokenizer: Tokenizer, inventory: Inventory, *, max_length: int
    ) -> list[Row]:
        """The pattern with the example in it; what is too long is cut from the example, its longer text
        first."""
        if ("{pair}" in self.parts) != (example.pair is not None):
            given = "a pair" if example.pair is not None else "a single text"
            raise DataError(
                f"{example.where}: this is {given}, which the pattern {self.filling.written!r} is not for"
            )
        blank = np.full(self.words(inventory).shape[1], tokenizer.mask_id, dtype=np.int32)
        given_texts = {"{text}": example.text, "{pair}": example.pair or ""}
        ids = dict(
            zip(self.parts, tokenizer.encode_batch([given_texts.get(p, p) for p in self.parts]), strict=True)
        )
        ids["{blank}"] = blank
        room = max_length - tokenizer.frame.size
        room -= sum(len(ids[part]) for part in self.parts if part not in given_texts)
        if room < 1:
            raise SettingsError(
                f"the pattern {self.filling.written!r} leaves no room for a text in {max_length} tokens"
            )
        first, second = ids["{text}"], ids.get("{pair}", blank[:0])
        keep = max(room - len(second), min(len(first), (room + 1) // 2))
        keep_pair = max(room - len(first), min(len(second), room // 2))
        cut = max(len(first) - keep, 0) + max(len(second) - keep_pair, 0)
        ids |= {"{text}": first[:keep], "{pair}": second[:keep_pair]}
        row = tokenizer.framed(np.concatenate([ids[part] for part in self.parts]).astype(np.int32))
        return [Row(row, tokenizer.frame.segments(len(row)), self._label(example, inventory), cut)]

    def reading(self, config: TransformerConfig, format: Format) -> dict[str, Any]:
        """The head reads single tokens."""
        return {}

    def build(  # type: ignore[override]
        self,
        backbone: Transformer,
        inventory: Inventory,
        *,
        reading: Mapping[str, Any],
        head: nn.Module | None = None,
    ) -> BlankClassifier:
        """The network with the given head, or with a fresh one from torch's global generator."""
        head = head or MaskedLMHead(backbone.config)
        assert isinstance(head, MaskedLMHead)
        return BlankClassifier(
            backbone,
            head,
            self.words(inventory),
            mask_id=self.tokenizer.mask_id,
            smoothing=self.settings.label_smoothing,
        )

    def _tokens(self, labels: tuple[str, ...]) -> NDArray[np.int64]:
        given = dict(entry.split("=", 1) for entry in self.filling.label_words)
        if unknown := set(given) - set(labels):
            name = min(unknown)
            raise SettingsError(f"label_words names {name!r}, which is no label{nearest(name, list(labels))}")
        words = [given.get(label, label) for label in labels]
        tokens = self.tokenizer.encode_batch([" " + word if self.spaced else word for word in words])
        for word, of_word in zip(words, tokens, strict=True):
            if not len(of_word) or self.tokenizer.unknown_id in of_word:
                raise SettingsError(
                    f"the model does not know the word {word!r}; choose another with label_words"
                )
        if len({len(of_word) for of_word in tokens}) > 1 or len(
            {of_word.tobytes() for of_word in tokens}
        ) < len(labels):
            counts = ", ".join(f"{word} {len(of_word)}" for word, of_word in zip(words, tokens, strict=True))
            raise SettingsError(
                f"the labels' words must differ and have equally many tokens, and they have: {counts}; "
                "give them with label_words LABEL=WORD"
            )
        return np.stack(tokens).astype(np.int64)


class Filling(Full):
    """The head of pre-training answers, so nothing begins at random and a few examples go a long way."""

    heads = (_HEAD,)
    may_rest = False

    def __init__(self, settings: FinetuneSettings) -> None:
        super().__init__(settings)
        if settings.filling.pattern is None:
            raise SettingsError(
                "filling a blank needs a pattern: write one with {text} and {blank}, or name one of "
                f"{', '.join(PATTERNS)}"
            )

    def load(self, model: str | Path) -> Model:
        """The model with its head; one without is refused."""
        try:
            return super().load(model)
        except CheckpointError as error:
            raise SettingsError(
                f"filling a blank needs the masked-LM head of pre-training: {error}"
            ) from error

    def task(self, task: Task[Any, Any], base: Model) -> Task[Any, Any]:
        """The same classification with a blank in each text."""
        if not isinstance(task, Classification) or task.settings.several:
            raise SettingsError(
                f"a blank is filled by one label of a text, and {task.name} answers otherwise; "
                "choose another way"
            )
        if task.settings.long_texts == "windows" or task.settings.lm_weight:
            raise SettingsError("filling a blank knows no windows and no lm_weight; leave them out")
        if _HEAD not in base.heads or not isinstance(base.heads[_HEAD], MaskedLMHead):
            raise SettingsError(
                "filling a blank needs the masked-LM head of pre-training; this model has none"
            )
        assert base.tokenizer is not None
        return BlankClassification(task.settings, self.settings.filling, base.tokenizer)

    def reading(self, task: Task[Any, Any], base: Model) -> dict[str, Any]:
        """Nothing: the head is there."""
        return {}

    def other_ids(self, shared: Preparation) -> Sequence[int] | None:
        """The labels' words, which the blank is compared with."""
        task = shared.task
        assert isinstance(task, BlankClassification)
        words: list[int] = task.words(shared.inventory).ravel().tolist()
        return None if super().other_ids(shared) is None else words

    def module(self, shared: Preparation) -> TaskModule:
        """The network with the head that it was pre-trained with; with `fresh`, with a fresh one."""
        head = None if self.settings.fresh else copy.deepcopy(shared.base.heads[_HEAD])
        return shared.task.build(shared.backbone(), shared.inventory, reading={}, head=head)

    def stored_heads(self, head_name: str) -> list[str]:
        """That of masked tokens."""
        return [_HEAD]
