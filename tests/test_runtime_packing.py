"""Rows in tiles: every row once, in tiles of few sizes, and the texts of an embedder laid out as before."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from polyseme.embedding.rows import text_rows
from polyseme.embedding.windows import windows
from polyseme.runtime.packing import Rows, filled, tiles
from polyseme.runtime.workers import Workers
from polyseme.text.frames import Frame

LENGTHS = st.lists(st.integers(1, 70), max_size=60)


def rows_of(lengths: list[int]) -> Rows:
    """Rows in which every token is different."""
    starts = np.cumsum([0, *lengths])
    return Rows.of([np.arange(start, start + length) for start, length in zip(starts, lengths, strict=False)])


def test_tiles_get_smaller_towards_the_end() -> None:
    sizes = [len(tile.tokens) for tile in tiles(rows_of([20] * 400), most=1000, least=100, shares=4)]
    assert sizes[:5] == [1000] * 5
    assert sizes[5:] == sorted(sizes[5:], reverse=True)
    assert sizes[-1] <= 100 < sizes[6] < 1000


@given(LENGTHS, st.integers(1, 200), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_every_row_lies_whole_in_exactly_one_tile(lengths: list[int], most: int, shares: int) -> None:
    rows = rows_of(lengths)
    found: dict[int, NDArray[np.int32]] = {}
    for tile in tiles(rows, most=most, least=20, shares=shares):
        assert len(tile.tokens) == tile.starts[-1]
        assert len(tile.tokens) <= most or len(tile.rows) == 1
        assert (np.diff(tile.starts, n=2) >= 0).all()
        for number, begin, end in zip(tile.rows, tile.starts[:-1], tile.starts[1:], strict=True):
            assert number not in found
            found[int(number)] = rows.input_ids[tile.tokens[begin:end]]
    assert sorted(found) == list(range(len(lengths)))
    for number, ids in found.items():
        assert ids.tolist() == rows.input_ids[rows.starts[number] : rows.starts[number + 1]].tolist()


@given(LENGTHS, st.integers(70, 200))
@settings(max_examples=100, deadline=None)
def test_tiles_are_full_but_for_the_last_one(lengths: list[int], most: int) -> None:
    rows = rows_of(lengths)
    made = list(tiles(rows, most=most))
    for tile, following in pairwise(made):
        assert len(tile.tokens) + following.starts[-1] - following.starts[-2] > most


def test_tiles_have_few_sizes_and_little_that_fills_them_up() -> None:
    sizes = {filled(tokens) for tokens in range(1, 8193)}
    assert len(sizes) < 100
    for tokens in range(1, 8193):
        assert tokens <= filled(tokens) <= max(tokens + 7, 1.5 * tokens)
    assert all(filled(tokens) - tokens <= 0.13 * tokens for tokens in range(256, 8193))


@given(
    st.lists(st.integers(0, 60), max_size=30),
    st.integers(8, 20),
    st.booleans(),
    st.sampled_from(
        [
            Frame((2,), (3,), (3,), ((0,), 0, 1, (1,))),
            Frame((), (4,), (4, 3), ((), 0, 1, (1, 2)), ((), 0, (0, 2))),
            Frame((), (), (), ((), 0, 0, ())),
        ]
    ),
)
@settings(max_examples=200, deadline=None)
def test_texts_are_laid_out_as_one_at_a_time(
    counts: list[int], most: int, truncate: bool, frame: Frame
) -> None:
    ids = np.arange(10, 10 + sum(counts), dtype=np.int32)
    numbers = np.asarray(counts, dtype=np.int64)
    read = text_rows(ids, numbers, frame=frame, filling=0, most=most, truncate=truncate)
    rows, room = read.rows, most - frame.size
    assert rows.counted is not None
    row = start = 0
    for text, count in enumerate(counts):
        own = ids[start : start + count][: room if truncate else None]
        start += count
        kept: list[int] = []
        for window in windows(len(own), size=room, overlap=room // 4):
            expected = frame.single(own[window.start : window.stop])
            here = slice(rows.starts[row], rows.starts[row + 1])
            assert rows.input_ids[here].tolist() == (expected.tolist() or [0])
            kinds = frame.segments(len(expected))
            assert (kinds is None) == (rows.token_type_ids is None)
            if kinds is not None and rows.token_type_ids is not None:
                assert rows.token_type_ids[here].tolist() == kinds.tolist()
            begin, end = rows.counted[row]
            assert 0 <= begin < end <= rows.lengths[row]
            kept += rows.input_ids[here][begin:end].tolist()
            assert read.texts[row] == text
            row += 1
        assert kept == (frame.single(own).tolist() or [0])
    assert row == len(rows)
    assert read.edges.tolist() == [0, *np.cumsum(np.bincount(read.texts, minlength=len(counts))).tolist()]


def test_the_first_rows_are_those_of_a_shorter_list() -> None:
    rows = rows_of([3, 1, 2])
    assert rows.first(2).input_ids.tolist() == [0, 1, 2, 3]
    assert rows.first(2).starts.tolist() == [0, 3, 4]
    assert len(rows.first(9)) == 3
    assert len(rows.first(0)) == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_workers_do_everything_once_and_pass_errors_on(threads: int) -> None:
    workers, done = Workers(threads), []
    workers.each(done.append, list(range(50)))
    assert sorted(done) == list(range(50))

    def fail(number: int) -> None:
        if number == 7:
            raise ValueError("no seven")

    with pytest.raises(ValueError, match="no seven"):
        workers.each(fail, list(range(50)))
    workers.each(done.append, [50])
    assert sorted(done) == list(range(51))
