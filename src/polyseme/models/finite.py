"""Whether tensors hold NaN or infinity, at the price of reading them once."""

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyseme.errors import NotFiniteError

_ADVICE = "the model's weights are damaged, or too large for this precision (try --precision fp32)"


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


def require_finite(numbers: Tensor, *, what: str) -> None:
    """Raise `NotFiniteError` where `numbers` hold NaN or infinity; `what` says what they are."""
    if not is_finite(numbers):
        wrong = numbers[~torch.isfinite(numbers)].flatten()[0]
        raise NotFiniteError(f"{what} hold {float(wrong)}; {_ADVICE}")


def require_finite_rows(rows: NDArray[np.floating], *, what: str) -> None:
    """The same for one row a text; the error knows the number of the first bad one."""
    if not np.isfinite(rows).all():
        number = int(np.argmax(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)))
        wrong = rows[number][~np.isfinite(rows[number])].flat[0]
        raise NotFiniteError(f"{what} holds {float(wrong)}; {_ADVICE}", number=number)


@contextlib.contextmanager
def naming_text(text: str) -> Iterator[None]:
    """Name the text in a `NotFiniteError` of the block."""
    try:
        yield
    except NotFiniteError as error:
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise NotFiniteError(f"text {shown!r}: {error}", number=error.number) from error
