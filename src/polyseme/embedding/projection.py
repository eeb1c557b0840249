"""What an embedding model computes behind its pooling, made ready for inference."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from polyseme.models.projection import Dense
from polyseme.runtime.linears import linear
from polyseme.runtime.states import plain

Vectors = NDArray[np.float32]
Step = Callable[[Vectors], Vectors]


def steps_of(modules: Sequence[nn.Module]) -> list[Step]:
    """The modules as functions of vectors: never in less than float32, as single digits are compared here."""
    return [_dense(module) if isinstance(module, Dense) else unit_length for module in modules]


def unit_length(vectors: Vectors) -> Vectors:
    """Vectors scaled to length 1; one of zeros stays."""
    scaled: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return scaled


def size_after(modules: Sequence[nn.Module], size: int) -> int:
    """Dimensions behind the modules."""
    for module in modules:
        size = module.linear.out_features if isinstance(module, Dense) else size
    return size


def _dense(module: Dense) -> Step:
    # The runtime's linear gives a text the same bits alone and in any batch.
    bias = module.linear.bias
    product = linear(module.linear.weight.detach(), None if bias is None else bias.detach(), precision="fp32")

    def project(vectors: Vectors) -> Vectors:
        with torch.inference_mode():
            states = plain(product(torch.from_numpy(np.ascontiguousarray(vectors))))
            projected: Vectors = module.activation(states).numpy()
        return projected

    return project
