"""How far rounding alone may bring a result from its exact value, in units of the formats it went through.

A bound derived from the formats holds on every processor, whatever the order of its sums. `exact` and
`magnitudes` are float64.
"""

import numpy as np
import torch
from torch import Tensor

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16, "fp16": torch.float16}
"""The type of plain states of each precision."""

GELU_SHORT = 5e-4
"""What the kernels' GELU for results of eight or sixteen bits may be off, by its own description."""
ONE_IN_SIX_DIGITS = 1.01e-5
"""One unit in the last of the six digits of a written prediction, relative to the number, at the most."""
STEEPEST = 1.13
"""The largest slope of any activation (GELU's): by how much it can enlarge an error of what it is given."""


def unit(dtype: torch.dtype) -> float:
    """The largest relative error of one rounding to the nearest number of this format."""
    return torch.finfo(dtype).eps / 2


def rounded(exact: Tensor, dtype: torch.dtype, times: float = 1) -> Tensor:
    """The largest error after so many roundings of these values, one upon the other."""
    return exact.abs().double() * (times * unit(dtype)) + torch.finfo(dtype).tiny


def summed(magnitudes: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The largest error of a sum of `count` numbers in any order; `magnitudes` is the sum of their sizes.

    Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    error = count * unit(dtype)
    return magnitudes.double() * (error / (1 - error))


def through_a_network(theirs: np.ndarray, dtype: torch.dtype = torch.float32, roundings: int = 300) -> float:
    """A bound for states that have passed a small network of a few layers: so many roundings, none enlarged,
    of the largest number that is there. 300 of float32 are 1.8e-5 of it."""
    return roundings * unit(dtype) * max(1.0, float(np.abs(theirs).max(initial=0.0)))
