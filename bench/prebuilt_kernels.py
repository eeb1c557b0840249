"""The kernels of a wheel against those that are compiled on the machine that they run on, in turn.

    make wheel
    python bench/prebuilt_kernels.py dist/*.whl
    python bench/prebuilt_kernels.py dist/*.whl --threads 2 --rounds 51

For every level of instructions that the processor has, a network of MiniLM's shape with random weights embeds
16 rows of 80 tokens and one row of 20 in each precision, by the library of the wheel and by one that the
system's compiler makes for the same instructions. In each round the two take turns, beginning with the other
one each time. Printed are the medians of both and the median of the rounds' ratios, above 1 where the wheel's
is slower, and the lowest cosine between their vectors. On a busy machine `--clock cpu` with one thread counts
only the time that the process has.
"""

import argparse
import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.runtime.encoder import CompiledEncoder, Reading, compiled
from polyseme.runtime.gate import lowest_cosine
from polyseme.runtime.native import building, library
from polyseme.runtime.native.prebuilt import LEVELS, Level
from polyseme.runtime.packing import Rows
from polyseme.runtime.states import Precision

OWN_FLAGS = {
    "avx2": ("-mno-avx512f", "-DNO_BYTE_DOT"),
    "avx2-vnni": ("-mno-avx512f",),
    "avx512": ("-mno-avx512vnni", "-mno-avx512bf16"),
    "avx512-vnni": ("-mno-avx512bf16",),
    "avx512-bf16-rounding": ("-DSLOW_BF16_DOT",),
    "avx512-bf16": (),
}
"""What is left out of -march=native to stay within a level."""
SHAPES = {"16 x 80": [80] * 16, "1 x 20": [20]}
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
AT_ONCE = 0.02
"""Seconds of work between two looks at the clock, about."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--levels", nargs="+", choices=[level.name for level in LEVELS])
    options = parser.parse_args()
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=30_522, hidden_size=384, num_layers=options.layers, num_heads=12, intermediate_size=1536
    )
    network = Transformer(config).eval()
    flags = set(building.instructions().split())
    print(f"{options.threads} threads, {options.rounds} rounds, {options.layers} layers; times in ms")
    print("level                 precision  rows      wheel   native   ratio   cosine")
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(options.wheel).extractall(folder)
        for level in LEVELS:
            if level.needs <= flags and level.name in (options.levels or [level.name]):
                libraries = (_of_wheel(Path(folder), level), _of_machine(Path(folder), level))
                _compare(
                    level.name,
                    libraries,
                    network,
                    threads=options.threads,
                    rounds=options.rounds,
                    clock=CLOCKS[options.clock],
                )


def _of_wheel(folder: Path, level: Level) -> library.Library:
    (path,) = folder.rglob(level.file.name)
    return library.Library(str(path))


def _of_machine(folder: Path, level: Level) -> library.Library:
    flags = (*building.FLAGS, "-march=native", *OWN_FLAGS[level.name])
    path = folder / f"native-{level.name}.so"
    return library.Library(str(building.compiled(building.compilers(os.environ), flags, path)))


def _compare(
    name: str,
    libraries: tuple[library.Library, library.Library],
    network: Transformer,
    *,
    threads: int,
    rounds: int,
    clock: Callable[[], float],
) -> None:
    for precision in PRECISIONS:
        encoders = [_encoder(of, network, precision, threads) for of in libraries]
        for shape, lengths in SHAPES.items():
            rng = np.random.default_rng(0)
            rows = Rows.of([rng.integers(1000, 30_000, size=length).astype(np.int32) for length in lengths])
            reading = Reading((network.config.num_layers,), pooling="mean")
            cosine = lowest_cosine(*(one.vectors(rows, reading) for one in encoders))
            work = [partial(one.vectors, rows, reading) for one in encoders]
            wheel, native, ratio = _in_turn(work, rounds, clock)
            times = f"{wheel * 1e3:7.2f}  {native * 1e3:7.2f}  {ratio:6.3f}"
            print(f"{name:21} {precision:10} {shape:8} {times}  {cosine:.6f}", flush=True)


def _encoder(
    of: library.Library, network: Transformer, precision: Precision, threads: int
) -> CompiledEncoder:
    with mock.patch.object(library, "_loaded", return_value=of):
        return compiled(network, precision=precision, threads=threads)


def _in_turn(
    work: list[Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> tuple[float, float, float]:
    """Median seconds of each, and the median of the rounds' ratios."""
    began = clock()
    work[0]()
    times = max(1, round(AT_ONCE / (clock() - began)))
    found: list[tuple[float, float]] = []
    for number in range(rounds):
        seconds = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            began = clock()
            for _ in range(times):
                work[which]()
            seconds[which] = (clock() - began) / times
        found.append((seconds[0], seconds[1]))
    wheel, native = (statistics.median(both) for both in zip(*found, strict=True))
    return wheel, native, statistics.median(one / other for one, other in found)


if __name__ == "__main__":
    main()
