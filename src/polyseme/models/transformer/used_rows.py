"""A token table of which only the rows that occur are trained; what becomes of the others has a closed form.

All texts of a fine-tuning are known before its first step, and a row whose token never occurs gets no
gradient. Its averages in AdamW stay 0, so a step only multiplies it by 1 − rate · decay: after all steps it
is the row of the beginning times one number, which is the same for all such rows.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHT, DECAY = "embeddings.tokens.weight", "embeddings.tokens.decay"
"""Names in the state of a network whose token table is a `UsedRows`."""


class UsedRows(nn.Module):
    """The rows `ids` of a token table, looked up by the ids of the whole vocabulary.

    Another id is an `IndexError`. `decay` is what the other rows have been multiplied by so far.
    """

    numbers: Tensor
    decay: Tensor

    def __init__(self, table: Tensor, ids: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(table[ids].to("cpu", torch.get_default_dtype(), copy=True))
        numbers = torch.full((len(table),), -1)
        numbers[ids] = torch.arange(len(ids))
        self.register_buffer("numbers", numbers, persistent=False)  # [vocab_size]
        self.register_buffer("decay", torch.ones((), dtype=torch.float64))

    def forward(self, input_ids: Tensor) -> Tensor:
        return F.embedding(self.numbers[input_ids], self.weight)

    def shrink_others(self, *, rate: float, weight_decay: float) -> None:
        """Do to all other rows what one step of AdamW does to a row without gradient."""
        if self.weight.grad is not None:
            self.decay.mul_(1 - rate * weight_decay)


def with_all_rows(
    tensors: Mapping[str, Tensor], table: Tensor, ids: Tensor, *, in_place: bool, prefix: str = ""
) -> dict[str, Tensor]:
    """The state of a network with the whole token table, from one with the rows `ids` of `table`.

    With `in_place` the table itself becomes that of the state, and no second one takes memory.
    """
    others = {name: tensor for name, tensor in tensors.items() if name != prefix + DECAY}
    whole = table.detach().to("cpu", torch.get_default_dtype(), copy=not in_place)
    whole.mul_(float(tensors[prefix + DECAY]))
    whole[ids] = tensors[prefix + WEIGHT].to("cpu")
    return {name: whole if name == prefix + WEIGHT else tensor for name, tensor in others.items()}
