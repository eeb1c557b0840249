"""An audit of the masks: what is hidden, how much, and with what in its place."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from corpora import small_store

from polyseme.objectives.joint import JointCorruption
from polyseme.objectives.masked_lm import MaskedLMSettings, Masking, choose_units, number_units
from polyseme.objectives.next_sentence import NextSentenceSettings, Pairs
from polyseme.objectives.rows import Rows, lay_out
from polyseme.objectives.samples import Samples
from polyseme.seeding import RowGenerator
from polyseme.text.store import Mark, Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("masks"))


def masking(store: Store, **options: object) -> Masking:
    settings = MaskedLMSettings(**options)  # type: ignore[arg-type]
    return Masking(settings, vocab_size=store.vocab_size, mask_id=store.tokenizer.mask_id)


def plan(store: Store, *, packed: bool, epoch: int) -> Samples:
    documents = np.arange(store.num_documents)
    if packed:
        return masking(store).plan(store, documents, length=96, seed=1, epoch=epoch)
    return Pairs(NextSentenceSettings()).plan(store, documents, length=96, seed=1, epoch=epoch)


def audited(
    store: Store, corruption: Masking, *, packed: bool, tokens: int
) -> Iterator[tuple[Rows, dict[str, np.ndarray]]]:
    seen = epoch = 0
    while seen < tokens:
        samples = plan(store, packed=packed, epoch=epoch)
        for chosen in np.array_split(np.arange(len(samples)), max(1, len(samples) // 32)):
            rows = lay_out(store, samples, chosen, length=96)
            yield rows, corruption(rows, RowGenerator(chosen, 1, "corruption", epoch))
            seen += int(rows.attention_mask.sum())
        epoch += 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("unit", "most"), [("word", None), ("word", 9), ("token", None), ("token", 9)])
def test_the_masks_of_a_hundred_thousand_tokens_keep_every_rule(
    store: Store, packed: bool, unit: str, most: int | None
) -> None:
    corruption = masking(store, unit=unit, most=most)
    masked = random = kept = 0
    for rows, arrays in audited(store, corruption, packed=packed, tokens=100_000):
        hidden = np.zeros(rows.input_ids.size, dtype=bool)
        hidden[arrays["predicted"]] = True
        hidden = hidden.reshape(rows.input_ids.shape)
        original = rows.input_ids
        changed = arrays["input_ids"]

        assert not hidden[~rows.real].any(), "no special token and no padding is hidden"
        assert np.array_equal(changed[~hidden], original[~hidden]), (
            "ids are untouched where nothing is hidden"
        )
        assert np.array_equal(arrays["labels"], original[hidden])

        budget = np.maximum(1, [round(0.15 * int(n)) for n in rows.lengths])
        budget = budget if most is None else np.minimum(budget, most)
        share = hidden.sum(axis=1)
        if unit == "token":
            assert np.array_equal(share, budget), "the share is exactly what the rule prescribes"
        else:
            assert (share <= budget).all()
            assert_words_are_whole(rows, hidden)
            assert_no_word_would_still_fit(rows, hidden, budget)

        masked += int((changed == store.tokenizer.mask_id)[hidden].sum())
        same = (changed == original) & hidden
        kept += int(same.sum())
        random += int((hidden & ~same & (changed != store.tokenizer.mask_id)).sum())

    total = masked + random + kept
    slip = 1 / store.vocab_size  # a random token may be the right one, or [MASK]
    for count, share in ((masked, 0.8 + 0.1 * slip), (random, 0.1 - 0.2 * slip), (kept, 0.1 + 0.1 * slip)):
        assert abs(count - total * share) < 3 * np.sqrt(total * share * (1 - share))


def assert_words_are_whole(rows: Rows, hidden: np.ndarray) -> None:
    continues = rows.real[:, 1:] & rows.real[:, :-1] & (rows.marks[:, 1:] & Mark.WORD == 0)
    assert np.array_equal(hidden[:, 1:][continues], hidden[:, :-1][continues])


def assert_no_word_would_still_fit(rows: Rows, hidden: np.ndarray, budget: np.ndarray) -> None:
    units = number_units(rows, unit="word")
    for row in range(len(units)):
        left = budget[row] - hidden[row].sum()
        open_units = units[row][(units[row] >= 0) & ~hidden[row]]
        assert left == 0 or not len(open_units) or np.bincount(open_units)[np.unique(open_units)].min() > left


def test_words_of_latin_digits_and_unknown_characters_are_whole(tmp_path: Path) -> None:
    store = small_store(tmp_path, vocab_size=150)
    assert store.manifest.num_unknown > 100
    ids, marks = store.gather(np.array([0]), np.array([store.num_tokens]))
    pieces = store.tokenizer.tokens(ids)
    assert any(piece.startswith("##") for piece in pieces)
    assert all(
        mark & Mark.WORD == 0 for piece, mark in zip(pieces, marks, strict=True) if piece.startswith("##")
    )
    for rows, arrays in audited(store, masking(store), packed=False, tokens=20_000):
        hidden = np.zeros(rows.input_ids.size, dtype=bool)
        hidden[arrays["predicted"]] = True
        assert_words_are_whole(rows, hidden.reshape(rows.input_ids.shape))


def test_every_unit_has_the_same_chance() -> None:
    units = np.tile(np.r_[-1, np.arange(10), -1], (4_000, 1))
    hidden = choose_units(units, np.full(4_000, 3), RowGenerator(np.arange(4_000), 0))
    assert (hidden.sum(axis=1) == 3).all()
    counts = hidden[:, 1:-1].sum(axis=0)
    assert (abs(counts - 1_200) < 4 * np.sqrt(4_000 * 0.3 * 0.7)).all()


def test_a_word_that_would_overflow_is_passed_over() -> None:
    units = np.array([[0, 0, 0, 0, 1, 2, 2]])
    for seed in range(200):
        hidden = choose_units(units, np.array([3]), RowGenerator(np.array([0]), seed))[0]
        assert not hidden[:4].any()
        assert hidden.sum() == 3


def test_static_masks_repeat_and_equal_the_dynamic_ones_of_their_epoch(store: Store) -> None:
    static, dynamic = masking(store, copies=3), masking(store)
    assert [static.chance_epoch(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    samples = plan(store, packed=True, epoch=0)
    rows = lay_out(store, samples, np.arange(8), length=96)
    assert np.array_equal(
        static(rows, RowGenerator(rows.samples, 1, "corruption", static.chance_epoch(3)))["input_ids"],
        dynamic(rows, RowGenerator(rows.samples, 1, "corruption", 0))["input_ids"],
    )


def test_a_row_is_corrupted_alike_in_any_batch(store: Store) -> None:
    corruption = JointCorruption((masking(store), Pairs(NextSentenceSettings())))
    samples = plan(store, packed=False, epoch=0)
    together = lay_out(store, samples, np.arange(12), length=96)
    batch = corruption(together, RowGenerator(together.samples, 1, "corruption", 0))
    for number in range(12):
        rows = lay_out(store, samples, np.array([number]), length=96)
        alone = corruption(rows, RowGenerator(rows.samples, 1, "corruption", 0))
        width = int(rows.lengths[0])
        assert np.array_equal(alone["input_ids"][0], batch["input_ids"][number, :width])


def test_the_rate_falls_in_a_straight_line(store: Store) -> None:
    falling = masking(store, rate=0.3, final_rate=0.1)
    lengths = np.array([100])
    assert [int(falling.budget(lengths, progress=p)[0]) for p in (0, 0.25, 0.5, 1)] == [30, 25, 20, 10]


def test_rounding_is_half_to_even_and_at_least_one(store: Store) -> None:
    assert masking(store, rate=0.5).budget(np.array([1, 3, 5, 7]), progress=0).tolist() == [1, 2, 2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate must lie between 0 and 1, got 0"),
        ({"final_rate": 1.5}, "final_rate must lie between 0 and 1, got 1.5"),
        ({"most": 0}, "most must be at least 1, got 0"),
        ({"masked": 0.8, "random": 0.3}, "whose sum is at most 1, got 0.8 and 0.3"),
        ({"copies": 0}, "copies must be at least 1, got 0"),
        ({"copies": 2, "final_rate": 0.1}, "static masks"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedLMSettings(**options)  # type: ignore[arg-type]
