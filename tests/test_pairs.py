"""What is asked of several texts in a row: their order, whether they follow, whether a dialogue is one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import SENTENCES, small_store

from polyseme.checkpoints.loading import load
from polyseme.errors import CheckpointError, DataError, SettingsError
from polyseme.objectives.dialogue import FAKE, TRUE, DialogueSettings, Turns, turns_of
from polyseme.objectives.joint import JointCorruption
from polyseme.objectives.masked_lm import MaskedLMSettings, Masking
from polyseme.objectives.next_sentence import FOLLOWS, RANDOM, NextSentenceSettings, Pairs
from polyseme.objectives.rows import lay_out
from polyseme.objectives.samples import Samples
from polyseme.objectives.sentence_order import (
    IN_ORDER,
    SWAPPED,
    FaithfulOrders,
    Orders,
    SentenceOrderSettings,
)
from polyseme.seeding import RowGenerator
from polyseme.text.preparing import prepare
from polyseme.text.store import Mark, Store
from polyseme.training.pretraining import pretrain


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("pairs"), documents=300)


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Dialogues of one to seven turns; each turn ends in its own number, so that it is known again."""
    folder = tmp_path_factory.mktemp("dialogues")
    lines, number = [], 0
    for dialogue in range(160):
        for _ in range(1 + dialogue % 7):
            lines.append(f"{SENTENCES[number % len(SENTENCES)][: 8 + number % 20]} {number}")
            number += 1
        lines.append("")
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    small_store(folder)
    return prepare([folder / "text.txt"], tokenizer=folder / "vocab", out=folder / "turns", turns=True)


def everything(store: Store) -> np.ndarray:
    return np.arange(store.num_documents)


def document_of(store: Store, positions: np.ndarray) -> np.ndarray:
    return np.searchsorted(store.document_starts, positions, side="right") - 1


def labels_of(samples: Samples) -> np.ndarray:
    assert samples.pair_labels is not None
    return np.asarray(samples.pair_labels)


def test_labels_of_order_agree_with_the_text_and_are_balanced(store: Store) -> None:
    labels = []
    for seed in range(6):
        samples = Orders(SentenceOrderSettings()).plan(
            store, everything(store), length=64, seed=seed, epoch=0
        )
        first, second = samples.rows[:-1], samples.rows[:-1] + 1
        assert (np.diff(samples.rows) == 2).all()
        assert (document_of(store, samples.starts[first]) == document_of(store, samples.starts[second])).all()
        swapped = samples.starts[first] > samples.starts[second]
        assert np.array_equal(labels_of(samples) == SWAPPED, swapped)
        early, late = np.where(swapped, second, first), np.where(swapped, first, second)
        gap = samples.starts[late] - samples.stops[early]
        whole = samples.stops[late] - samples.starts[early] < 61
        assert (gap[whole] == 0).all(), "the two are neighbours where nothing had to be left out"
        assert (gap >= 0).all()
        labels.append(labels_of(samples))
    joined = np.concatenate(labels)
    assert abs((joined == SWAPPED).mean() - 0.5) < 3 * np.sqrt(0.25 / len(joined))


def test_the_same_sentences_are_read_whatever_the_order(store: Store) -> None:
    """Unlike next sentence, no chunk is read again or left over: each token at most once."""
    samples = Orders(SentenceOrderSettings(short=0.0)).plan(
        store, everything(store), length=512, seed=0, epoch=0
    )
    turn = np.argsort(samples.starts)
    assert samples.starts[turn][0] == 0
    assert np.array_equal(samples.starts[turn][1:], samples.stops[turn][:-1])
    assert samples.stops.max() == store.num_tokens


def single_sentences(store: Store, folder: Path) -> Store:
    text = folder / "single.txt"
    text.write_text("今天天气很好。\n\n人民法院依法独立行使审判权。\n\n。\n", encoding="utf-8")
    return prepare([text], tokenizer=store.folder / "tokenizer", out=folder / "single")


def test_a_sentence_alone_is_cut_at_a_word_or_gets_a_foreign_second_as_published(
    store: Store, tmp_path: Path
) -> None:
    single = single_sentences(store, tmp_path)
    settings = SentenceOrderSettings(short=0.0)
    cut = Orders(settings).plan(single, everything(single), length=64, seed=0, epoch=0)
    assert len(cut) == 2, "a sentence of one token cannot be cut"
    for start in cut.starts.tolist():
        _, marks = single.gather(np.array([start]), np.array([start + 1]))
        assert marks[0] & Mark.WORD
    for seed in range(20):
        faithful = FaithfulOrders(settings).plan(single, everything(single), length=64, seed=seed, epoch=0)
        assert labels_of(faithful).tolist() == [SWAPPED] * 3
        first, second = faithful.starts[::2], faithful.starts[1::2]
        assert (document_of(single, first) != document_of(single, second)).all()
    with pytest.raises(DataError, match="at least 2 documents to draw from, and there is 1"):
        FaithfulOrders(settings).plan(single, np.arange(1), length=64, seed=0, epoch=0)
    assert len(Orders(settings).plan(single, np.arange(1), length=64, seed=0, epoch=0)) == 1


def test_ernie_s_labels_are_bert_s_turned_round(store: Store) -> None:
    plans = [
        Pairs(NextSentenceSettings(follows=follows)).plan(
            store, everything(store), length=64, seed=2, epoch=0
        )
        for follows in (0, 1)
    ]
    assert np.array_equal(plans[0].starts, plans[1].starts)
    assert np.array_equal(labels_of(plans[0]), 1 - labels_of(plans[1]))
    first, second = plans[1].rows[:-1], plans[1].rows[:-1] + 1
    same = document_of(store, plans[1].starts[first]) == document_of(store, plans[1].starts[second])
    assert (same[labels_of(plans[1]) == 1]).all()
    assert (FOLLOWS, RANDOM, IN_ORDER, SWAPPED) == (0, 1, 0, 1)


@pytest.mark.parametrize("turns", [2, 3, 4])
def test_half_of_the_dialogues_have_a_false_response_and_the_labels_say_which(
    dialogues: Store, turns: int
) -> None:
    spans = [turns_of(dialogues, document) for document in range(dialogues.num_documents)]
    place = {
        start: (document, n) for document, found in enumerate(spans) for n, (start, _) in enumerate(found)
    }
    fake, read = [], set()
    for seed in range(4):
        samples = Turns(DialogueSettings(turns=turns)).plan(
            dialogues, everything(dialogues), length=128, seed=seed, epoch=0
        )
        for number, label in enumerate(labels_of(samples).tolist()):
            row = samples.starts[samples.rows[number] : samples.rows[number + 1]].tolist()
            at = [place[start] for start in row]
            assert 2 <= len(row) <= turns
            true = [(at[0][0], at[0][1] + step) for step in range(len(row))]
            false = [step for step in range(len(row)) if at[step] != true[step]]
            if label == TRUE:
                assert not false
                read |= set(at)
            else:
                assert label == FAKE
                assert len(false) == 1
                assert false[0] % 2 == 1, "a response, not a question"
                assert at[false[0]][0] != at[0][0], "from elsewhere"
            fake.append(label == FAKE)
    assert abs(np.mean(fake) - 0.5) < 3 * np.sqrt(0.25 / len(fake))
    several = {(d, n) for d, found in enumerate(spans) if len(found) > 1 for n in range(len(found))}
    assert len(read) > 0.8 * len(several)


def test_turns_fit_and_take_the_types_of_their_roles(dialogues: Store) -> None:
    settings = MaskedLMSettings(unit="word")
    masking = Masking(settings, dialogues.vocab_size, dialogues.tokenizer.mask_id)
    corruption = JointCorruption((masking, Turns(DialogueSettings(turns=3))))
    tokenizer = dialogues.tokenizer
    for length in (16, 128):
        samples = corruption.plan(dialogues, everything(dialogues), length=length, seed=0, epoch=0)
        rows = lay_out(dialogues, samples, np.arange(len(samples)), length=length)
        arrays = corruption(rows, RowGenerator(rows.samples, 0, "corruption", 0))
        sizes = samples.stops - samples.starts
        assert sizes.min() >= 1
        assert rows.lengths.max() <= length
        types = np.asarray(arrays["token_type_ids"])
        for row in range(len(samples)):
            separators = np.flatnonzero(rows.input_ids[row] == tokenizer.separator_id)
            turn_of = np.searchsorted(separators, np.arange(int(rows.lengths[row])))
            assert np.array_equal(types[row, : int(rows.lengths[row])], turn_of % 2)
        assert set(arrays) >= {"input_ids", "predicted", "labels", "pair_labels"}


def test_dialogue_refuses_stores_without_turns(store: Store) -> None:
    with pytest.raises(ValueError, match="no turn marks; prepare it again with --turns"):
        Turns(DialogueSettings()).check(store)
    with pytest.raises(ValueError, match="turns must be at least 2"):
        DialogueSettings(turns=1)
    with pytest.raises(ValueError, match="swapped is a share from 0 to 1, got 2"):
        SentenceOrderSettings(swapped=2)


TINY = (
    "training.batch_size=4",
    "training.length=48",
    "training.held_out=0.05",
    "sizes.tiny.num_layers=1",
    "sizes.tiny.hidden_size=32",
    "sizes.tiny.num_heads=2",
    "sizes.tiny.intermediate_size=64",
)


def vectors(path: Path) -> Path:
    rng = np.random.default_rng(0)
    words = ("程序", "法院", "软件", "合同", "网络", "公民", "机关", "当事人", "执行", "人民", "的", "应当")
    path.write_text(
        "".join(f"{word} {' '.join(f'{v:.4f}' for v in rng.normal(size=8))}\n" for word in words), "utf-8"
    )
    return path


@pytest.mark.parametrize("name", ["macbert", "ernie", "albert"])
def test_recipes_train_and_go_on_from_what_they_made(name: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    small_store(tmp_path, documents=120)
    (tmp_path / "entities").write_text("人民法院\n行政机关\n", encoding="utf-8")
    marked = prepare(
        [text],
        tokenizer=tmp_path / "vocab",
        out=tmp_path / "marked",
        phrases="statistics",
        phrase_threshold=20.0,
        entities=str(tmp_path / "entities"),
    )
    change = list(TINY)
    if name == "macbert":
        change.append(f"objectives.0.similar.vectors={vectors(tmp_path / 'v.txt')}")
    options = {"steps": 4, "threads": 1, "device": "cpu", "change": change}
    first = pretrain(name, marked.folder, out=tmp_path / "first", size="tiny", **options)
    assert set(first.losses) == {"masked-lm", "next-sentence" if name == "ernie" else "sentence-order"}
    pair = "sentence-order" if name == "albert" else "next-sentence"  # MacBERT's stands in a BERT folder
    assert all(np.isfinite(value) for value in first.losses.values())
    model = load(tmp_path / "first", heads=["masked-lm", pair])
    assert set(model.heads) == {"masked-lm", pair}
    again = pretrain(
        name, marked.folder, out=tmp_path / "again", from_model=str(tmp_path / "first"), **options
    )
    assert again.finished
    went_on = load(tmp_path / "again", heads=["masked-lm", pair])
    before, after = (m.heads[pair].state_dict()["dense.weight"] for m in (model, went_on))
    assert (before - after).abs().max() < 0.05, "the pair head was taken over"
    assert not torch.equal(before, after)


def test_a_dialogue_model_trains_and_keeps_its_head(dialogues: Store, tmp_path: Path) -> None:
    change = [*TINY, 'objectives=[{name="masked-lm",unit="word"},{name="dialogue"}]']
    options = {"steps": 4, "threads": 1, "device": "cpu", "change": change}
    first = pretrain("bert", dialogues.folder, out=tmp_path / "run", size="tiny", **options)
    assert set(first.losses) == {"masked-lm", "dialogue"}
    pretrain("bert", dialogues.folder, out=tmp_path / "on", from_model=str(tmp_path / "run"), **options)
    assert "next-sentence" in load(tmp_path / "on", heads=["next-sentence"]).heads


def test_what_no_folder_could_hold_is_refused_before_training(store: Store, tmp_path: Path) -> None:
    options = {"out": tmp_path / "run", "size": "tiny", "steps": 1}
    change = [*TINY, 'objectives=[{name="masked-lm"},{name="sentence-order"}]']
    with pytest.raises(CheckpointError, match="bert folder cannot hold the heads masked-lm, sentence-order"):
        pretrain("bert", store.folder, change=change, **options)
    change = [*TINY, 'objectives=[{name="next-sentence"},{name="sentence-order",head="next-sentence"}]']
    with pytest.raises(SettingsError, match="two objectives of the recipe use the head next-sentence"):
        pretrain("bert", store.folder, change=change, **options | {"out": tmp_path / "other"})


def test_an_absent_mark_is_refused_before_training_with_the_command(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no phrase marks; prepare it again with --phrases statistics"):
        pretrain("ernie", store.folder, out=tmp_path / "run", size="tiny", steps=1, change=list(TINY))
