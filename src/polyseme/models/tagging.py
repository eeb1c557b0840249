"""What stands on a backbone to tag words: every token's state to one score a tag."""

from torch import Tensor, nn

from polyseme.models.heads import TRANSFORMS
from polyseme.models.initialising import initialise
from polyseme.models.transformer.config import TransformerConfig


class TokenClassificationHead(nn.Module):
    """Every token's state to one score a class (Devlin et al. 2018, section 5.3).

    `transform` and `dropout` as for `ClassificationHead`, for the families that have them here.
    """

    def __init__(
        self,
        config: TransformerConfig,
        num_labels: int,
        transform: str = "none",
        *,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.transform = TRANSFORMS[transform](config)
        self.dropout = nn.Dropout(config.dropout if dropout is None else dropout)
        self.dense = nn.Linear(config.hidden_size, num_labels)
        initialise(self, config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[batch, length, hidden_size]` to `[batch, length, num_labels]`."""
        logits: Tensor = self.dense(self.dropout(self.transform(hidden_states)))
        return logits
