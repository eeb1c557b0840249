"""Pairs of texts: one is read, the other written; with recipes of both families, fresh and from a folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import one_thread
from torch.nn import functional as F

from polyseme.checkpoints.loading import load
from polyseme.embedding.embedder import Embedder
from polyseme.errors import DataError, SettingsError
from polyseme.models.batch import Batch
from polyseme.objectives.rows import lay_out
from polyseme.objectives.sequences import Ends
from polyseme.objectives.translation import Translation, TranslationSettings, TwoTexts, pairs_of
from polyseme.seeding import RowGenerator
from polyseme.text.preparing import prepare
from polyseme.text.store import Store
from polyseme.text.tokenizer_learning import learn_tokenizer
from polyseme.training.building import begin, build_objective
from polyseme.training.pretraining import pretrain
from polyseme.training.recipes import changed, read_recipe
from polyseme.training.settings import PretrainSettings

assert one_thread  # a fixture, used by every test here

NUMBERS = {"一": "one", "二": "two", "三": "three", "四": "four", "五": "five", "六": "six"}
SMALL = ("training.batch_size=16", "training.accumulation=1", "training.length=32", "training.held_out=0.05")


def write_pairs(path: Path, *, count: int = 400) -> Path:
    """Numbers in Chinese, and in English."""
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(count):
        digits = rng.choice(list(NUMBERS), rng.integers(1, 7))
        lines.append(f"{''.join(digits)}\t{' '.join(NUMBERS[digit] for digit in digits)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pair_store(folder: Path, recipe: str, text: Path) -> Store:
    """A store of the pairs, with the recipe's own kind of tokenizer, which alone cuts tokens."""
    settings = {**read_recipe(recipe).tokenizer, "vocab_size": 90, "format": "pairs"}
    if "sentinels" in settings:
        settings |= {"sentinels": 12}
    learn_tokenizer([text], out=folder / "vocab", **settings)
    return prepare([text], tokenizer=folder / "vocab", out=folder / "store", format="pairs", words="none")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.tsv")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Store:
    return pair_store(tmp_path_factory.mktemp("transformer"), "transformer", text)


def corruption(store: Store, **changes: Any) -> TwoTexts:
    tokenizer = store.tokenizer
    ends = Ends((), (tokenizer.separator_id,), tokenizer.separator_id, tokenizer.padding_id)
    return TwoTexts(TranslationSettings(**changes), ends)


@pytest.mark.parametrize("backwards", [False, True])
def test_each_pair_is_read_on_one_side_and_written_on_the_other(
    store: Store, text: Path, backwards: bool
) -> None:
    lines = [line.split("\t") for line in text.read_text("utf-8").splitlines()]
    seen = {tuple(pair): None for pair in lines}  # repeated lines are kept by default
    assert store.num_documents == len(lines) >= len(seen)
    two = corruption(store, backwards=backwards)
    samples = two.plan(store, np.arange(store.num_documents), length=32, seed=0, epoch=0)
    rows = lay_out(store, samples, np.arange(len(samples)), length=32)
    arrays = two(rows, RowGenerator(rows.samples, 0))
    written = np.zeros_like(arrays["decoder_input_ids"])
    written.reshape(-1)[arrays["predicted"]] = arrays["labels"]
    assert (arrays["decoder_input_ids"][:, 0] == store.tokenizer.padding_id).all()
    assert (arrays["decoder_input_ids"][:, 1:] == written[:, :-1]).all()
    end = store.tokenizer.separator_id
    for number, line in enumerate(lines):
        first, second = (store.tokenizer.encode(side).ids.tolist() for side in line)
        read, wrote = (second, first) if backwards else (first, second)
        assert trimmed(arrays["input_ids"][number]) == [*read, end]
        assert trimmed(written[number]) == [*wrote, end]
        assert arrays["attention_mask"][number].sum() == len(read) + 1
        assert arrays["decoder_attention_mask"][number].sum() == len(wrote) + 1


def trimmed(row: np.ndarray) -> list[int]:
    """The row without the padding at its end, which is token 0."""
    return np.trim_zeros(row, "b").tolist()


def test_texts_longer_than_a_row_are_cut(store: Store) -> None:
    two = corruption(store)
    samples = two.plan(store, np.arange(store.num_documents), length=4, seed=0, epoch=0)
    arrays = two(lay_out(store, samples, np.arange(50), length=4), RowGenerator(np.arange(50), 0))
    assert arrays["input_ids"].shape[1] == arrays["decoder_input_ids"].shape[1] == 4
    assert (arrays["input_ids"][:, -1] <= store.tokenizer.separator_id).all()  # the end is never cut off


def test_documents_of_one_text_are_left_out_and_a_store_of_them_refused(tmp_path: Path, store: Store) -> None:
    (tmp_path / "mixed.tsv").write_text("一二\tone two\n三\t\x01\n\x01\tfour\n五\tfive\n", encoding="utf-8")
    mixed = prepare(
        [tmp_path / "mixed.tsv"], tokenizer=store.folder / "tokenizer", out=tmp_path / "mixed", format="pairs"
    )
    assert mixed.num_documents == 4
    assert len(pairs_of(mixed, np.arange(4))) == 2
    (tmp_path / "plain.txt").write_text("一二三\n\n四五\n", encoding="utf-8")
    plain = prepare([tmp_path / "plain.txt"], tokenizer=store.folder / "tokenizer", out=tmp_path / "plain")
    with pytest.raises(ValueError, match="translation needs pairs of texts"):
        corruption(plain).check(plain)
    with pytest.raises(DataError, match="no document of the store has two texts"):
        corruption(plain).plan(plain, np.arange(2), length=8, seed=0, epoch=0)


def built(store: Store, *changes: str) -> tuple[Any, Translation]:
    recipe = changed(read_recipe("transformer"), ("training.length=32", *changes))
    torch.manual_seed(0)
    backbone, _, _ = begin(recipe, store, PretrainSettings(size="tiny"))
    objective = build_objective(recipe, backbone.config, store)
    assert isinstance(objective, Translation)
    return backbone, objective


def first_batch(objective: Translation, store: Store, count: int = 6) -> Batch:
    samples = objective.corruption.plan(store, np.arange(store.num_documents), length=32, seed=0, epoch=0)
    rows = lay_out(store, samples, np.arange(count), length=32)
    arrays = objective.corruption(rows, RowGenerator(rows.samples, 0))
    return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def test_the_loss_is_torchs_with_padding_neither_asked_nor_counted(store: Store) -> None:
    backbone, objective = built(store, "objectives.0.label_smoothing=0.3")
    backbone.eval()
    batch = first_batch(objective, store)
    assert batch.decoder_attention_mask is not None
    assert batch.labels is not None
    logits = objective.heads["seq2seq-lm"](backbone(batch).decoded, backbone.embeddings.tokens.weight)
    targets = torch.full(batch.decoder_attention_mask.shape, -100)
    targets.view(-1)[batch.predicted] = batch.labels
    for training, smoothing in ((True, 0.3), (False, 0.0)):
        loss = objective.train(training)(backbone, batch)
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing)
        assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
        assert loss.predictions == int(batch.decoder_attention_mask.sum())


def test_what_cannot_write_or_is_no_pair_is_refused(store: Store) -> None:
    recipe = read_recipe("bert")
    backbone, _, _ = begin(recipe, store, PretrainSettings(size="tiny"))
    translation = changed(read_recipe("transformer"), ("training.length=32",))
    with pytest.raises(SettingsError, match="translation needs a decoder to write with"):
        build_objective(translation, backbone.config, store)
    spans = changed(read_recipe("t5"), ("training.length=32",))
    with pytest.raises(SettingsError, match="the store's tokenizer has none; learn one with sentinels=100"):
        build_objective(spans, built(store)[0].config, store)


def test_the_transformer_learns_to_translate(store: Store, tmp_path: Path) -> None:
    quick = ("training.learning_rate=5e-3", "training.matrix_learning_rate=1e-2", "training.warmup=40")
    small = ("sizes.tiny.hidden_size=64", "sizes.tiny.intermediate_size=128", "model.dropout=0.0")
    run = tmp_path / "run"
    outcome = pretrain(
        "transformer",
        store.folder,
        out=run,
        size="tiny",
        steps=400,
        change=(*SMALL, *small, *quick),
        threads=1,
    )
    assert outcome.unigram is not None
    assert outcome.losses["translation"] < outcome.unigram - 1
    model = load(run, heads=["seq2seq-lm"])
    sources = ("一二三", "六五", "四", "一六二五", "三三", "五四三二一", "二一六", "六六五四")
    right = [written(model, one) == " ".join(NUMBERS[digit] for digit in one) for one in sources]
    assert sum(right) >= 6  # by chance not one would be
    went_on = pretrain(
        "transformer",
        store.folder,
        out=tmp_path / "more",
        from_model=str(run),
        steps=2,
        change=SMALL,
        threads=1,
    )
    assert went_on.losses["translation"] < outcome.losses["translation"] + 0.5


@torch.no_grad()
def written(model: Any, source: str) -> str:
    """The most probable token after each other, every row read afresh."""
    tokenizer = model.tokenizer
    ids = torch.tensor([[*tokenizer.encode(source).ids.tolist(), tokenizer.separator_id]])
    out = [tokenizer.padding_id]
    while len(out) < 20 and out[-1] != tokenizer.separator_id:
        states = model.backbone(Batch(ids, decoder_input_ids=torch.tensor([out])))
        logits = model.heads["seq2seq-lm"](states.decoded, model.backbone.embeddings.tokens.weight)
        out.append(int(logits[0, -1].argmax()))
    return str(tokenizer.decode(out))


@pytest.mark.parametrize("recipe", ["t5", "t5-1.1"])
def test_t5_hides_spans_and_goes_on_to_pairs_from_its_folder(recipe: str, text: Path, tmp_path: Path) -> None:
    pairs = pair_store(tmp_path, recipe, text)
    run = tmp_path / "run"
    outcome = pretrain(recipe, pairs.folder, out=run, size="tiny", steps=20, change=SMALL, threads=1)
    assert set(outcome.losses) == {"span-corruption", "sentinels"}
    config = load(run, heads=["seq2seq-lm"]).backbone.config
    assert config.embedding.tied == (recipe == "t5")
    assert Embedder.load(run, layers="0:-1").sentences(["一二", "三"]).shape == (2, 3 * 128)
    again = pretrain(
        recipe, pairs.folder, out=tmp_path / "again", from_model=str(run), steps=5, change=SMALL, threads=1
    )
    assert again.losses["span-corruption"] < 6

    tuning = (
        "objectives.0.name=translation",
        "objectives.0.label_smoothing=0.0",
        "training.schedule=constant",
        "training.warmup=0",
    )
    tuned = pretrain(
        recipe,
        pairs.folder,
        out=tmp_path / "tuned",
        from_model=str(run),
        steps=120,
        change=(*SMALL, *tuning),
        threads=1,
    )
    assert tuned.unigram is not None
    assert tuned.losses["translation"] < tuned.unigram - 0.5
    assert load(tmp_path / "tuned", heads=["seq2seq-lm"]).card.family == "t5"
