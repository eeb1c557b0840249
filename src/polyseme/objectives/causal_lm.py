"""Causal language model: every token is predicted from those before it.

Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 3.1; documents
one after another in full rows: section 4.1 and Radford et al. 2019, section 2.
"""

from dataclasses import dataclass

import numpy as np
import torch.nn as nn
from torch import Tensor

from polyseme.models.batch import IGNORED, Batch, Loss, States
from polyseme.models.cross_entropy import sparse_cross_entropy
from polyseme.models.heads import CausalLMHead
from polyseme.models.transformer.config import TransformerConfig
from polyseme.objectives.contiguous import plan_contiguous
from polyseme.objectives.contract import Objective
from polyseme.objectives.rows import Arrays, Rows
from polyseme.objectives.samples import Integers, Samples
from polyseme.records import Record
from polyseme.seeding import RowGenerator
from polyseme.text.store import Store


class CausalLMSettings(Record, frozen=True, kw_only=True):
    """What a token may see of its row."""

    separate: bool = False
    """Whether a token sees its own document only; else all that stands before it, as in GPT-2."""
    weight: float = 1.0
    """Of this loss in the sum."""


@dataclass(frozen=True)
class NextTokens:
    """The loader's half: rows of contiguous text, and for every token the one after it."""

    settings: CausalLMSettings

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """Rows that are all full but the last."""
        return plan_contiguous(store, documents, length=length, seed=seed, epoch=epoch)

    def chance_epoch(self, epoch: int) -> int:
        """Each epoch shuffles the documents anew."""
        return epoch

    def __call__(self, rows: Rows, rng: RowGenerator) -> Arrays:
        """The rows without their last token, and `labels` without their first: `[batch, length - 1]`."""
        asked = rows.attention_mask[:, 1:]
        arrays: Arrays = {"input_ids": rows.input_ids[:, :-1]}
        if not rows.attention_mask.all():
            arrays["attention_mask"] = rows.attention_mask[:, :-1]
        if self.settings.separate:
            # Nothing tells of a document's first token: who comes before it may not be seen.
            asked = asked & (rows.spans[:, 1:] == rows.spans[:, :-1])
            arrays["document_ids"] = ((rows.spans + 1) * rows.attention_mask)[:, :-1]
        return arrays | {"labels": np.where(asked, rows.input_ids[:, 1:], IGNORED)}


class CausalLM(Objective):
    """The device's half: every position asks the vocabulary."""

    Settings = CausalLMSettings
    vocabulary = "causal-lm"

    def __init__(self, settings: CausalLMSettings, config: TransformerConfig, store: Store) -> None:
        super().__init__()
        if not config.attention.causal:
            raise ValueError(
                "causal-lm predicts what a token could see in this network; set attention.causal to true"
            )
        self.corruption = NextTokens(settings)
        self.heads = nn.ModuleDict({"causal-lm": CausalLMHead(config)})
        self.weight = settings.weight

    def loss(self, backbone: nn.Module, states: States, batch: Batch) -> Loss:
        """Mean cross-entropy in nats over the tokens that have one after them."""
        assert batch.labels is not None
        table: Tensor = backbone.embeddings.tokens.weight  # type: ignore[union-attr, assignment]
        loss = next_token_loss(states.last, table, batch.labels)
        return Loss(
            total=loss * self.weight,
            parts={"causal-lm": loss.detach()},
            predictions=int((batch.labels != IGNORED).sum()),
        )


def next_token_loss(hidden_states: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    """The mean over the positions of `[batch, length]` whose label is not `IGNORED`."""
    return sparse_cross_entropy(hidden_states.flatten(0, 1), table, None, labels.flatten())
