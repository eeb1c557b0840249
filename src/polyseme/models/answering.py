"""Heads that find answers: a span of a text, or one of several choices."""

from torch import Tensor, nn

from polyseme.models.batch import States
from polyseme.models.heads import TRANSFORMS, ClassificationHead
from polyseme.models.initialising import initialise
from polyseme.models.transformer.config import TransformerConfig


class QuestionAnsweringHead(nn.Module):
    """Every token's state to two scores: that an answer begins there, and that one ends there.

    Devlin et al. 2018, section 4.2. `transform` and `dropout` as for `ClassificationHead`, for the families
    that have them here.
    """

    def __init__(
        self, config: TransformerConfig, transform: str = "none", *, dropout: float | None = None
    ) -> None:
        super().__init__()
        self.transform = TRANSFORMS[transform](config)
        self.dropout = nn.Dropout(config.dropout if dropout is None else dropout)
        self.dense = nn.Linear(config.hidden_size, 2)
        initialise(self, config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[batch, length, hidden_size]` to `[batch, length, 2]`."""
        logits: Tensor = self.dense(self.dropout(self.transform(hidden_states)))
        return logits


class MultipleChoiceHead(ClassificationHead):
    """A choice's states, read with what it answers, to one score, to be compared with the other choices'."""

    def __init__(
        self,
        config: TransformerConfig,
        pooling: str,
        transform: str = "none",
        *,
        dropout: float | None = None,
    ) -> None:
        super().__init__(config, 1, pooling, transform, dropout=dropout)

    def forward(self, states: States, attention_mask: Tensor | None) -> Tensor:
        """`[batch]`"""
        return super().forward(states, attention_mask).squeeze(-1)  # [batch, 1] to [batch]
