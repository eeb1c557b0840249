"""Cutting long texts, batching by length, choosing layers, matching words with tokens."""

from itertools import pairwise

import numpy as np
import pytest

from polyseme.embedding.alignment import check_ranges, cut_ranges, join_words, mean_by_range
from polyseme.embedding.layers import Layers
from polyseme.embedding.windows import Window, windows
from polyseme.errors import DataError, SettingsError
from polyseme.models.batching import batches_by_length, pad
from polyseme.text.words import word_cutter


def context(token: int, window: Window, num_tokens: int) -> int:
    """Tokens between `token` and the nearer cut of its window; the text's ends are no cuts."""
    left = token - window.start if window.start > 0 else num_tokens
    right = window.stop - 1 - token if window.stop < num_tokens else num_tokens
    return min(left, right)


def test_every_token_is_owned_once_by_the_window_that_shows_it_most_context() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = int(rng.integers(2, 40))
        overlap, num_tokens = int(rng.integers(0, size)), int(rng.integers(0, 200))
        cut = windows(num_tokens, size=size, overlap=overlap)
        owners = [[w for w in cut if w.own_start <= token < w.own_stop] for token in range(num_tokens)]
        assert all(len(of_token) == 1 for of_token in owners)
        assert [w.own_stop for w in cut[:-1]] == [w.own_start for w in cut[1:]]
        for token, (owner,) in enumerate(owners):
            assert owner.start <= token < owner.stop
            best = max(context(token, w, num_tokens) for w in cut if w.start <= token < w.stop)
            assert context(token, owner, num_tokens) == best


def test_windows_are_full_and_neighbours_overlap_as_asked() -> None:
    for num_tokens in range(11, 80):
        cut = windows(num_tokens, size=10, overlap=4)
        assert all(w.stop - w.start == 10 for w in cut)
        assert all(a.stop - b.start >= 4 for a, b in pairwise(cut))
        assert cut[-1].stop == num_tokens


def test_a_text_that_fits_is_one_window() -> None:
    assert windows(10, size=10, overlap=3) == [Window(0, 10, 0, 10)]
    assert windows(0, size=10, overlap=3) == [Window(0, 0, 0, 0)]


def test_an_overlap_as_wide_as_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="below the window's size 8, got 8"):
        windows(20, size=8, overlap=8)


def test_batches_hold_every_row_once_and_stay_in_the_budget() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        lengths = rng.integers(0, 60, size=int(rng.integers(0, 200)))
        batches = batches_by_length(lengths, max_tokens=100)
        assert sorted(n for batch in batches for n in batch) == list(range(len(lengths)))
        assert all(len(b) == 1 or len(b) * lengths[b].max() <= 100 for b in batches)
        longest = [lengths[b].max() for b in batches]
        assert longest == sorted(longest, reverse=True)


def test_padding_is_told_from_real_tokens() -> None:
    matrix, real = pad([np.array([5, 0, 6], np.int32), np.array([7], np.int32)], padding=0, most=4)
    assert matrix.tolist() == [[5, 0, 6, 0], [7, 0, 0, 0]]
    assert real.tolist() == [[True, True, True, False], [True, False, False, False]]


def test_widths_repeat_and_stay_within_the_model() -> None:
    for longest, most, width in ((3, 512, 8), (8, 512, 8), (9, 512, 16), (49, 50, 50), (510, 512, 512)):
        matrix, real = pad([np.ones(longest, np.int32)], padding=0, most=most)
        assert matrix.shape == real.shape == (1, width)
        assert real.sum() == longest


@pytest.mark.parametrize(
    ("written", "numbers", "how"),
    [
        ("-1", (12,), "join"),
        (-2, (11,), "join"),
        ("0", (0,), "join"),
        ("-4:-1", (9, 10, 11, 12), "join"),
        ("0,6,-1", (0, 6, 12), "join"),
        ([3, 1], (3, 1), "join"),
        ("0,-2:-1", (0, 11, 12), "join"),
        ("mean:-4:-1", (9, 10, 11, 12), "mean"),
        ("mean:1,2", (1, 2), "mean"),
    ],
)
def test_layers_are_counted_from_the_embeddings(
    written: str | int | list[int], numbers: tuple[int, ...], how: str
) -> None:
    layers = Layers.of(written)
    assert (layers.numbers(12), layers.how) == (numbers, how)
    assert layers.width(12) == (1 if how == "mean" else len(numbers))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("last", "'last' names no layer; write one"),
        ("1,,2", "'' names no layer"),
        (
            "13",
            r"layer 13 does not exist: this model has the layers 0 \(its embeddings\) to 12, or -13 to -1",
        ),
        ("-14", "layer -14 does not exist"),
        ("5:2", "the range of layers 5:2 runs backwards; write 2:5"),
    ],
)
def test_layers_that_do_not_exist_are_named(written: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Layers.of(written).numbers(12)


def test_words_that_are_already_cut_stay_apart_where_their_script_has_blanks() -> None:
    words = ["我", "用", "Mac", "OS", "10", "。", "It", "'s", "", "한국", "어"]
    text, ranges = join_words(words)
    assert text == "我用Mac OS 10。It's 한국 어"
    assert [text[begin:end] for begin, end in ranges] == words


def test_blanks_are_no_words() -> None:
    text = " 我爱 北京\n"
    assert [text[b:e] for b, e in cut_ranges(text, word_cutter("rjieba"))] == ["我", "爱", "北京"]
    assert cut_ranges("", word_cutter("rjieba")).shape == (0, 2)


def test_a_range_gets_the_mean_of_the_tokens_that_touch_it() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        cuts = np.sort(rng.choice(40, size=12, replace=False))
        offsets = cuts.reshape(-1, 2).astype(np.int32)
        vectors = rng.standard_normal((len(offsets), 3)).astype(np.float32)
        ranges = np.sort(rng.choice(40, size=(5, 2)), axis=1)
        ranges[:, 1] += 1
        for (begin, end), mean in zip(ranges, mean_by_range(vectors, offsets, ranges), strict=True):
            touching = [v for v, (b, e) in zip(vectors, offsets, strict=True) if b < end and e > begin]
            expected = np.mean(touching, axis=0) if touching else np.zeros(3)
            np.testing.assert_allclose(mean, expected, atol=1e-6)


def test_a_range_outside_its_text_is_named() -> None:
    with pytest.raises(
        DataError, match="the range 2:9 does not lie in text 4, which has the characters 0 to 3"
    ):
        check_ranges("一二三", [(0, 1), (2, 9)], number=4)
