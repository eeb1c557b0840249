"""Cross-entropy over a vocabulary."""

from torch import Tensor
from torch.nn import functional as F


def sparse_cross_entropy(hidden: Tensor, table: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats of `[predictions, hidden_size]` states against the rows of `table`."""
    return F.cross_entropy(F.linear(hidden, table, bias).float(), labels)
