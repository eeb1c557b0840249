"""A network once more, under a changed configuration: its weights copied, and none drawn to be replaced."""

import torch
from torch import Tensor

from polyseme.checkpoints.undrawn import compute_buffers, undrawn
from polyseme.models.initialising import initialise
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Pooler, Transformer
from polyseme.models.transformer.used_rows import DECAY, WEIGHT, UsedRows


def copied(
    backbone: Transformer,
    config: TransformerConfig,
    *,
    share: bool = False,
    used_ids: Tensor | None = None,
) -> tuple[Transformer, frozenset[str]]:
    """The network as `config` has it, on the CPU in float32, and the names of what the model lacks.

    That can only be a pooler, which starts from random values of torch's global generator. With `share` the
    weights are the model's own where no conversion is needed; with `used_ids` the token table has these rows
    only.
    """
    with undrawn():
        copy = build(config)
    if used_ids is not None:
        copy.embeddings.tokens = UsedRows(backbone.embeddings.tokens.weight.detach(), used_ids)
    learned = backbone.state_dict()
    own = (WEIGHT, DECAY) if used_ids is not None else ()
    wanted = {name: tensor for name, tensor in copy.state_dict().items() if name not in own}
    tensors = {
        name: learned[name].to("cpu", tensor.dtype, copy=not share)
        for name, tensor in wanted.items()
        if name in learned
    }
    if lacking := wanted.keys() - tensors.keys():
        assert all(name.startswith("pooler.") for name in lacking)
        with torch.device("cpu"):
            copy.pooler = Pooler(config)
        initialise(copy.pooler, config)
    kept = {name: tensor for name, tensor in copy.state_dict().items() if name in own or name in lacking}
    copy.load_state_dict(tensors | kept, assign=True)
    compute_buffers(copy)
    return copy, frozenset(lacking)
