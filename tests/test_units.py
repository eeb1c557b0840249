"""Audits of what is hidden other than by BERT's rule: units, stages, runs, each by its own lot."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from corpora import SENTENCES, small_store, write_text

from polyseme.errors import SettingsError
from polyseme.objectives.masked_lm import MaskedLM, MaskedLMSettings, Masking, choose_units, number_units
from polyseme.objectives.next_sentence import NextSentenceSettings, Pairs
from polyseme.objectives.rows import Rows, lay_out
from polyseme.objectives.similar import SimilarSettings
from polyseme.objectives.units import UNIT_MARKS, choose_each, choose_ngrams, draw_lengths, unit_at
from polyseme.seeding import RowGenerator
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.preparing import prepare
from polyseme.text.store import Store
from polyseme.training.building import build_objective, model_config
from polyseme.training.recipes import changed, read_recipe

ALBERT = (0.545, 0.273, 0.182)
MACBERT = (0.4, 0.3, 0.2, 0.1)
CRITICAL = {2: 9.21, 3: 11.34}
"""χ² that chance exceeds once in a hundred times, by degrees of freedom."""


def marked_store(folder: Path, *, vocab_size: int = 400) -> Store:
    """Real sentences with phrases and entities marked; a small vocabulary leaves characters unknown."""
    write_text(folder / "text.txt", documents=80)
    learn(list(SENTENCES), LearningSettings(vocab_size=vocab_size)).save(folder / "vocab")
    (folder / "list").write_text(
        "人民法院\n行政机关\nPython 3.11\nLinux 内核 5.10 版本\n配置文件\n合法权益\n防火墙设置\n20%\n",
        encoding="utf-8",
    )
    return prepare(
        [folder / "text.txt"],
        tokenizer=folder / "vocab",
        out=folder / "store",
        phrases="statistics",
        phrase_threshold=10.0,
        phrase_passes=2,
        entities=str(folder / "list"),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return marked_store(tmp_path_factory.mktemp("units"))


def masking(store: Store, **options: object) -> Masking:
    settings = MaskedLMSettings(**options)  # type: ignore[arg-type]
    corruption = Masking(settings, vocab_size=store.vocab_size, mask_id=store.tokenizer.mask_id)
    corruption.check(store)
    return corruption


def audited(
    store: Store, corruption: Masking, *, packed: bool = False, tokens: int = 60_000, progress: float = 0.0
) -> Iterator[tuple[Rows, np.ndarray, np.ndarray]]:
    """Rows, what is hidden in them, and the ids that the model reads."""
    seen = epoch = 0
    documents = np.arange(store.num_documents)
    while seen < tokens:
        plan = corruption.plan if packed else Pairs(NextSentenceSettings()).plan
        samples = plan(store, documents, length=96, seed=1, epoch=epoch)
        for chosen in np.array_split(np.arange(len(samples)), max(1, len(samples) // 64)):
            rows = lay_out(store, samples, chosen, length=96, progress=progress)
            arrays = corruption(rows, RowGenerator(chosen, 1, "corruption", epoch))
            hidden = np.zeros(rows.input_ids.size, dtype=bool)
            hidden[arrays["predicted"]] = True
            hidden = hidden.reshape(rows.input_ids.shape)
            changed_ids = np.asarray(arrays["input_ids"])
            assert not hidden[~rows.real].any(), "no special token and no padding is hidden"
            assert np.array_equal(changed_ids[~hidden], rows.input_ids[~hidden])
            assert np.array_equal(arrays["labels"], rows.input_ids[hidden])
            yield rows, hidden, changed_ids
            seen += int(rows.real.sum())
        epoch += 1


def assert_units_are_whole(rows: Rows, hidden: np.ndarray, unit: str) -> None:
    continues = rows.real[:, 1:] & rows.real[:, :-1] & (rows.marks[:, 1:] & UNIT_MARKS[unit] == 0)
    assert np.array_equal(hidden[:, 1:][continues], hidden[:, :-1][continues])


@pytest.mark.parametrize("vocab_size", [400, 150])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"unit": "word", "selection": "each"},
        {"unit": "phrase"},
        {"unit": "entity"},
        {"unit": "phrase", "selection": "each"},
        {"unit": "entity", "selection": "each"},
        {"unit": "word", "ngram": ALBERT},
        {"unit": "phrase", "ngram": MACBERT, "most": 9},
    ],
    ids=str,
)
def test_no_unit_is_ever_half_hidden(
    options: dict[str, object], packed: bool, vocab_size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In pairs and packed rows, with unknown characters, Latin words and digits."""
    store = marked_store(tmp_path_factory.mktemp("whole"), vocab_size=vocab_size)
    assert vocab_size == 400 or store.manifest.num_unknown > 100
    corruption = masking(store, **options)
    several = 0
    for rows, hidden, _ in audited(store, corruption, packed=packed, tokens=15_000):
        unit = str(options["unit"])
        assert_units_are_whole(rows, hidden, unit)
        if "selection" not in options:
            budget = corruption.budget(rows.lengths, progress=0)
            assert (hidden.sum(axis=1) <= budget).all()
        sizes = np.bincount((number_units(rows, unit=unit) + 1)[hidden])  # type: ignore[arg-type]
        several += int((sizes > 1).sum())
    assert several, "units of several tokens were hidden"


@pytest.mark.parametrize("unit", ["token", "phrase", "entity"])
def test_each_unit_is_hidden_by_its_own_lot_as_ernie_has_it(store: Store, unit: str) -> None:
    corruption = masking(store, unit=unit, selection="each", lowest_random=1)
    units = chosen = tokens = masked = random = 0
    lowest = store.vocab_size
    for rows, hidden, changed_ids in audited(store, corruption, tokens=120_000):
        numbers = number_units(rows, unit=unit)  # type: ignore[arg-type]
        begins = rows.real.copy()
        begins[:, 1:] &= numbers[:, 1:] != numbers[:, :-1]
        units += int(begins.sum())
        chosen += int((begins & hidden).sum())
        to_mask = hidden & (changed_ids == store.tokenizer.mask_id)
        other = hidden & ~to_mask & (changed_ids != rows.input_ids)
        tokens, masked, random = tokens + hidden.sum(), masked + to_mask.sum(), random + other.sum()
        lowest = min(lowest, int(changed_ids[other].min(initial=lowest)))
    assert abs(chosen - 0.15 * units) < 3 * np.sqrt(units * 0.15 * 0.85)
    slip = 1 / (store.vocab_size - 1)
    for count, share in ((masked, 0.8 + 0.1 * slip), (random, 0.1 - 0.2 * slip)):
        assert abs(count - tokens * share) < 3 * np.sqrt(tokens * share * (1 - share))
    assert lowest >= 1


@pytest.mark.parametrize(("chances", "degrees"), [(ALBERT, 2), (MACBERT, 3)])
def test_the_drawn_lengths_of_runs_have_the_published_shares(
    chances: tuple[float, ...], degrees: int
) -> None:
    drawn = draw_lengths(RowGenerator(np.arange(1_000), 3), 100, chances).reshape(-1)
    counts = np.bincount(drawn, minlength=len(chances) + 1)[1:]
    expected = len(drawn) * np.asarray(chances) / sum(chances)
    assert ((counts - expected) ** 2 / expected).sum() < CRITICAL[degrees]
    if chances == ALBERT:
        assert abs(drawn.mean() - 1.64) < 0.01


@pytest.mark.parametrize(("chances", "degrees"), [(ALBERT, 2), (MACBERT, 3)])
def test_the_first_run_of_each_row_has_the_published_shares(chances: tuple[float, ...], degrees: int) -> None:
    """With room for all and far from the text's end, what is hidden first is what was drawn."""
    rows, words = 30_000, 60
    units = np.tile(np.arange(words), (rows, 1))
    seed = 5
    hidden = choose_ngrams(
        units, np.full(rows, len(chances)), RowGenerator(np.arange(rows), seed), chances=chances
    )
    lots = RowGenerator(np.arange(rows), seed).random(words)
    first = lots.argmin(axis=1)
    usable = first < words - 10
    run = np.zeros(rows, dtype=int)
    going = np.ones(rows, dtype=bool)
    for step in range(len(chances)):
        going &= hidden[np.arange(rows), np.minimum(first + step, words - 1)]
        run += going
    # A run beside the first one would be counted with it; such rows have to be left out by what was drawn.
    drawn = draw_lengths(_second_series(rows, seed, words), words, chances)[np.arange(rows), first]
    assert (run >= drawn)[usable].all()
    assert ((run == drawn)[usable]).mean() > 0.9
    counts = np.bincount(drawn[usable], minlength=len(chances) + 1)[1:]
    expected = counts.sum() * np.asarray(chances) / sum(chances)
    assert ((counts - expected) ** 2 / expected).sum() < CRITICAL[degrees]


def _second_series(rows: int, seed: int, words: int) -> RowGenerator:
    rng = RowGenerator(np.arange(rows), seed)
    rng.random(words)
    return rng


def slowly_chosen(
    units: list[int], budget: int, lots: np.ndarray, drawn: np.ndarray, chances: tuple[float, ...]
) -> set[int]:
    """ALBERT's rule for one row, as a list of steps; the positions that are hidden."""
    texts: list[list[int]] = []  # the units of each text, in order
    for place, unit in enumerate(units):
        if unit < 0:
            continue
        if place == 0 or units[place - 1] < 0:
            texts.append([])
        if not texts[-1] or texts[-1][-1] != unit:
            texts[-1].append(unit)
    sizes = {unit: units.count(unit) for text in texts for unit in text}
    hidden_units: set[int] = set()
    left = budget
    for unit in sorted(sizes, key=lambda unit: lots[unit]):
        if not left:
            break
        text = next(text for text in texts if unit in text)
        run = text[text.index(unit) :][: drawn[unit]]
        while len(run) > 1 and sum(sizes[u] for u in run) > left:
            run = run[:-1]
        if sum(sizes[u] for u in run) > left or hidden_units & set(run):
            continue
        hidden_units |= set(run)
        left -= sum(sizes[u] for u in run)
    return {place for place, unit in enumerate(units) if unit in hidden_units}


def test_runs_are_chosen_as_the_rule_says_step_by_step() -> None:
    rng = np.random.default_rng(0)
    for trial in range(150):
        chances = ALBERT if trial % 2 else MACBERT
        batch, length = 5, int(rng.integers(1, 40))
        units = np.full((batch, length), -1)
        for row in units:
            number = -1
            for place in range(length):
                if rng.random() < 0.15:
                    continue  # a special token or padding
                before = place > 0 and row[place - 1] >= 0
                number += not (before and rng.random() < 0.4)
                row[place] = number
        budget = rng.integers(1, 12, size=batch)
        hidden = choose_ngrams(units, budget, RowGenerator(np.arange(batch), trial), chances=chances)
        again = RowGenerator(np.arange(batch), trial)
        lots, drawn = again.random(length), draw_lengths(again, length, chances)
        for row in range(batch):
            expected = slowly_chosen(units[row].tolist(), int(budget[row]), lots[row], drawn[row], chances)
            assert set(np.flatnonzero(hidden[row]).tolist()) == expected


def test_runs_of_one_unit_are_bert_s_whole_words(store: Store) -> None:
    for rows, _, _ in audited(store, masking(store), tokens=5_000):
        units = number_units(rows, unit="word")
        budget = masking(store).budget(rows.lengths, progress=0)
        chance = [RowGenerator(rows.samples, 9) for _ in range(2)]
        assert np.array_equal(
            choose_ngrams(units, budget, chance[0], chances=(1.0,)), choose_units(units, budget, chance[1])
        )


def test_stages_follow_one_another_by_their_shares(store: Store) -> None:
    settings = MaskedLMSettings(stages=("token", "phrase", "entity"))
    assert [unit_at(settings, p) for p in (0, 0.33, 0.34, 0.66, 0.67, 1)] == [
        *("token", "token", "phrase", "phrase", "entity", "entity")
    ]
    uneven = MaskedLMSettings(stages=("token", "phrase", "entity"), stage_shares=(8, 1, 1))
    assert [unit_at(uneven, p) for p in (0.79, 0.81, 0.89, 0.91)] == ["token", "phrase", "phrase", "entity"]
    corruption = masking(store, stages=("token", "phrase", "entity"))
    for unit, progress in (("phrase", 0.5), ("entity", 0.9)):
        for rows, hidden, _ in audited(store, corruption, tokens=10_000, progress=progress):
            assert_units_are_whole(rows, hidden, unit)
    cut = 0
    for rows, hidden, _ in audited(store, corruption, tokens=10_000, progress=0.1):
        continues = rows.real[:, 1:] & rows.real[:, :-1] & (rows.marks[:, 1:] & UNIT_MARKS["word"] == 0)
        cut += int(((hidden[:, 1:] != hidden[:, :-1]) & continues).sum())
    assert cut > 100, "single tokens at first"


def test_some_rows_hide_whole_units_and_the_others_tokens(store: Store) -> None:
    corruption = masking(store, unit="phrase", whole=0.3, selection="each", rate=0.3)
    cut = rows_seen = 0
    for rows, hidden, _ in audited(store, corruption, tokens=60_000):
        continues = rows.real[:, 1:] & rows.real[:, :-1] & (rows.marks[:, 1:] & UNIT_MARKS["phrase"] == 0)
        several = continues.sum(axis=1) >= 15  # so many chances to be cut that a row of tokens has one
        cut += int(((hidden[:, 1:] != hidden[:, :-1]) & continues).any(axis=1)[several].sum())
        rows_seen += int(several.sum())
    assert rows_seen > 300
    assert abs(cut / rows_seen - 0.7) < 4 * np.sqrt(0.21 / rows_seen) + 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"unit": "phrase", "selection": "each", "lowest_random": 1},
        {"unit": "word", "ngram": ALBERT},
        {"stages": ("token", "phrase", "entity"), "whole": 0.5},
    ],
    ids=str,
)
def test_masks_do_not_depend_on_company_padding_or_process(store: Store, options: dict[str, object]) -> None:
    corruption = masking(store, **options)
    samples = Pairs(NextSentenceSettings()).plan(
        store, np.arange(store.num_documents), length=96, seed=1, epoch=0
    )
    together = lay_out(store, samples, np.arange(24), length=96, progress=0.5)
    batch = corruption(together, RowGenerator(together.samples, 1, "corruption", 0))["input_ids"]
    elsewhere = pickle.loads(pickle.dumps(corruption))
    for number in range(24):
        rows = lay_out(store, samples, np.array([number]), length=96, progress=0.5)
        alone = elsewhere(rows, RowGenerator(rows.samples, 1, "corruption", 0))["input_ids"]
        assert np.array_equal(alone[0], batch[number, : int(rows.lengths[0])])


@pytest.mark.parametrize("options", [{"ngram": ALBERT}, {"unit": "entity", "selection": "each"}], ids=str)
def test_one_static_copy_is_the_dynamic_masks_of_epoch_0(store: Store, options: dict[str, object]) -> None:
    static, dynamic = masking(store, copies=1, **options), masking(store, **options)
    assert [static.chance_epoch(epoch) for epoch in range(3)] == [0, 0, 0]
    samples = static.plan(
        store, np.arange(store.num_documents), length=96, seed=7, epoch=static.chance_epoch(2)
    )
    rows = lay_out(store, samples, np.arange(len(samples)), length=96)
    first = static(rows, RowGenerator(rows.samples, 7, "corruption", static.chance_epoch(2)))
    second = dynamic(rows, RowGenerator(rows.samples, 7, "corruption", 0))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_rows_without_tokens_are_left_alone() -> None:
    for width in (0, 5):
        units = np.full((3, width), -1)
        for hidden in (
            choose_ngrams(units, np.ones(3, dtype=np.int64), RowGenerator(np.arange(3), 0), chances=ALBERT),
            choose_each(units, np.ones(3, dtype=np.int64), RowGenerator(np.arange(3), 0), rate=0.5),
        ):
            assert hidden.shape == (3, width)
            assert not hidden.any()


def test_units_that_the_store_does_not_mark_are_refused_with_the_way_out(tmp_path: Path) -> None:
    plain = small_store(tmp_path)
    for unit, way in (("phrase", "--phrases statistics"), ("entity", "--entities FILE")):
        with pytest.raises(ValueError, match=f"the store has no {unit} marks; prepare it again with {way}"):
            masking(plain, unit=unit)
        with pytest.raises(ValueError, match=f"no {unit} marks"):
            masking(plain, stages=("token", unit))


def test_chance_needs_ids_to_draw_from(store: Store) -> None:
    with pytest.raises(ValueError, match=f"lowest_random is 999999, but there are {store.vocab_size} ids"):
        masking(store, lowest_random=999_999)


def test_ernie_and_albert_are_built_from_their_recipes(store: Store) -> None:
    for name in ("ernie", "albert"):
        recipe = changed(read_recipe(name), ["training.length=96"])
        objective = build_objective(recipe, model_config(recipe, "tiny", store), store)
        part = getattr(objective, "parts")[0]  # noqa: B009
        assert isinstance(part, MaskedLM)
    plain = changed(read_recipe("macbert"), ["training.length=96"])
    with pytest.raises(SettingsError, match=r"none is named; pass --change objectives.0.similar.vectors="):
        build_objective(plain, model_config(plain, "tiny", store), store)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"whole": 1.5}, "whole is a share from 0 to 1, got 1.5"),
        ({"ngram": (0.5, 0.2)}, "ngram gives the chance of each length, with a sum of 1, got a sum of 0.7"),
        ({"ngram": (1.2, -0.2)}, "ngram gives the chance"),
        ({"stages": ("token", "word"), "stage_shares": (1.0,)}, "stage_shares has 1 entries for 2 stages"),
        ({"stages": ("token",), "stage_shares": (0.0,)}, "stage_shares must be above 0"),
        ({"stages": ("token", "word"), "copies": 2}, "cannot change their units"),
        ({"selection": "each", "ngram": (1.0,)}, "ngram needs a budget"),
        ({"selection": "each", "final_rate": 0.1}, "final_rate needs a budget"),
        ({"selection": "each", "most": 3}, "most needs a budget"),
        ({"lowest_random": -1}, "lowest_random must be at least 0, got -1"),
        ({"unit": "token", "similar": SimilarSettings()}, "similar replaces whole words"),
        ({"whole": 0.5, "similar": SimilarSettings()}, "similar replaces whole words"),
        ({"lowest_random": 1, "similar": SimilarSettings()}, "leave lowest_random out"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedLMSettings(**options)  # type: ignore[arg-type]
