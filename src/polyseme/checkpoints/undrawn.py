"""Modules without memory and without random numbers, for weights that a file will fill."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DRAWS = {nn.init.normal_, nn.init.trunc_normal_, nn.init.uniform_, nn.init.kaiming_uniform_}


class _NothingDrawn(TorchFunctionMode):
    """Weights that exist as shapes only are drawn from nothing.

    torch would do so by its Python forms of the draws, and load its compiler for them: seconds, at the
    start of every command.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Inside the block modules have shapes only."""
    with torch.device("meta"), _NothingDrawn():
        yield


def compute_buffers(module: nn.Module) -> None:
    """Compute again, with memory, the tables that follow from the configuration and are not stored."""
    for part in module.modules():
        if any(getattr(part, name).is_meta for name in part._non_persistent_buffers_set):
            part.compute_buffers()  # type: ignore[operator]
