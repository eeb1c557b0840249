"""A few tokens are read by one recording of the kernels, and the bytes are those of the usual way."""

import threading
from functools import cache

import numpy as np
import pytest
from runtime_paths import computing, needs_kernels
from test_runtime_encoder import MOST, NETWORKS, ids_of, network

from polyseme.devices import processor
from polyseme.runtime import tapes
from polyseme.runtime.encoder import CompiledEncoder, Reading, compiled
from polyseme.runtime.packing import Rows
from polyseme.runtime.states import Precision

pytestmark = needs_kernels
COMPUTED_OTHERWISE = {"transformer-xl", "xlnet", "clusters of narrow rows"}
"""Attention by relative positions and clusters of rare tokens keep the plain network's own parts."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
LENGTHS = ([1], [10], [MOST], [3, 1, 7], [10], [20, 20, 24], [1] * tapes.MOST)


@cache
def encoder(name: str, precision: Precision = "fp32", threads: int = 1) -> CompiledEncoder:
    return compiled(network(name), precision=precision, threads=threads)


def usual(name: str, precision: Precision, threads: int) -> CompiledEncoder:
    made = compiled(network(name), precision=precision, threads=threads)
    made._replays = None
    return made


def recorded(of: CompiledEncoder) -> list[bool]:
    assert of._replays is not None
    return [one is not None for one in of._replays._recordings.values()]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_recording_gives_the_bytes_of_the_usual_way(name: str, precision: Precision, threads: int) -> None:
    last, other = network(name).config.num_layers, usual(name, precision, threads)
    made = encoder(name, precision, threads)
    for seed, lengths in enumerate(LENGTHS):
        rows = Rows.of(ids_of(lengths, seed=seed))
        for numbers in ((last,), (0, last)):
            ours, theirs = made.states(rows, Reading(numbers)), other.states(rows, Reading(numbers))
            assert ours.tobytes() == theirs.tobytes()
    uses_kernels_only = name not in COMPUTED_OTHERWISE
    assert recorded(made) == [uses_kernels_only] * 2


def test_segments_and_none_are_recordings_apart() -> None:
    ids = ids_of([9, 4])
    kinds = [(np.arange(len(one)) >= 2).astype(np.int32) for one in ids]
    made, other, reading = encoder("bert"), usual("bert", "fp32", 1), Reading((3,), pooling="mean")
    for rows in (Rows.of(ids), Rows.of(ids, kinds), Rows.of(ids)):
        assert made.vectors(rows, reading).tobytes() == other.vectors(rows, reading).tobytes()


def test_more_tokens_than_there_is_room_for_are_read_in_the_usual_way() -> None:
    made, other = compiled(network("bert"), threads=1), usual("bert", "fp32", 1)
    rows, reading = Rows.of(ids_of([MOST, tapes.MOST - MOST + 1])), Reading((3,), pooling="mean")
    assert made.vectors(rows, reading).tobytes() == other.vectors(rows, reading).tobytes()
    assert recorded(made) == []


def test_several_threads_may_ask_at_once() -> None:
    made, reading = compiled(network("bert"), threads=1), Reading((3,), pooling="mean")
    rows = [Rows.of(ids_of([length], seed=length)) for length in range(1, 25)]
    other = usual("bert", "fp32", 1)
    expected = [other.vectors(one, reading).tobytes() for one in rows]
    wrong: list[int] = []

    def ask(order: list[int]) -> None:
        wrong.extend(n for n in order if made.vectors(rows[n], reading).tobytes() != expected[n])

    orders = [np.random.default_rng(seed).permutation(len(rows)).tolist() * 20 for seed in range(4)]
    askers = [threading.Thread(target=ask, args=(order,)) for order in orders]
    for one in askers:
        one.start()
    for one in askers:
        one.join()
    assert wrong == []


def test_products_that_are_not_ours_are_not_recorded() -> None:
    # The kernels for older processors multiply no bfloat16; oneDNN does, or torch.
    with computing("AVX2"):
        made = compiled(network("bert"), precision="bf16", threads=1)
        rows = Rows.of(ids_of([10]))
        first, again = (made.states(rows, Reading((3,))) for _ in range(2))
        assert first.tobytes() == again.tobytes()
        assert made._replays is None


def test_an_empty_batch_has_nothing_to_record() -> None:
    made = compiled(network("bert"), threads=processor().threads)
    assert made.vectors(Rows.of([]), Reading((3,), pooling="mean")).shape == (0, 32)
