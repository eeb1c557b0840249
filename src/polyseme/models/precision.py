"""The low precision of a mixed run: torch's autocast casts at each reader, and once for all is cheaper."""

import torch
from torch import Tensor


def lowered(states: Tensor) -> Tensor:
    """The states in autocast's precision where it is on for their device, and as they are elsewhere.

    Several products of the same states would each make this copy, and one more for the gradient.
    """
    device = states.device.type
    return states.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else states
