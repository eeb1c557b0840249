"""Recurrent language model: every token is predicted from those before it, also beyond its own row.

Dai et al. 2019, "Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context", section 3; the
adaptive softmax behind it: section 4.1. Rows are segments of streams, and each layer also sees what it has
read in the segments before.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from polyseme.models.adaptive import AdaptiveLMHead
from polyseme.models.batch import Batch, Loss, States
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.memory import Memory, read_on
from polyseme.models.transformer.model import Transformer
from polyseme.objectives.contract import Objective
from polyseme.objectives.rows import Arrays, Rows
from polyseme.objectives.samples import Integers, Samples
from polyseme.objectives.streams import plan_streams
from polyseme.records import Record
from polyseme.seeding import RowGenerator
from polyseme.text.store import Store


class SegmentLMSettings(Record, frozen=True, kw_only=True):
    """How streams are predicted."""

    weight: float = 1.0
    """Of this loss in the sum."""


@dataclass(frozen=True)
class Segments:
    """The loader's half: segments of streams, of which each asks for the token after each of its own."""

    def plan(self, store: Store, documents: Integers, *, length: int, seed: int, epoch: int) -> Samples:
        """Streams in segments of `length` tokens."""
        return plan_streams(store, documents, length=length, seed=seed, epoch=epoch)

    def chance_epoch(self, epoch: int) -> int:
        """New streams in each epoch."""
        return epoch

    def __call__(self, rows: Rows, rng: RowGenerator) -> Arrays:
        """All tokens but the last, `labels` for each that has a token after it, and the rows' numbers."""
        real = rows.attention_mask
        predicted = np.flatnonzero(real[:, 1:])
        arrays: Arrays = {
            "input_ids": rows.input_ids[:, :-1],
            "samples": rows.samples,
            "predicted": predicted,
            "labels": rows.input_ids[:, 1:].reshape(-1)[predicted],
        }
        return arrays if real.all() else arrays | {"attention_mask": real[:, :-1]}


class Kept(nn.Module):
    """What the rows of a batch remember for the next one: a part of the run's state, saved with it."""

    states: Tensor
    samples: Tensor

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("states", torch.zeros(0), persistent=persistent)
        self.register_buffer("samples", torch.zeros(0, dtype=torch.int64), persistent=persistent)

    def behind(self, samples: Tensor) -> Memory:
        """The memory for these rows; none unless all of them go on where the last batch stopped."""
        goes_on = self.samples.shape == samples.shape and torch.equal(self.samples + 1, samples)
        return tuple(self.states) if goes_on else ()

    def keep(self, memory: Memory, samples: Tensor) -> None:
        """Remember this instead."""
        self.states = torch.stack(memory) if memory else self.states[:0]
        self.samples = samples

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A memory has any shape: that of the stored one."""
        for name, buffer in (("states", self.states), ("samples", self.samples)):
            if prefix + name in state:
                setattr(self, name, state[prefix + name].to(buffer.device, copy=True))
        super()._load_from_state_dict(state, prefix, *rest)


class SegmentLM(Objective):
    """The device's half: memory goes from batch to batch, and every position asks the vocabulary.

    The held-out text has a memory of its own, so that looking at it changes nothing in training.
    """

    Settings = SegmentLMSettings
    vocabulary = "adaptive-lm"
    alone = True

    def __init__(self, settings: SegmentLMSettings, config: TransformerConfig, store: Store) -> None:
        super().__init__()
        if config.positions != "relative" or not config.attention.causal:
            raise ValueError(
                "adaptive-lm remembers earlier rows and predicts what comes next; set positions to "
                "'relative' and attention.causal to true in the model"
            )
        self.corruption = Segments()
        self.heads = nn.ModuleDict({"adaptive-lm": AdaptiveLMHead(config)})
        self.kept, self.held_out = Kept(persistent=True), Kept(persistent=False)
        self.weight = settings.weight

    def forward(self, backbone: nn.Module, batch: Batch) -> Loss:
        """The loss of a batch behind what its rows remember."""
        assert isinstance(backbone, Transformer)
        assert batch.samples is not None
        kept = self.kept if self.training else self.held_out
        states, memory = read_on(backbone, batch, kept.behind(batch.samples))
        kept.keep(memory, batch.samples)
        return self.loss(backbone, states, batch)

    def loss(self, backbone: nn.Module, states: States, batch: Batch) -> Loss:
        """Mean cross-entropy in nats over the tokens that have one after them."""
        assert batch.predicted is not None
        assert batch.labels is not None
        head = self.heads["adaptive-lm"]
        assert isinstance(head, AdaptiveLMHead)
        hidden = states.last.flatten(0, 1).index_select(0, batch.predicted)  # [predictions, hidden_size]
        tokens: nn.Module = backbone.embeddings.tokens  # type: ignore[union-attr, assignment]
        loss = head.costs(hidden, batch.labels, tokens).mean()
        return Loss(
            total=loss * self.weight,
            parts={"adaptive-lm": loss.detach()},
            predictions=len(batch.labels),
        )
