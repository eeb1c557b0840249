"""Attention over packed rows: every token gathers from its own row, and nothing is padded.

Three ways behind one call: the compiled kernels on the processor; torch's kernel for rows of any length on
graphics cards that have it; and on any device torch's own attention, over groups of rows of equal length.
"""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from polyseme import progress
from polyseme.runtime.native.attention import AttentionChoices, NativeAttention
from polyseme.runtime.states import PLAIN, Precision, Ready, as_plain, kernels, making_ready, plain

LARGEST_HEAD, HEAD_STEP = 256, 8
"""Heads that torch's kernel for rows of any length reads: at most so many numbers, in whole steps."""

_FEW = 512
"""Tokens of a tile of which the longest row is not looked for."""

Attention = Callable[[Tensor, Tensor], Ready]
"""The product `[tokens, 3 · inner]` of the fused linear, and `starts` `[rows + 1]`, to `[tokens, inner]`."""


def attention(
    *,
    num_heads: int,
    head_size: int,
    scale: float,
    precision: Precision,
    causal: bool = False,
    reach: int | None = None,
    turn: tuple[Tensor, Tensor] | None = None,
    distances: Tensor | None = None,
    device: torch.device | None = None,
) -> Attention:
    """softmax(query · key · scale + bias) · value within each row, heads side by side as they came.

    The product holds all queries, then all keys, then all values, `inner = num_heads · head_size` each.
    `reach`: a token sees those at most so far away on either side. `turn`: cosines and sines of the rotary
    positions, each `[places, head_size / 2]`; number i of a head goes with number i + head_size / 2.
    `distances`: what is added to the scores, `[num_heads, 2 · most − 1]`, where column
    `key − query + most − 1` is for that distance; rows have at most `most` tokens. `starts` is an int64
    tensor in memory of the processor for the native path, and beside the product elsewhere; rows of 0 tokens
    are allowed. The result is ready for the output linear. Safe to call from several threads.
    """
    device = device or torch.device("cpu")
    choices = AttentionChoices(num_heads, head_size, scale, causal, reach, turn, distances)
    native = kernels(device)
    if native is not None:
        return NativeAttention(native, choices, makes_quantised=precision == "int8")
    if VarlenAttention.suits(choices, PLAIN[precision]) and varlen_works(device):
        return VarlenAttention(choices, making_ready(precision, device))
    return PortableAttention(choices, making_ready(precision, device))


class PortableAttention:
    """By torch's own calls, on any device: neighbouring rows of equal length go together."""

    def __init__(self, choices: AttentionChoices, ready: Callable[[Tensor], Ready]) -> None:
        self.num_heads, self.head_size, self.scale = choices.num_heads, choices.head_size, choices.scale
        self.causal, self.reach, self.distances = choices.causal, choices.reach, choices.distances
        self.tables, self.ready = choices.turn, ready

    def __call__(self, product: Tensor, starts: Tensor) -> Ready:
        gathered = product.new_empty((len(product), self.num_heads * self.head_size))
        for begin, rows, length in runs(starts):
            part = product[begin : begin + rows * length]
            split = part.view(rows, length, 3, self.num_heads, self.head_size).permute(2, 0, 3, 1, 4)
            query, key, value = split.unbind()  # each [rows, num_heads, length, head_size]
            query, key = self._turned(query), self._turned(key)
            seen = self._seen(length, product.device)
            mask = None if seen is None else seen.to(query.dtype)
            attended = F.scaled_dot_product_attention(query, key, value, mask, scale=self.scale)
            gathered[begin : begin + rows * length] = attended.transpose(1, 2).reshape(rows * length, -1)
        return self.ready(gathered)

    def _turned(self, states: Tensor) -> Tensor:
        if self.tables is None:
            return states
        return turned(states, *(table[: states.size(-2)] for table in self.tables))

    def _seen(self, length: int, device: torch.device) -> Tensor | None:
        """Numbers to be added to the scores of one length, `[num_heads or 1, length, length]`."""
        if self.distances is None and self.reach is None and not self.causal:
            return None
        places = torch.arange(length, device=device)
        distance = places - places[:, None]  # [queries, keys], above 0 where the key comes after
        hidden = torch.zeros_like(distance, dtype=torch.bool)
        if self.causal:
            hidden |= distance > 0
        if self.reach is not None:
            hidden |= distance.abs() > self.reach
        if self.distances is None:
            bias = torch.zeros((1, length, length), device=device)
        else:
            bias = self.distances.float()[:, distance + self.distances.size(1) // 2]
        return bias.masked_fill(hidden, float("-inf"))


class VarlenAttention:
    """By torch's kernel for rows of any length (Dao 2023, arXiv 2307.08691): one call for a whole tile.

    It reads short floats only and knows no bias by distance.
    """

    def __init__(self, choices: AttentionChoices, ready: Callable[[Tensor], Ready]) -> None:
        self.num_heads, self.head_size, self.scale = choices.num_heads, choices.head_size, choices.scale
        self.tables, self.ready = choices.turn, ready
        reach = -1 if choices.reach is None else choices.reach
        self.window = (reach, 0 if choices.causal else reach)

    @staticmethod
    def suits(choices: AttentionChoices, dtype: torch.dtype) -> bool:
        """Whether the kernel knows what is asked for, wherever it may be."""
        is_readable = choices.head_size <= LARGEST_HEAD and choices.head_size % HEAD_STEP == 0
        return is_readable and dtype.itemsize == 2 and choices.distances is None

    def __call__(self, product: Tensor, starts: Tensor) -> Ready:
        from torch.nn.attention.varlen import varlen_attn

        lengths, edges = starts.diff(), starts.to(torch.int32)
        # The kernel is told a bound. For few tokens it is their number, so that nobody waits for the card.
        longest = len(product) if len(product) <= _FEW else int(lengths.max())
        split = product.view(len(product), 3, self.num_heads, self.head_size)
        query, key, value = split.unbind(dim=1)  # each [tokens, num_heads, head_size]
        if self.tables is not None:
            places = torch.arange(len(product), device=product.device)
            places -= torch.repeat_interleave(starts[:-1], lengths, output_size=len(product))
            angles = [table[places, None] for table in self.tables]
            query, key = turned(query, *angles), turned(key, *angles)
        gathered = varlen_attn(
            query, key, value, edges, edges, longest, longest, scale=self.scale, window_size=self.window
        )
        assert isinstance(gathered, Tensor)
        return self.ready(gathered.flatten(1))


@functools.cache
def varlen_works(device: torch.device) -> bool:
    """Whether torch's kernel for rows of any length is there and answers rightly."""
    if device.type in ("cpu", "meta"):
        return False
    choices, starts = AttentionChoices(1, HEAD_STEP, 0.5), torch.tensor([0, 1, 4], device=device)
    product = torch.linspace(-2, 2, 4 * 3 * HEAD_STEP, device=device).view(4, -1).to(torch.bfloat16)
    try:
        found = plain(VarlenAttention(choices, as_plain)(product, starts))
    except (ImportError, AttributeError, RuntimeError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        progress.warn(f"attention over rows of any length is not to be had on {device} ({reason})")
        return False
    apart = float((found - plain(PortableAttention(choices, as_plain)(product, starts))).abs().max())
    if apart > 0.05:
        progress.warn(f"attention over rows of any length is wrong by {apart:.2g} on {device} and not used")
    return apart <= 0.05


def turned(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Number i of a head goes with number i + head_size / 2: a pair as a complex number, times its angle's.

    In float32, since the angles' cosines would lose half of their digits in a shorter float.
    """
    left, right = states.float().chunk(2, dim=-1)
    found = torch.cat((left * cosines - right * sines, right * cosines + left * sines), dim=-1)
    return found.to(states.dtype)


def runs(starts: Tensor) -> Iterator[tuple[int, int, int]]:
    """Neighbouring rows of equal length: first token, number of rows, their length; no empty ones."""
    lengths, counts = torch.unique_consecutive(starts.diff(), return_counts=True)
    begin = 0
    for length, rows in zip(lengths.tolist(), counts.tolist(), strict=True):
        if length:
            yield begin, rows, length
        begin += rows * length
