"""What goes into a backbone, what comes out, and what an objective makes of it."""

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

IGNORED = -100
"""The label of a position that is not to be predicted."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch by the field's names; what a model does not need stays None.

    Shapes: `[batch, length]` unless said otherwise. `attention_mask` is true where a token is real.
    `document_ids` numbers the texts packed into one row (from 1; 0 is padding): tokens see their own
    text only. `position_ids` then restart in each text.
    """

    input_ids: Tensor
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None
    document_ids: Tensor | None = None
    decoder_input_ids: Tensor | None = None
    """What a decoder has read before each token that it predicts: `[batch, decoder length]`."""
    decoder_attention_mask: Tensor | None = None
    """True where such a token is real: `[batch, decoder length]`."""
    predicted: Tensor | None = None
    """Flat indices into `batch × length` (of the decoder's rows, where there are some) of the positions to
    predict: `[predictions]`."""
    labels: Tensor | None = None
    """What to predict: `[predictions]` beside `predicted`; at every position `[batch, length]`; of whole
    texts `[batch]` or `[batch, classes]`."""
    lots: Tensor | None = None
    """A number in [0, 1) for each position to predict, where a guess is drawn there: `[predictions]`."""
    order: Tensor | None = None
    """Rank of each token where a row is read in another order than it is written in: a token sees those
    whose rank is not above its own, and one that is predicted only those below."""
    samples: Tensor | None = None
    """The number of each row in its epoch where rows go on from one another: row i does so if this is one
    more than the number of row i of the batch before. `[batch]`"""
    token_labels: Tensor | None = None
    """What to predict at every position beside `labels` of whole texts; `IGNORED` elsewhere."""
    token_hints: Tensor | None = None
    """What is known of every position besides its id, as a number; 0 where nothing is."""
    pair_labels: Tensor | None = None
    """Of a pair of segments (next sentence: 0 follows, 1 random): `[batch]`."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        moved = {
            f.name: tensor.to(device, non_blocking=True)
            for f in fields(self)
            if (tensor := getattr(self, f.name)) is not None
        }
        return replace(self, **moved)


@dataclass(frozen=True, slots=True)
class States:
    """What a backbone returns."""

    last: Tensor
    """`[batch, length, hidden_size]`"""
    layers: tuple[Tensor, ...] = ()
    """With `every_layer`: the embeddings' output first, then each layer's; num_layers + 1 tensors."""
    pooled: Tensor | None = None
    """`[batch, hidden_size]` where the model has a pooler."""
    decoded: Tensor | None = None
    """The decoder's last states, where the batch has something for it: `[batch, decoder length,
    hidden_size]`."""
    decoded_layers: tuple[Tensor, ...] = ()
    """With `every_layer`: what the decoder's first layer reads, then each layer's states."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What the training loop sees: a scalar to descend, its named parts, and what these are means over."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    predictions: int = 0
    """How many predictions the batch held."""
    decisions: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Of choices between few classes: scores `[decisions]` (above 0 says 1) or `[decisions, classes]`, and
    the truth `[decisions]`. Held-out text is also scored by them all together; training does not look."""
