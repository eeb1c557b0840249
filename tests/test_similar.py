"""An audit of masked LM as correction: no [MASK], similar words of as many tokens, MacBERT's shares."""

import pickle
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from corpora import SENTENCES, small_store

from polyseme.cli import main
from polyseme.inspection.masks import show_masks
from polyseme.objectives.masked_lm import MaskedLMSettings, Masking, number_units
from polyseme.objectives.rows import lay_out
from polyseme.objectives.similar import SimilarSettings, SimilarWords, hashed, nearest_rows, similar_words
from polyseme.seeding import RowGenerator
from polyseme.text.store import Store
from polyseme.text.words import word_cutter

MACBERT = (0.4, 0.3, 0.2, 0.1)


def write_vectors(path: Path, *, leave_out: frozenset[str] = frozenset()) -> Path:
    """Random vectors of the words of the sentences, and of words that no text has."""
    rng = np.random.default_rng(0)
    cut = word_cutter("rjieba")
    words = sorted({word for sentence in SENTENCES for word in cut(sentence.lower())} - leave_out)
    words = [word for word in words if word.strip() and any(map(str.isalnum, word))]
    lines = [
        f"{word} {' '.join(f'{v:.5f}' for v in rng.normal(size=16))}" for word in (*words, "没有的词", "鑫鑫")
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("similar"), documents=120)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("vectors") / "v.txt", leave_out=frozenset({"软件", "合同"}))


def similar(store: Store, vectors: Path, **options: int) -> SimilarWords:
    settings = SimilarSettings(vectors=str(vectors), **options)
    return similar_words(settings, store, replaced=0.8, random=0.1)


def correcting(store: Store, vectors: Path, **options: object) -> Masking:
    settings = MaskedLMSettings(similar=SimilarSettings(vectors=str(vectors)), **options)  # type: ignore[arg-type]
    return Masking(settings, store.vocab_size, store.tokenizer.mask_id, similar(store, vectors))


def test_neighbours_are_the_nearest_known_words_of_as_many_tokens(store: Store, vectors: Path) -> None:
    found = similar(store, vectors, neighbours=4)
    tokenizer = store.tokenizer
    rows = dict(line.split(" ", 1) for line in vectors.read_text("utf-8").splitlines())
    spelled = {}
    for word, values in rows.items():
        ids = tuple(tokenizer.encode(word).ids.tolist())
        if tokenizer.unknown_id not in ids:
            spelled[ids] = np.array(values.split(), dtype=float)
    table = [tuple(row[row >= 0].tolist()) for row in found.table.ids]
    assert len(table) > 60
    assert set(table) <= set(spelled)
    assert tuple(tokenizer.encode("没有的词").ids.tolist()) not in table, "the store does not have it"
    for number, ids in enumerate(table):
        cosines = sorted(
            (
                (
                    float(
                        spelled[ids] @ spelled[o] / np.linalg.norm(spelled[ids]) / np.linalg.norm(spelled[o])
                    ),
                    o,
                )
                for o in table
                if len(o) == len(ids) and o != ids
            ),
            reverse=True,
        )
        near = [table[other] for other in found.neighbours[number] if other >= 0]
        assert len(near) == min(4, len(cosines))
        assert all(len(other) == len(ids) for other in near)
        # Vectors are rounded before they are compared, so two that are almost as near may change places.
        reached = {o: c for c, o in cosines}
        for other, (cosine, _) in zip(near, cosines, strict=False):
            assert abs(reached[other] - cosine) < 2e-3


def test_products_are_exact_whatever_the_order_of_adding() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3_000, 300)).astype(np.float32)
    vectors[5] = vectors[77] = vectors[1]  # ties
    vectors[9] = 0
    near = nearest_rows(vectors, 5)
    turn = rng.permutation(300)
    assert np.array_equal(near, nearest_rows(np.ascontiguousarray(vectors[:, turn]), 5))
    assert near[1].tolist()[:2] == [5, 77]
    assert (near != np.arange(3_000)[:, None]).all()


def test_the_audit_of_macbert(store: Store, vectors: Path) -> None:
    """0 [MASK]; 80 % similar, 10 % random, 10 % kept by words; same lengths; nothing else changed."""
    corruption = correcting(store, vectors, ngram=MACBERT)
    found = corruption.similar
    assert found is not None
    table = [tuple(row[row >= 0].tolist()) for row in found.table.ids]
    near = {
        ids: {table[other] for other in row if other >= 0}
        for ids, row in zip(table, found.neighbours, strict=True)
    }
    known: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    special = store.tokenizer.special_ids
    documents = np.arange(store.num_documents)
    for epoch in range(40):
        samples = corruption.plan(store, documents, length=96, seed=0, epoch=epoch)
        rows = lay_out(store, samples, np.arange(len(samples)), length=96)
        arrays = corruption(rows, RowGenerator(rows.samples, 0, "corruption", epoch))
        after = np.asarray(arrays["input_ids"])
        hidden = np.zeros(after.size, dtype=bool)
        hidden[arrays["predicted"]] = True
        hidden = hidden.reshape(after.shape)
        assert np.array_equal(after[~hidden], rows.input_ids[~hidden])
        assert not (after == store.tokenizer.mask_id).any()
        assert not np.isin(after[hidden & (rows.input_ids != after)], list(special)).any()
        assert (hidden.sum(axis=1) <= corruption.budget(rows.lengths, progress=0)).all()
        units = number_units(rows, unit="word")
        words: dict[tuple[int, int], list[tuple[int, int, bool]]] = defaultdict(list)
        for row, place in zip(*np.nonzero(units >= 0), strict=True):
            words[row, units[row, place]].append(
                (rows.input_ids[row, place], after[row, place], hidden[row, place])
            )
        for tokens in words.values():
            old, new, hid = (tuple(int(t[i]) for t in tokens) for i in range(3))
            assert len(set(hid)) == 1, "words are whole"
            if not hid[0]:
                continue
            fate = "kept" if new == old else "similar" if new in near.get(old, ()) else "random"
            (known if near.get(old) else unknown)[fate] += 1
    total = sum(known.values())
    assert total > 2_000
    # A random word may be a similar one or the word itself: at most one in twenty of a tenth.
    for fate, share in (("similar", 0.8), ("random", 0.1), ("kept", 0.1)):
        slip = 0.1 * 0.6 if fate != "kept" else 0.1 * 0.05
        assert abs(known[fate] / total - share) < 3 * np.sqrt(share * (1 - share) / total) + slip, fate
    assert known["similar"] / total > 0.8 - 3 * np.sqrt(0.16 / total)
    without = sum(unknown.values())
    assert without > 50
    assert unknown["similar"] == 0
    assert abs(unknown["random"] / without - 0.9) < 4 * np.sqrt(0.09 / without) + 0.01


def test_each_word_of_a_run_takes_its_own_lot(store: Store, vectors: Path) -> None:
    found = similar(store, vectors)
    units = np.tile(np.array([0, 0, 1, 1, 2, 2]), (4_000, 1))
    word = next(
        n for n in range(len(found.table)) if found.table.sizes[n] == 2 and found.neighbours[n, 0] >= 0
    )
    ids = np.tile(found.table.ids[word][:2], 3)
    changed = found.replace(np.tile(ids, (4_000, 1)), units, units >= 0, RowGenerator(np.arange(4_000), 1))
    kept = (changed.reshape(4_000, 3, 2) == ids[:2]).all(axis=2)
    both = (kept[:, 0] & kept[:, 1]).mean()
    assert abs(both - kept[:, 0].mean() * kept[:, 1].mean()) < 4 * np.sqrt(0.01 * 0.99 / 4_000)


def test_corrections_do_not_depend_on_company_padding_or_process(store: Store, vectors: Path) -> None:
    from polyseme.objectives.sentence_order import Orders, SentenceOrderSettings

    corruption = correcting(store, vectors, ngram=MACBERT)
    documents = np.arange(store.num_documents)
    samples = Orders(SentenceOrderSettings()).plan(store, documents, length=96, seed=1, epoch=0)
    together = lay_out(store, samples, np.arange(24), length=96)
    batch = corruption(together, RowGenerator(together.samples, 1, "corruption", 0))["input_ids"]
    elsewhere = pickle.loads(pickle.dumps(correcting(store, vectors, ngram=MACBERT)))
    for number in range(24):
        rows = lay_out(store, samples, np.array([number]), length=96)
        alone = elsewhere(rows, RowGenerator(rows.samples, 1, "corruption", 0))["input_ids"]
        assert np.array_equal(alone[0], batch[number, : int(rows.lengths[0])])


def test_words_are_found_by_all_of_their_tokens(store: Store, vectors: Path) -> None:
    table = similar(store, vectors).table
    assert np.array_equal(table.find(table.ids), np.arange(len(table)))
    changed = table.ids.copy()
    changed[:, 0] += 1
    places = table.find(changed)
    assert all(
        place < 0 or (table.ids[place] == row).all() for place, row in zip(places, changed, strict=True)
    )
    assert len(np.unique(hashed(table.ids))) == len(table)


def test_only_the_most_frequent_words_are_kept(store: Store, vectors: Path) -> None:
    few = similar(store, vectors, words=10)
    assert len(few.table) == 10
    everything = similar(store, vectors)
    assert {tuple(row) for row in few.table.ids} < {tuple(row) for row in everything.table.ids}


def test_vectors_of_another_language_are_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("bonjour 1 2\nmonde 2 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no word of the store has a vector in"):
        similar(store, tmp_path / "v.txt")


def test_show_masks_shows_corrections(
    store: Store, vectors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = (f"objectives.0.similar.vectors={vectors}", "training.length=96")
    summary = show_masks(store.folder, recipe="macbert", change=change)
    assert summary.masked == 0
    assert summary.random > 0.7
    assert summary.words_cut == 0
    assert {row.answer for row in summary.rows} <= {"the texts are in order", "the texts are swapped"}
    arguments = ["show", "masks", str(store.folder), "--recipe", "macbert", "--change", *change]
    assert main(arguments) == 0
    assert "→ the texts are " in capsys.readouterr().out
    assert main(["show", "masks", str(store.folder), "--recipe", "macbert"]) != 0
    assert "similar words come from a file of word vectors" in capsys.readouterr().err
