"""Whether tensors hold NaN or infinity, at the price of reading them once."""

from collections.abc import Mapping

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether every number of the tensor is finite; whole numbers always are."""
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    # NaN and infinities survive in the sum, which is several times as fast as a look at each number. Finite
    # numbers whose sum overflows are looked at one by one.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity, and what it holds; None where all are finite.

    >>> first_not_finite({"weight": torch.ones(2), "bias": torch.tensor([0.0, float("nan")])})
    'bias holds nan'
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            wrong = tensor[~torch.isfinite(tensor)].flatten()[0]
            return f"{name} holds {float(wrong)}"
    return None
