"""What a captured graph asks of a network: fixed shapes, and no call that waits for the card."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rounding import through_a_network
from runtime_paths import computing
from test_runtime_encoder import LAYERS, NETWORKS, ids_of, network

from polyseme.runtime.encoder import CompiledEncoder, Reading, compiled
from polyseme.runtime.gate import lowest_cosine
from polyseme.runtime.graphs import SIZES, Graphs, _WaitingCalls, filled_up
from polyseme.runtime.packing import Rows
from polyseme.runtime.replays import Told

needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no graphics card")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 20))
def test_every_token_has_a_row_and_their_number_is_fixed(lengths: list[int], more: int) -> None:
    starts = torch.tensor([0, *np.cumsum(lengths).tolist()])
    size = sum(lengths) + more
    found = filled_up(starts, size)
    assert len(found) == size + 1
    assert torch.equal(found[: len(starts)], starts)
    assert found[-1] == size
    assert set(found.diff()[len(lengths) :].tolist()) <= {0, 1}


def told_of(encoder: CompiledEncoder, ids: np.ndarray, starts: np.ndarray) -> Told:
    places = encoder._places(ids, starts)
    return [torch.from_numpy(ids), None if places is None else torch.from_numpy(places), None]


@pytest.mark.parametrize("path", ["native", "portable"])
@pytest.mark.parametrize("name", NETWORKS)
def test_rows_that_fill_up_change_no_state(name: str, path: str) -> None:
    lengths, size, last = [3, 1, 7], 16, network(name).config.num_layers
    with computing(path), torch.inference_mode():
        encoder = compiled(network(name), threads=1)
        fill = ids_of([1] * (size - sum(lengths)), seed=3)
        ids = np.concatenate([*ids_of(lengths), *fill]).astype(np.int64)
        starts = np.concatenate(([0], np.cumsum(lengths)))
        alone = encoder._read(told_of(encoder, ids[:11], starts), torch.from_numpy(starts), (last,))[0]
        whole = np.asarray(filled_up(torch.from_numpy(starts), size))
        filled = encoder._read(told_of(encoder, ids, whole), torch.from_numpy(whole), (last,))[0]
    assert (filled[:11] - alone).abs().max() <= through_a_network(alone.numpy())


def test_a_network_that_asks_for_numbers_on_the_way_is_not_captured() -> None:
    # Attention over groups of equal length asks for the lengths; on a card that waits for it.
    with computing("portable"), torch.inference_mode():
        encoder, graphs = compiled(network("bert"), threads=1), Graphs(torch.device("cpu"))
        told = told_of(encoder, np.arange(5, dtype=np.int64), np.array([0, 5]))
        assert graphs.record(encoder._read, told, (LAYERS,), SIZES[0]) is None
        assert graphs.record(encoder._read, told, (LAYERS,), SIZES[1]) is None


def test_calls_that_wait_are_noted() -> None:
    with _WaitingCalls() as waiting:
        torch.ones(3).softmax(dim=0)[torch.tensor([0])].sum()
        assert not waiting.names
        int(torch.ones(3).max())
    assert len(waiting.names) == 1


@needs_card
def test_a_graph_gives_what_the_usual_way_gives() -> None:
    card, reading = torch.device("cuda"), Reading((LAYERS,), pooling="mean")
    moved = type(network("bert"))(network("bert").config).eval()
    moved.load_state_dict(network("bert").state_dict())
    made, usual = (compiled(moved, precision="bf16", device=card) for _ in range(2))
    usual._replays = None
    for seed, lengths in enumerate(([1], [16], [17], [5, 1, 9], [40, 40], [16], [1] * 60)):
        rows = Rows.of(ids_of(lengths, seed=seed))
        assert lowest_cosine(made.vectors(rows, reading), usual.vectors(rows, reading)) >= 0.9999
    assert made._replays is not None
    assert all(one is not None for one in made._replays._recordings.values())
