"""Threads that share the products of a single text: the same bytes as one thread alone, whatever happens."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from runtime_paths import computing, needs_kernels
from test_runtime_attention import CHOICES, numbers, starts_of
from test_runtime_encoder import LAYERS, ids_of, network
from torch import Tensor

from polyseme.runtime.attention import attention
from polyseme.runtime.encoder import Reading, compiled
from polyseme.runtime.linears import linear
from polyseme.runtime.native.library import Library
from polyseme.runtime.packing import Rows
from polyseme.runtime.states import Quantised, Ready, making_ready

COMPILED = ("native", "AVX2", "SSE41")


def bytes_of(states: Ready) -> list[Tensor]:
    return [*states] if isinstance(states, Quantised) else [states]


def shared(native: Library, threads: int, work: Any) -> list[Tensor]:
    native.share(threads)
    try:
        return bytes_of(work())
    finally:
        native.share(1)


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("tokens", [1, 10, 150])
def test_products_are_the_same_by_any_number_of_threads(path: str, precision: Any, tokens: int) -> None:
    with computing(path) as native:
        assert native is not None
        weight, bias, states = numbers(330, 96), numbers(330), numbers(tokens, 96, seed=1)
        ready = making_ready(precision, torch.device("cpu"))(
            states if precision == "fp32" else states.bfloat16()
        )
        for makes_ready in (False, True):
            made = linear(weight, bias, precision=precision, activation="gelu", makes_ready=makes_ready)
            alone = bytes_of(made(ready))
            for threads in (2, 3, 40):
                found = shared(native, threads, lambda made=made: made(ready))
                assert all(torch.equal(one, other) for one, other in zip(alone, found, strict=True))


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("choice", ["plain", "causal-window", "rotary", "distances"])
def test_heads_are_the_same_by_any_number_of_threads(path: str, precision: Any, choice: str) -> None:
    lengths = [3, 40, 0, 150]
    product = numbers(sum(lengths), 3 * 3 * 12).to(torch.float32 if precision == "fp32" else torch.bfloat16)
    with computing(path) as native:
        assert native is not None
        made = attention(num_heads=3, head_size=12, scale=0.3, precision=precision, **CHOICES[choice])
        alone = bytes_of(made(product, starts_of(lengths)))
        found = shared(native, 3, lambda: made(product, starts_of(lengths)))
    assert all(torch.equal(one, other) for one, other in zip(alone, found, strict=True))


@needs_kernels
def test_callers_that_come_at_once_do_not_meet() -> None:
    with computing("native") as native:
        assert native is not None
        made, states = linear(numbers(640, 64), None, precision="fp32"), numbers(40, 64, seed=1)
        alone = bytes_of(made(states))[0]

        def ask(_: int) -> bool:
            return torch.equal(shared(native, 3, lambda: made(states))[0], alone)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(ask, range(400)))


@needs_kernels
@pytest.mark.parametrize("name", ["bert", "modernbert", "t5"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_one_text_has_the_same_vector_by_any_number_of_threads(name: str, precision: Any) -> None:
    rows, reading = Rows.of(ids_of([40])), Reading((LAYERS,), pooling="mean")
    one, four = (compiled(network(name), precision=precision, threads=threads) for threads in (1, 4))
    assert np.array_equal(one.vectors(rows, reading), four.vectors(rows, reading))


FORK = """
import os, torch
from polyseme.runtime.linears import linear
from polyseme.runtime.native.library import library
made, states = linear(torch.randn(640, 64), None, precision="fp32"), torch.randn(10, 64)
library().share(3)
before = made(states)
child = os.fork()
if not child:
    os._exit(0 if all(torch.equal(made(states), before) for _ in range(100)) else 3)
print(os.waitpid(child, 0)[1], torch.equal(made(states), before))
"""


@needs_kernels
def test_a_forked_process_has_a_team_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == ["0", "True"], done.stderr
