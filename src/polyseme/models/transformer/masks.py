"""Who sees whom: one mask for all layers, and none where nothing is hidden."""

from torch import Tensor

from polyseme.models.batch import Batch


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
