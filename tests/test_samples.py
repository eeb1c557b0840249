"""Which spans make a row: pairs for next sentence, packed texts, one stream, and their order."""

from pathlib import Path

import numpy as np
import pytest
from corpora import small_store

from polyseme.errors import DataError
from polyseme.objectives.contiguous import plan_contiguous
from polyseme.objectives.next_sentence import FOLLOWS, RANDOM, NextSentenceSettings, Pairs
from polyseme.objectives.packing import cut_texts, pack, plan_packed
from polyseme.objectives.rows import lay_out
from polyseme.objectives.samples import order
from polyseme.text.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("samples"), documents=300)


def documents(store: Store) -> np.ndarray:
    return np.arange(store.num_documents)


def document_of(store: Store, positions: np.ndarray) -> np.ndarray:
    return np.searchsorted(store.document_starts, positions, side="right") - 1


@pytest.mark.parametrize("length", [16, 64, 512])
def test_packing_reads_every_token_once_and_fills_the_rows(store: Store, length: int) -> None:
    samples = plan_packed(store, documents(store), length=length, seed=0, epoch=0)
    turn = np.argsort(samples.starts)
    assert samples.starts[turn][0] == 0
    assert np.array_equal(samples.starts[turn][1:], samples.stops[turn][:-1])
    assert samples.stops.max() == store.num_tokens
    widths = samples.stops - samples.starts + 2
    used = np.add.reduceat(widths, samples.rows[:-1])
    assert used.max() <= length
    if length < 512:
        assert used.mean() > 0.9 * length


def test_texts_stay_inside_documents_and_end_with_sentences_where_that_fills_them(store: Store) -> None:
    texts = cut_texts(store, documents(store), most=60)
    assert np.array_equal(document_of(store, texts[:, 0]), document_of(store, texts[:, 1] - 1))
    sizes = texts[:, 1] - texts[:, 0]
    assert sizes.max() <= 60
    ends_sentence = np.isin(texts[:, 1], store.sentence_starts)
    assert (sizes[~ends_sentence] == 60).all()


def test_packing_never_overfills_whatever_the_sizes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(1, 31, size=200)
        ends = np.cumsum(sizes)
        rows = pack(np.stack([ends - sizes, ends], axis=1), length=32)
        assert sorted(span for row in rows for span in row) == [
            (int(e - s), int(e)) for s, e in zip(sizes, ends, strict=True)
        ]
        assert max(sum(stop - start + 2 for start, stop in row) for row in rows) <= 32


def test_a_pair_that_follows_is_one_stretch_and_a_random_one_is_of_another_document(store: Store) -> None:
    samples = Pairs(NextSentenceSettings()).plan(store, documents(store), length=128, seed=3, epoch=0)
    first, second = samples.rows[:-1], samples.rows[:-1] + 1
    assert (np.diff(samples.rows) == 2).all()
    home = document_of(store, samples.starts[first])
    away = document_of(store, samples.starts[second])
    assert samples.pair_labels is not None
    follows = samples.pair_labels == FOLLOWS
    assert (home == away)[follows].all()
    assert (home != away)[~follows].mean() > 0.999  # ten tries may all meet the same document
    gap = samples.starts[second] - samples.stops[first]
    assert (gap[follows] >= 0).all()
    whole = samples.stops[second] - samples.starts[first] + 3 < 128
    assert (gap[follows & whole] == 0).all()


def test_pairs_fit_and_both_sides_keep_something(store: Store) -> None:
    for length in (16, 32, 128):
        samples = Pairs(NextSentenceSettings()).plan(store, documents(store), length=length, seed=1, epoch=0)
        sizes = samples.stops - samples.starts
        assert sizes.min() >= 1
        assert np.add.reduceat(sizes, samples.rows[:-1]).max() <= length - 3


def test_half_of_the_chunks_with_two_sentences_get_a_random_second(store: Store) -> None:
    settings = NextSentenceSettings(short=0.0)
    labels = [
        Pairs(settings).plan(store, documents(store), length=512, seed=s, epoch=0).pair_labels
        for s in range(20)
    ]
    joined = np.concatenate([found for found in labels if found is not None])
    # At 512 a document is one chunk; what a random pair leaves over comes again, so RANDOM is above half.
    assert 0.5 < (joined == RANDOM).mean() < 0.75


def test_a_document_of_one_sentence_always_gets_a_random_second(tmp_path: Path) -> None:
    from polyseme.text.preparing import prepare

    store = small_store(tmp_path)
    text = tmp_path / "single.txt"
    text.write_text("今天天气很好。\n\n我们去公园散步。\n\n法院作出判决。\n", encoding="utf-8")
    single = prepare([text], tokenizer=store.folder / "tokenizer", out=tmp_path / "single")
    samples = Pairs(NextSentenceSettings()).plan(single, np.arange(3), length=64, seed=0, epoch=0)
    assert samples.pair_labels is not None
    assert samples.pair_labels.tolist() == [RANDOM] * 3


def test_one_document_is_too_few_for_pairs(store: Store) -> None:
    with pytest.raises(DataError, match="at least 2 documents to draw from, and there is 1"):
        Pairs(NextSentenceSettings()).plan(store, np.arange(1), length=64, seed=0, epoch=0)


def test_rows_are_laid_out_as_the_model_reads_them(store: Store) -> None:
    samples = Pairs(NextSentenceSettings()).plan(store, documents(store), length=64, seed=0, epoch=0)
    rows = lay_out(store, samples, np.arange(10), length=64)
    tokenizer = store.tokenizer
    for row in range(10):
        (a, b), n = (range(samples.rows[row], samples.rows[row] + 2)), int(rows.lengths[row])
        first, _ = store.gather(samples.starts[[a]], samples.stops[[a]])
        second, _ = store.gather(samples.starts[[b]], samples.stops[[b]])
        expected = [tokenizer.first_id, *first, tokenizer.separator_id, *second, tokenizer.separator_id]
        assert rows.input_ids[row, :n].tolist() == expected
        assert rows.spans[row, :n].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
        assert (rows.input_ids[row, n:] == tokenizer.padding_id).all()


def test_packed_rows_number_their_texts_and_positions_start_over(store: Store) -> None:
    samples = plan_packed(store, documents(store), length=64, seed=0, epoch=0)
    rows = lay_out(store, samples, np.arange(len(samples)), length=64)
    arrays = rows.arrays(rows.input_ids)
    starts = rows.input_ids == store.tokenizer.first_id
    assert (rows.position_ids[starts] == 0).all()
    steps = np.diff(rows.position_ids, axis=1)
    inside = rows.attention_mask[:, 1:] & ~starts[:, 1:]
    assert (steps[inside] == 1).all()
    numbers = np.asarray(arrays["document_ids"])
    assert np.array_equal(numbers, np.cumsum(starts, axis=1) * rows.attention_mask)


def test_every_epoch_has_an_order_of_its_own_that_its_seed_repeats(store: Store) -> None:
    samples = plan_packed(store, documents(store), length=64, seed=0, epoch=0)
    one, two = (order(samples, seed=5, epoch=epoch) for epoch in (0, 1))
    assert sorted(one) == sorted(two) == list(range(len(samples)))
    assert not np.array_equal(one, two)
    assert np.array_equal(one, order(samples, seed=5, epoch=0))


def test_large_tables_lie_in_files_and_say_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from polyseme.objectives import samples as module

    plain = plan_packed(store, documents(store), length=64, seed=0, epoch=0)
    monkeypatch.setattr(module, "_SPILL", 7)
    mapped = plan_packed(store, documents(store), length=64, seed=0, epoch=0)
    assert isinstance(mapped.starts, np.memmap)
    for field in ("starts", "stops", "rows", "blocks"):
        assert np.array_equal(getattr(plain, field), getattr(mapped, field))


@pytest.mark.parametrize("length", [8, 64, 512])
def test_contiguous_rows_joined_are_the_documents_with_a_separator_after_each(
    store: Store, length: int
) -> None:
    chosen = documents(store)[::2]
    samples = plan_contiguous(store, chosen, length=length, seed=0, epoch=0)
    rows = lay_out(store, samples, np.arange(len(samples)), length=length)
    assert rows.attention_mask[:-1].all()
    stream = rows.input_ids[rows.attention_mask]
    ids, _ = store.gather(np.array([0]), np.array([store.num_tokens]))
    borders = store.document_starts
    texts = [(*ids[borders[d] : borders[d + 1]].tolist(), store.tokenizer.separator_id) for d in chosen]
    found, start = [], 0
    for stop in np.flatnonzero(stream == store.tokenizer.separator_id) + 1:
        found.append(tuple(stream[start:stop].tolist()))
        start = stop
    assert start == len(stream)
    assert sorted(found) == sorted(texts)
    assert set(rows.arrays(rows.input_ids)) <= {"input_ids", "attention_mask"}


def test_contiguous_rows_are_cut_elsewhere_in_the_next_epoch_and_alike_in_the_same(store: Store) -> None:
    plans = [
        plan_contiguous(store, documents(store), length=64, seed=1, epoch=epoch).starts.tolist()
        for epoch in (0, 0, 1)
    ]
    assert plans[0] == plans[1] != plans[2]
    assert sorted(plans[0]) != sorted(plans[2])


def test_contiguous_rows_need_neither_a_first_token_nor_padding(store: Store) -> None:
    bare = Store.open(store.folder)
    bare.tokenizer = type(store.tokenizer)(store.tokenizer._definition, {"separator": "[SEP]"})
    samples = plan_contiguous(bare, documents(bare), length=64, seed=0, epoch=0)
    rows = lay_out(bare, samples, np.arange(len(samples)), length=64)
    assert (rows.input_ids[~rows.attention_mask] == bare.tokenizer.separator_id).all()
