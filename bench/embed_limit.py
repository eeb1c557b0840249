"""The matmul-only limit of the machine for bench/embed.py: a model's linear layers alone, on as many tokens.

No attention, norm, activation, residual, padding or tokenizer: query, key and value in one product, the
output of attention, and both halves of the feed-forward part, layer after layer, over tiles of tokens. Of
what the installed torch offers (MKL or oneDNN as `linear` picks, oneDNN with prepacked weights, its
quantised product), of several sizes of tile, and of threads inside a product or a tile a thread, the fastest
counts; int8 is given activations that are quantised already.
"""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from embed_engines import Job, Refused, torch_instructions
from embed_export import read_tokenizer
from torch import Tensor

Product = Callable[[Tensor], Any]
TILES = (128, 512, 2048)


def linear(weight: Tensor, bias: Tensor, tile: int) -> Product:
    return lambda states: torch.nn.functional.linear(states, weight, bias)


def prepacked(weight: Tensor, bias: Tensor, tile: int) -> Product:
    """oneDNN's, with the weights laid out once for this size of tile; private operators of torch."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, tile)
    return lambda states: torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")


def quantised(weight: Tensor, bias: Tensor, tile: int) -> Product:
    """oneDNN's u8 · s8 with a scale a channel, back to fp32."""
    scales = weight.abs().amax(dim=1) / 127  # [outputs]
    whole = (weight / scales[:, None]).round().to(torch.int8)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    packed = torch.ops.onednn.qlinear_prepack(whole, None)
    return lambda states: torch.ops.onednn.qlinear_pointwise(
        states, 0.02, 128, packed, scales, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
    )


PRODUCTS = {"fp32": (linear, prepacked), "bf16": (linear, prepacked), "int8": (quantised,)}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.uint8}


def _seconds(run: Callable[[int], None]) -> float:
    begin = time.perf_counter()
    run(max(TILES))
    return time.perf_counter() - begin


class Limit:
    """The products of one model in one precision."""

    def __init__(self, job: Job) -> None:
        config = json.loads((job.folder / "config.json").read_text())
        size, inner = config["hidden_size"], config["intermediate_size"]
        self.layers = config["num_hidden_layers"]
        self.shapes = [(3 * size, size), (size, size), (inner, size), (size, inner)]
        self.job, self.tokenizer = job, read_tokenizer(job.folder)
        self.dtype = TYPES[job.precision]
        self.run: Callable[[int], None] = lambda tokens: None
        self.setting = ""

    def choose(self, texts: Sequence[str]) -> str:
        self.tokens = sum(len(encoding.ids) for encoding in self.tokenizer.encode_batch(list(texts)))
        if not self.setting:  # what is fastest depends on the model, not on the profile
            self._compare()
        return self.setting

    def _compare(self) -> None:
        """Try one after another, so that only one more set of weights is in memory at a time."""
        least, reasons = float("inf"), []
        ways = sorted({1, self.job.threads})
        for product, tile, callers in itertools.product(PRODUCTS[self.job.precision], TILES, ways):
            try:
                run = self._build(product, tile, callers)
                seconds = min(_seconds(run), _seconds(run))
            except (RuntimeError, AttributeError) as error:
                reasons.append(str(error).splitlines()[0])
                continue
            if seconds < least:
                least, self.run = seconds, run
                self.setting = f"{product.__name__}, {tile} tokens, {callers} at a time"
        if not self.setting:
            raise Refused(f"torch has no such product here: {reasons[0]}")

    def _build(self, product: Any, tile: int, callers: int) -> Callable[[int], None]:
        layers = [
            [self._product(product, shape, tile) for shape in self.shapes] for _ in range(self.layers)
        ]  # every layer with weights of its own, which must come through the caches as in a model
        inputs = [self._states(tile, shape[1]) for shape in self.shapes]
        pool = ThreadPoolExecutor(callers)

        def one(size: int) -> None:
            torch.set_num_threads(self.job.threads // callers)
            with torch.inference_mode():
                for layer in layers:
                    for multiply, states in zip(layer, inputs, strict=True):
                        multiply(states[:size])

        def run(tokens: int) -> None:
            whole, rest = divmod(tokens, tile)
            list(pool.map(one, [tile] * whole + [rest] * (rest > 0)))

        return run

    def _product(self, product: Any, shape: tuple[int, int], tile: int) -> Product:
        weight, bias = torch.randn(shape) * 0.02, torch.zeros(shape[0])
        if self.job.precision == "bf16":
            weight, bias = weight.bfloat16(), bias.bfloat16()
        made: Product = product(weight, bias, tile)
        return made

    def _states(self, tile: int, width: int) -> Tensor:
        if self.dtype == torch.uint8:
            return torch.randint(0, 256, (tile, width), dtype=torch.uint8)
        return torch.randn(tile, width).to(self.dtype)

    def encode(self, texts: Sequence[str]) -> None:
        self.run(self.tokens)

    def instructions(self) -> str:
        return torch_instructions()
