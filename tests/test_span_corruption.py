"""Spans are hidden as T5 hides them: its counts, its order, and nothing lost."""

import numpy as np
import pytest
from corpora import write_text

from polyseme.errors import SettingsError
from polyseme.objectives.rows import Rows, lay_out
from polyseme.objectives.sequences import Ends
from polyseme.objectives.span_corruption import SpanCorruptionSettings, SpanHiding, cut_evenly
from polyseme.seeding import RowGenerator
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.preparing import prepare
from polyseme.text.store import Store
from polyseme.text.tokenizer import Tokenizer

PAD, END, FIRST_SENTINEL = 0, 1, 32_099
T5 = Ends(before=(), after=(END,), end=END, padding=PAD)
SENTINELS = tuple(range(FIRST_SENTINEL, FIRST_SENTINEL - 100, -1))


def hiding(**changes: float) -> SpanHiding:
    return SpanHiding(SpanCorruptionSettings(**changes), T5, SENTINELS)


def rows_of(lengths: np.ndarray, rng: np.random.Generator) -> Rows:
    """Random texts of these lengths, as the loader lays them out."""
    width = int(lengths.max())
    real = np.arange(width) < lengths[:, None]
    ids = np.where(real, rng.integers(3, 32_000, real.shape), PAD)
    nothing = np.zeros(real.shape, dtype=np.int64)
    return Rows(
        input_ids=ids,
        marks=nothing.astype(np.uint8),
        attention_mask=real,
        real=real,
        spans=nothing,
        position_ids=nothing,
        layout="joined",
        samples=np.arange(len(lengths)),
        pair_labels=None,
        progress=0.0,
    )


def test_a_row_of_512_holds_568_tokens_and_114_are_written() -> None:
    settings = SpanCorruptionSettings()
    for length, raw, written in ((512, 568, 114), (128, 141, 29)):
        assert settings.raw_length(length, special=1) == raw
        assert settings.read(raw) + 1 == length
        assert settings.written(raw) == written
    assert [int(part[0]) for part in settings.counts(np.array([568]))] == [85, 28]


def test_counts_are_rounded_half_to_even_in_float32() -> None:
    hidden, spans = SpanCorruptionSettings().counts(np.arange(2, 600))
    for length, n, s in zip(range(2, 600), hidden, spans, strict=True):
        expected = min(max(int(np.rint(np.float32(length) * np.float32(0.15))), 1), length - 1)
        assert n == expected
        assert s == max(int(np.rint(np.float32(n) / np.float32(3))), 1)
    assert SpanCorruptionSettings().counts(np.array([30]))[0][0] == 4  # 4.5, and int(4.5 + .5) is 5


def test_text_and_spans_make_the_original_again() -> None:
    rng = np.random.default_rng(0)
    hide = hiding()
    texts = 0
    for number in range(25):
        lengths = np.full(400, 568) if number == 0 else rng.integers(2, 120, 400)
        rows = rows_of(lengths, rng)
        arrays = hide(rows, RowGenerator(rows.samples, number))
        inputs, decoder_inputs = arrays["input_ids"], arrays["decoder_input_ids"]
        if number == 0:
            assert inputs.shape == (400, 512)
            assert decoder_inputs.shape == (400, 114)
            assert "attention_mask" not in arrays
            assert "decoder_attention_mask" not in arrays
        targets = np.full_like(decoder_inputs, PAD)
        targets.reshape(-1)[arrays["predicted"]] = arrays["labels"]
        assert (decoder_inputs[:, 0] == PAD).all()
        assert (decoder_inputs[:, 1:] == targets[:, :-1]).all()
        for row in range(len(lengths)):
            assert (
                spliced(inputs[row].tolist(), targets[row].tolist())
                == rows.input_ids[row, : lengths[row]].tolist()
            )
            texts += 1
    assert texts == 10_000


def spliced(read: list[int], written: list[int]) -> list[int]:
    """The text that a row of each side stands for; the order and the ends of both are checked on the way."""
    read, written = read[: read.index(END)], written[: written.index(END)]
    spans: list[list[int]] = []
    for token in written:
        if token == FIRST_SENTINEL - len(spans):
            spans.append([])
        else:
            assert token < 32_000
            spans[-1].append(token)
    assert all(spans)
    text, used = [], 0
    assert read[0] < 32_000  # a row begins with what is shown …
    for before, token in zip([None, *read[:-1]], read, strict=True):
        if token == FIRST_SENTINEL - used:
            assert before is None or before < 32_000  # … and so does every span
            text += spans[used]
            used += 1
        else:
            assert token < 32_000
            text.append(token)
    assert used == len(spans)
    return text


def test_every_way_to_cut_is_as_likely() -> None:
    draws = 60_000
    ends = cut_evenly(np.full(draws, 6), np.full(draws, 3), 6, RowGenerator(np.arange(draws), 1))
    assert (ends[:, 2] == 6).all()
    ways, counts = np.unique(ends[:, :2], axis=0, return_counts=True)
    assert len(ways) == 10  # 5 borders, 2 of them chosen
    expected = draws / 10
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # χ² of 9 degrees of freedom at 1 in 1,000


def test_spans_are_three_tokens_long_on_average_and_evenly_cut() -> None:
    hide = hiding()
    lengths = np.full(5_000, 141)
    hidden, spans = hide.hide(lengths, 141, RowGenerator(np.arange(5_000), 4))
    assert (hidden.sum(axis=1) == 21).all()
    assert (spans[:, -1] == 6).all()
    # Lengths of the 7 spans of 21 tokens: P(length = k) = C(20 - k, 5) / C(20, 6), a mean of 3.
    from math import comb

    sizes = np.concatenate(
        [np.bincount(row[mask], minlength=7) for row, mask in zip(spans, hidden, strict=True)]
    )
    found = np.bincount(sizes, minlength=16)[1:16] / len(sizes)
    expected = np.array([comb(20 - k, 5) / comb(20, 6) for k in range(1, 16)])
    assert sizes.mean() == 3
    assert np.abs(found - expected).max() < 0.01
    assert hidden[:, -1].all()  # what is shown comes first, so what is hidden comes last
    assert not hidden[:, 0].any()


def test_a_row_is_hidden_alike_in_any_company() -> None:
    rng = np.random.default_rng(5)
    lengths = rng.integers(2, 200, 30)
    rows = rows_of(lengths, rng)
    whole, _ = hiding().hide(lengths, rows.real.shape[1], RowGenerator(rows.samples, 9))
    for row in (3, 17, 29):
        alone, _ = hiding().hide(lengths[[row]], int(lengths[row]), RowGenerator(np.array([row]), 9))
        assert (whole[row, : lengths[row]] == alone[0]).all()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("spans")
    text = write_text(folder / "text.txt")
    settings = LearningSettings(
        kind="unigram",
        vocab_size=400,
        padding_token="<pad>",
        unknown_token="<unk>",
        first_token="",
        separator_token="</s>",
        mask_token="",
        frame="end",
        sentinels=20,
    )
    learn(text.read_text("utf-8").splitlines(), settings).save(folder / "vocab")
    return prepare([text], tokenizer=folder / "vocab", out=folder / "store")


def test_sentinels_are_the_last_tokens_and_no_text_makes_one(store: Store) -> None:
    tokenizer = store.tokenizer
    assert tokenizer.sentinel_ids == tuple(range(tokenizer.vocab_size - 1, tokenizer.vocab_size - 21, -1))
    assert tokenizer.vocab_size == 400
    assert tokenizer.tokens(tokenizer.sentinel_ids[:2]) == ["<extra_id_0>", "<extra_id_1>"]
    assert not set(tokenizer.sentinel_ids) & set(tokenizer.encode("程序<extra_id_0>程序").ids.tolist())
    assert Tokenizer.load(store.folder / "tokenizer").sentinel_ids == tokenizer.sentinel_ids
    assert store.counts[list(tokenizer.sentinel_ids)].sum() == 0
    assert tokenizer.frame.after == (tokenizer.separator_id,)
    assert tokenizer.frame.before == ()


def test_every_token_of_the_store_is_in_one_row(store: Store) -> None:
    tokenizer = store.tokenizer
    ends = Ends((), (tokenizer.separator_id,), tokenizer.separator_id, tokenizer.padding_id)
    hide = SpanHiding(SpanCorruptionSettings(), ends, tokenizer.sentinel_ids)
    documents = np.arange(store.num_documents)
    samples = hide.plan(store, documents, length=32, seed=0, epoch=0)
    raw = hide.raw_length(32)
    rows = lay_out(store, samples, np.arange(len(samples)), length=32)
    assert rows.input_ids.shape[1] == raw > 32
    assert (rows.lengths[:-1] == raw).all()
    counts = np.bincount(rows.input_ids[rows.real], minlength=store.vocab_size)
    assert np.abs(counts - store.counts.astype(np.int64)).sum() <= 1  # a last row of one token is left out
    arrays = hide(rows, RowGenerator(rows.samples, 0))
    assert arrays["input_ids"].shape[1] == 32
    again = hide(rows, RowGenerator(rows.samples, 0))
    assert all((again[name] == array).all() for name, array in arrays.items())
    other = hide(rows, RowGenerator(rows.samples, 1))
    assert (other["input_ids"] != arrays["input_ids"]).any()


def test_more_spans_than_sentinels_are_refused(store: Store) -> None:
    hide = SpanHiding(SpanCorruptionSettings(), T5, store.tokenizer.sentinel_ids[:2])
    with pytest.raises(SettingsError, match="rows of 128 tokens have 7 hidden spans, and the tokenizer has"):
        hide.plan(store, np.arange(store.num_documents), length=128, seed=0, epoch=0)


@pytest.mark.parametrize(("name", "value"), [("rate", 0.0), ("rate", 1.0), ("mean_span", 0.5)])
def test_settings_that_hide_nothing_or_all_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must"):
        SpanCorruptionSettings(**{name: value})


def test_too_many_sentinels_for_a_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size must be at least"):
        LearningSettings(vocab_size=50, sentinels=60)
