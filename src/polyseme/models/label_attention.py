"""Known labels of tokens, looked up by the states: what each state finds among the labels of its text."""

import torch
from torch import Tensor, nn

from polyseme.models.initialising import initialise
from polyseme.models.transformer.config import TransformerConfig

OUTSIDE_LABEL, UNKNOWN_LABEL = 0, 1
"""Of a token without any label, and of one whose label no training text has."""


class LabelAttention(nn.Module):
    """One attention from states to label vectors: softmax((H W_q)(E W_k)ᵀ / √attention_size) E W_v.

    A text none of whose labels is known attends all the same: only padding is masked. In training labels
    are hidden with the rate `dropout`, since those that are there in use come from a tagger or a list that
    misses some; of the rest as many become unknown, so that this vector is learned too.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        num_labels: int,
        label_size: int,
        attention_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.labels = nn.Embedding(num_labels, label_size)
        self.query = nn.Linear(config.hidden_size, attention_size, bias=False)
        self.key = nn.Linear(label_size, attention_size, bias=False)
        self.value = nn.Linear(label_size, config.hidden_size, bias=False)
        self._scale, self._dropout = attention_size**-0.5, dropout
        initialise(self, config)
        nn.init.normal_(self.labels.weight, std=0.02)  # whatever the backbone's own range

    def forward(self, hidden_states: Tensor, label_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """`[batch, length, hidden_size]` states and `[batch, length]` labels to what the states find."""
        vectors = self.labels(self._hidden(label_ids))  # [batch, length, label_size]
        scores = self.query(hidden_states) @ self.key(vectors).transpose(-1, -2) * self._scale
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask.bool()[:, None, :], float("-inf"))
        found: Tensor = scores.softmax(dim=-1) @ self.value(vectors)  # [batch, length, hidden_size]
        return found

    def _hidden(self, label_ids: Tensor) -> Tensor:
        if not self.training or not self._dropout:
            return label_ids
        draw = torch.rand(label_ids.shape, device=label_ids.device)
        labelled = label_ids != OUTSIDE_LABEL
        hidden = label_ids.masked_fill(labelled & (draw < self._dropout), OUTSIDE_LABEL)
        unknown = labelled & (draw >= self._dropout) & (draw < self._dropout * (2 - self._dropout))
        return hidden.masked_fill(unknown, UNKNOWN_LABEL)
