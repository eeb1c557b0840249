"""Classification: a text, or a pair of texts, gets one label of several, or any number of them."""

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
from polyseme.errors import DataError, SettingsError
from polyseme.models.batch import Batch, Loss, States
from polyseme.models.heads import ClassificationHead
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.tasks.auxiliary_lm import BESIDE
from polyseme.tasks.label_values import known_label, merged_numbers, refuse_doubtful
from polyseme.tasks.labelled_texts import LabelledText, example_of, read_labelled, texts_by_name
from polyseme.tasks.metrics import accuracy, by_label, confusion, macro_f1, matthews, micro_f1
from polyseme.tasks.on_backbone import OnBackbone
from polyseme.tasks.predictions import ClassificationPrediction
from polyseme.tasks.settings import ClassificationSettings
from polyseme.tasks.task import Inventory, Row
from polyseme.tasks.text_rows import chosen_pooling, text_rows
from polyseme.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Labelling:
    """One answer."""

    labels: tuple[str, ...]
    probabilities: dict[str, float]


class Classification:
    """The task; a `Task` of `LabelledText` and `Labelling`.

    >>> task = Classification(ClassificationSettings(text_column="review"))
    >>> task.metrics
    ('accuracy', 'macro_f1', 'matthews')
    """

    name = "classification"
    head_name = "classification"
    settings_kind = ClassificationSettings
    inventory_kind = Inventory

    def __init__(self, settings: ClassificationSettings | None = None) -> None:
        self.settings = settings or ClassificationSettings()
        self.problem: Literal["single", "multi"] = "multi" if self.settings.several else "single"
        self.metrics = (
            ("micro_f1", "macro_f1", "accuracy")
            if self.settings.several
            else ("accuracy", "macro_f1", "matthews")
        )

    def read(self, path: Path, *, labelled: bool) -> Iterator[LabelledText]:
        """The examples of a TSV, CSV or JSON-lines file, in order."""
        return read_labelled(path, self.settings, labelled=labelled)

    def fit(self, examples: Iterable[LabelledText]) -> Inventory:
        """The labels in order: by number where all are numbers, else by spelling."""
        all_labels = [example.labels or () for example in examples]
        counts = Counter(label for of_text in all_labels for label in of_text)
        refuse_doubtful(counts, self.settings.skip_label)
        labels = merged_numbers(counts)
        if len(labels) < (1 if self.settings.several else 2):
            raise DataError(
                f"the {len(all_labels)} training texts have only the labels {sorted(labels)}; "
                "a classifier needs at least two"
            )
        many, all_differ = len(labels) > max(20, len(all_labels) / 2), len(labels) == len(all_labels) > 8
        if not self.settings.several and (many or all_differ):
            raise DataError(
                f"the {len(all_labels)} training texts have {len(labels)} different labels, such as "
                f"{min(labels)[:20]!r}; name the right column with --label-column, or use --label-first"
            )
        numbers = all(label.removeprefix("-").isdecimal() for label in labels)
        return Inventory(labels=tuple(sorted(labels, key=int if numbers else None)))

    def stratum(self, example: LabelledText) -> object:
        """Its labels."""
        return example.labels

    def encode(
        self, example: LabelledText, tokenizer: Tokenizer, inventory: Inventory, *, max_length: int
    ) -> list[Row]:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP], of which the longer text is cut first."""
        return text_rows(
            example.text,
            example.pair,
            self._label(example, inventory),
            tokenizer,
            max_length=max_length,
            by_windows=self.settings.long_texts == "windows",
        )

    def reading(self, config: TransformerConfig, format: Format) -> dict[str, Any]:
        """The chosen pooling, or the folder's first; one that the folder cannot say is refused."""
        return {"pooling": chosen_pooling(self.settings.pooling, format.poolings), **format.classifier}

    def build(
        self,
        backbone: Transformer,
        inventory: Inventory,
        *,
        reading: Mapping[str, Any],
        head: nn.Module | None = None,
    ) -> "Classifier":
        """The network with the given head, or with a fresh one from torch's global generator."""
        if self.settings.lm_weight and not backbone.config.attention.causal:
            raise SettingsError(
                f"lm_weight {self.settings.lm_weight} is for models that read from the left, and this one "
                "sees the tokens that it would predict; set it to 0"
            )
        head = head or ClassificationHead(backbone.config, len(inventory.labels), **reading)
        return Classifier(backbone, head, self.settings)

    def decode(
        self,
        outputs: Sequence[NDArray[np.float32]],
        examples: Sequence[LabelledText],
        inventory: Inventory,
    ) -> list[Labelling]:
        """The label with the highest mean score over a text's rows; of several, those above one half."""
        return [self._answer(of_text.mean(axis=0).astype(np.float64), inventory) for of_text in outputs]

    def score(self, answers: Sequence[Labelling], examples: Sequence[LabelledText]) -> dict[str, float]:
        """Accuracy, macro F1 and Matthews' correlation; of several labels micro F1, and accuracy of exact
        sets."""
        given, true = _given_and_true(answers, examples)
        labels = sorted({label for of_text in (*given, *true) for label in of_text})
        scores = {
            "accuracy": accuracy([set(g) for g in given], [set(t) for t in true]),
            "macro_f1": macro_f1(given, true, labels),
            "micro_f1": micro_f1(given, true, labels),
        }
        if not self.settings.several:
            counts = confusion([g for (g,) in given], [t for (t,) in true], labels)
            scores["matthews"] = matthews(counts)
        return {name: scores[name] for name in self.metrics}

    def report(
        self, answers: Sequence[Labelling], examples: Sequence[LabelledText], inventory: Inventory
    ) -> dict[str, Any]:
        """The scores, precision, recall and F1 of each label, and of single labels the confusion."""
        given, true = _given_and_true(answers, examples)
        report: dict[str, Any] = {
            "examples": len(examples),
            **self.score(answers, examples),
            "labels": {
                label: score._asdict() for label, score in by_label(given, true, inventory.labels).items()
            },
        }
        if not self.settings.several:
            counts = confusion([g for (g,) in given], [t for (t,) in true], inventory.labels)
            report["confusion"] = {"labels": list(inventory.labels), "counts": counts.tolist()}
        return report

    def write(self, answer: Labelling) -> dict[str, Any]:
        """`label`, or `labels` where there may be several, and the probability of each."""
        said = {"labels": list(answer.labels)} if self.settings.several else {"label": answer.labels[0]}
        return {**said, "probabilities": answer.probabilities}

    def example(self, given: Any, *, where: str) -> LabelledText:
        """From a text, or a pair of texts."""
        return example_of(given, where)

    def prediction(self, answer: Labelling) -> ClassificationPrediction:
        """The label, or the labels, and the probability of each."""
        label = None if self.settings.several else answer.labels[0]
        return ClassificationPrediction(label, answer.labels, answer.probabilities)

    def inputs(self, example: LabelledText) -> Mapping[str, Any]:
        """The columns of its row, or text and pair."""
        return example.cells or texts_by_name(example.text, example.pair)

    def _label(self, example: LabelledText, inventory: Inventory) -> NDArray[Any] | None:
        if example.labels is None:
            return None
        labels = [known_label(label, inventory.labels) for label in example.labels]
        for label in labels:
            if label not in inventory.labels:
                known = ", ".join(inventory.labels[:20]) + (" …" if len(inventory.labels) > 20 else "")
                skip = f"; --skip-label {label} leaves such examples out" if label in ("-", "-1") else ""
                raise DataError(
                    f"{example.where}: the label {label!r} is unknown; the model knows {known}{skip}"
                )
        if self.settings.several:
            return np.array([label in labels for label in inventory.labels], dtype=np.float32)
        return np.array(inventory.labels.index(labels[0]), dtype=np.int64)

    def _answer(self, scores: NDArray[np.float64], inventory: Inventory) -> Labelling:
        if self.settings.several:
            chances = 1 / (1 + np.exp(-scores))
            chosen = tuple(name for name, p in zip(inventory.labels, chances, strict=True) if p > 0.5)
        else:
            chances = np.exp(scores - scores.max())
            chances /= chances.sum()
            chosen = (inventory.labels[int(scores.argmax())],)
        return Labelling(chosen, dict(zip(inventory.labels, chances.tolist(), strict=True)))


class Classifier(OnBackbone):
    """A backbone with a classification head."""

    def __init__(self, backbone: Transformer, head: nn.Module, settings: ClassificationSettings) -> None:
        super().__init__(backbone, head)
        self._loss = LOSSES[settings.several]
        self._smoothing = settings.label_smoothing
        self.only_head_reads = not settings.lm_weight
        self._beside = BESIDE[settings.lm_weight > 0](settings.lm_weight)
        self.weights: Tensor | None
        self.register_buffer("weights", None, persistent=False)

    def weigh(self, weights: Tensor) -> None:
        """Let each class count by its weight from now on: `[labels]`."""
        self.weights = weights

    def loss(self, states: States, batch: Batch) -> Loss:
        """The mean loss of the batch's rows, and what is learned beside it."""
        assert batch.labels is not None
        own = self._loss(self.outputs(states, batch), batch.labels, self._smoothing, self.weights)
        total, parts = self._beside(own, self.backbone, states, batch)
        return Loss(total, {"classification": own.detach(), **parts}, len(batch.labels))

    def outputs(self, states: States, batch: Batch) -> Tensor:
        """`[batch, labels]`, before any softmax."""
        logits: Tensor = self.head(states, batch.attention_mask)
        return logits.float()


def _one_label(logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None) -> Tensor:
    return F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)


def _several_labels(logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels * (1 - smoothing) + smoothing / 2, weights)


LOSSES = {False: _one_label, True: _several_labels}
"""By whether a text may have several labels."""


def _given_and_true(
    answers: Sequence[Labelling], examples: Sequence[LabelledText]
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    true = [
        tuple(known_label(label, answer.probabilities) for label in example.labels or ())
        for answer, example in zip(answers, examples, strict=True)
    ]
    return [answer.labels for answer in answers], true
