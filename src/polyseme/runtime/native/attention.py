"""Attention by the compiled kernels: head by head, keys and values packed into panels, scores in cache."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from polyseme.runtime.native.library import TYPES, Library
from polyseme.runtime.states import Quantised, Ready, empty_quantised


class AttentionChoices(NamedTuple):
    """What `attention` was asked for, in its words."""

    num_heads: int
    head_size: int
    scale: float
    causal: bool = False
    reach: int | None = None
    turn: tuple[Tensor, Tensor] | None = None
    distances: Tensor | None = None


class NativeAttention:
    """The choices as the kernel takes them."""

    def __init__(self, native: Library, choices: AttentionChoices, *, makes_quantised: bool) -> None:
        self.native, self.makes_quantised = native, makes_quantised
        self.num_heads, self.head_size, self.scale = choices.num_heads, choices.head_size, choices.scale
        self.causal, self.reach = int(choices.causal), -1 if choices.reach is None else choices.reach
        self.cosines, self.sines = (table(one) for one in choices.turn or (None, None))
        self.most = 0 if choices.distances is None else (choices.distances.size(1) + 1) // 2
        # The kernel reads whole vectors, beyond the last distance too.
        self.distances = None if choices.distances is None else F.pad(choices.distances, (0, native.columns))
        self.distances = table(self.distances)

    def __call__(self, product: Tensor, starts: Tensor) -> Ready:
        product, starts = product.contiguous(), starts.to(torch.int64).contiguous()
        tokens, inner = len(product), self.num_heads * self.head_size
        out, scales, zeros = (
            empty_quantised(tokens, inner)
            if self.makes_quantised
            else (product.new_empty((tokens, inner)), None, None)
        )
        self.native.call(
            "native_attention",
            *(len(starts) - 1, starts, self.num_heads, self.head_size),
            *(product, TYPES[product.dtype], self.scale, self.causal, self.reach),
            *(self.cosines, self.sines, self.distances, self.most),
            *(out, TYPES[out.dtype], scales, zeros),
        )
        return out if scales is None or zeros is None else Quantised(out, scales, zeros)


def table(numbers: Tensor | None) -> Tensor | None:
    """Numbers as the kernel reads them."""
    return None if numbers is None else numbers.detach().float().contiguous()
