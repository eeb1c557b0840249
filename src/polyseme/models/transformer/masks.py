"""Who sees whom: one mask for all layers of a kind, and none where nothing is hidden."""

import torch
from torch import Tensor, nn

from polyseme.models.batch import Batch
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.positions import BIASES, TURNS, Turn


class View(nn.Module):
    """What the layers of one kind, global or local, share in a batch: who sees whom, and the turn.

    Who sees whom is true or false, or a number to be added to the scores: −∞ where nothing is seen.
    """

    def __init__(self, config: TransformerConfig, *, local: bool) -> None:
        super().__init__()
        self.turn = TURNS[config.positions](config, local=local)
        self.bias = BIASES[config.positions](config)
        self.causal = config.attention.causal
        self.reach = config.attention.window // 2 if local and config.attention.window else None

    def forward(self, batch: Batch) -> tuple[Tensor | None, Turn]:
        places = torch.arange(batch.input_ids.size(1), device=batch.input_ids.device)
        mask = narrowed(seen(batch), places, reach=self.reach, causal=self.causal)
        return self.bias(mask, places, places), self.turn(len(places), batch.position_ids)


def seen(batch: Batch) -> Tensor | None:
    """True where a query (last but one dimension) may look at a key (last one); None: everywhere.

    `[batch, 1, length, length]` where texts are packed into rows, `[batch, 1, 1, length]` where rows
    are padded. Padding sees padding, and a row of padding only sees all of itself, since attention to
    nothing at all is not a number.
    """
    if batch.document_ids is not None:
        return (batch.document_ids[:, :, None] == batch.document_ids[:, None, :])[:, None]
    if batch.attention_mask is None:
        return None
    real = batch.attention_mask.bool()
    # Asking a GPU would wait for it; there, who knows that nothing is padded passes no mask.
    if real.device.type == "cpu" and real.all():
        return None
    return (real | ~real.any(dim=1, keepdim=True))[:, None, None]


def narrowed(mask: Tensor | None, places: Tensor, *, reach: int | None, causal: bool) -> Tensor | None:
    """The mask without the pairs that are further apart than `reach`, or whose key comes later.

    A token always sees itself, so that padding far from any text still has something to attend to.
    """
    if reach is None and not causal:
        return mask
    distance = places[:, None] - places  # [length, length], above 0 where the key comes before
    near = distance >= (0 if causal else -len(places))
    if reach is not None:
        near &= distance.abs() <= reach
    return near if mask is None else (mask & near) | (distance == 0)
