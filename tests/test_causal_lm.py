"""Next tokens: what is asked, what is seen, and what it costs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import small_store, write_text

from polyseme.checkpoints.loading import load
from polyseme.errors import SettingsError
from polyseme.inspection.masks import show_masks
from polyseme.models.batch import IGNORED, Batch
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.objectives.causal_lm import CausalLM, CausalLMSettings, NextTokens
from polyseme.objectives.rows import lay_out
from polyseme.records import from_plain
from polyseme.seeding import RowGenerator
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.preparing import prepare
from polyseme.text.store import Store
from polyseme.training.held_out import held_out_batches, unigram_level
from polyseme.training.loader import Loader
from polyseme.training.pretraining import pretrain
from polyseme.training.recipes import read_recipe

LENGTH = 40
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 48,
    "type_vocab_size": 0,
    "pooler": False,
    "max_position_embeddings": 64,
    "embedding": {"norm": False},
    "attention": {"causal": True},
}
BEFORE = {"norm_position": "before", "final_norm": True}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("causal"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(vocab_size: int, **changes: Any) -> Transformer:
    torch.manual_seed(0)
    config = from_plain({"vocab_size": vocab_size, **SHAPE, **changes}, TransformerConfig, where="here")
    model = Transformer(config).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.2
    return model


def stream(store: Store, order: list[int]) -> list[int]:
    """The documents one after another, a separator behind each."""
    starts = store.document_starts
    tokens: list[int] = []
    for number in order:
        ids, _ = store.gather(starts[[number]], starts[[number + 1]])
        tokens += [*ids.tolist(), store.tokenizer.separator_id]
    return tokens


def batches(store: Store, *, epoch: int = 0, **options: Any) -> Iterator[dict[str, np.ndarray]]:
    corruption = NextTokens(CausalLMSettings(**options))
    samples = corruption.plan(store, np.arange(store.num_documents), length=LENGTH, seed=1, epoch=epoch)
    for chosen in np.array_split(np.arange(len(samples)), 5):
        rows = lay_out(store, samples, chosen, length=LENGTH)
        yield corruption(rows, RowGenerator(chosen, 1, "corruption", epoch))


def test_every_token_of_the_text_is_read_once_and_asks_for_the_next(store: Store) -> None:
    asked: list[int] = []
    for arrays in batches(store):
        ids, labels = arrays["input_ids"], arrays["labels"]
        assert ids.shape == labels.shape == (len(ids), LENGTH - 1)
        real = arrays.get("attention_mask", np.ones(ids.shape, dtype=bool))
        for row, of_row, mask in zip(ids, labels, real, strict=True):
            count = int((of_row != IGNORED).sum())
            assert (of_row[:count] != IGNORED).all()
            np.testing.assert_array_equal(of_row[: count - 1], row[1:count])
            asked += [int(row[0]), *of_row[:count].tolist()]
            assert mask[:count].all()
    everything = stream(store, list(range(store.num_documents)))
    assert sorted(asked) == sorted(everything)
    one_epoch, other = (
        np.concatenate([arrays["input_ids"] for arrays in batches(store, epoch=n)]) for n in (0, 1)
    )
    assert one_epoch.shape == other.shape
    assert not np.array_equal(one_epoch, other)


def test_the_same_seed_gives_the_same_rows(store: Store) -> None:
    for one, other in zip(batches(store), batches(store), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
def test_no_token_sees_a_later_one(positions: str, position: str) -> None:
    model = network(50, positions=positions, **(BEFORE if position == "before" else {}))
    ids = torch.randint(0, 50, (2, 20), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        states = model(Batch(ids), every_layer=True).layers
        for changed in (1, 7, 19):
            other = ids.clone()
            other[:, changed] = (other[:, changed] + 1) % 50
            for before, after in zip(states, model(Batch(other), every_layer=True).layers, strict=True):
                assert torch.equal(before[:, :changed], after[:, :changed])
                assert not torch.equal(before[:, changed:], after[:, changed:])


def test_documents_see_each_other_unless_they_are_separated(store: Store) -> None:
    model = network(store.vocab_size, **BEFORE)
    for separate in (False, True):
        arrays = next(batches(store, separate=separate))
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
        row = next(r for r in range(len(tensors["input_ids"])) if _border(arrays, r, store) is not None)
        border = _border(arrays, row, store)
        assert border is not None
        tensors = {name: value[row : row + 1] for name, value in tensors.items()}
        changed = tensors["input_ids"].clone()
        changed[0, 0] = (changed[0, 0] + 1) % store.vocab_size
        with torch.no_grad():
            one = model(Batch(**tensors)).last
            other = model(Batch(**tensors | {"input_ids": changed})).last
            assert torch.equal(one[0, border:], other[0, border:]) == separate
            if separate:
                assert tensors["labels"][0, border - 1] == IGNORED
                rest = {"input_ids": tensors["input_ids"][:, border:]}
                rest["document_ids"] = tensors["document_ids"][:, border:]
                torch.testing.assert_close(model(Batch(**rest)).last, one[:, border:], atol=1e-5, rtol=0)


def _border(arrays: dict[str, np.ndarray], row: int, store: Store) -> int | None:
    """The place after the row's first separator, if the row goes on there."""
    (places,) = np.nonzero(arrays["input_ids"][row, 1:-5] == store.tokenizer.separator_id)
    return int(places[0]) + 2 if len(places) else None


def test_the_loss_is_the_mean_over_all_next_tokens(store: Store) -> None:
    model = network(store.vocab_size, **BEFORE)
    objective = CausalLM(CausalLMSettings(weight=0.5), model.config, store)
    arrays = list(batches(store))[-1]
    batch = Batch(**{name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()})
    assert batch.labels is not None
    loss = objective(model, batch)
    logits = model(batch).last @ model.embeddings.tokens.weight.t()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
    assert loss.parts["causal-lm"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.total.item() == pytest.approx(expected.item() / 2, rel=1e-5)
    assert loss.predictions == int((batch.labels != IGNORED).sum())


def test_a_network_that_looks_ahead_is_refused(store: Store) -> None:
    config = network(store.vocab_size, attention={"causal": False}).config
    with pytest.raises(
        ValueError, match=r"causal-lm predicts what a token could see in this network; set att"
    ):
        CausalLM(CausalLMSettings(), config, store)


def test_the_level_of_word_frequencies_counts_separators_too(store: Store) -> None:
    corruption = NextTokens(CausalLMSettings())
    documents = np.arange(store.num_documents)
    kept = held_out_batches(Loader(store, corruption, documents, LENGTH, 8, seed=0))
    level = unigram_level(store, kept)
    counts = store.counts.astype(float) + 1
    counts[store.tokenizer.separator_id] += store.num_documents
    logs = np.log(counts / counts.sum())
    labels = np.concatenate([batch.labels.numpy().reshape(-1) for batch in kept if batch.labels is not None])
    assert level == pytest.approx(-logs[labels[labels != IGNORED]].mean())


@pytest.mark.parametrize("name", ["gpt", "gpt2"])
def test_a_recipe_runs_and_goes_on_from_its_model(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    text = write_text(tmp_path / "text.txt", documents=120)
    settings = from_plain(recipe.tokenizer | {"vocab_size": 400}, LearningSettings, where=name)
    learn(text.read_text("utf-8").splitlines(), settings).save(tmp_path / "vocab")
    prepared = prepare([text], tokenizer=tmp_path / "vocab", out=tmp_path / "store")
    common: dict[str, Any] = {"size": "tiny", "threads": 1}
    small = ["training.batch_size=4", "training.length=48"]
    first = pretrain(name, prepared.folder, out=tmp_path / "one", steps=20, change=small, **common)
    assert first.finished
    assert first.unigram is not None
    assert set(first.losses) == {"causal-lm"}
    more = pretrain(
        name,
        prepared.folder,
        out=tmp_path / "two",
        steps=10,
        change=small,
        from_model=str(tmp_path / "one"),
        **common,
    )
    assert more.losses["causal-lm"] < first.losses["causal-lm"]
    again = load(tmp_path / "two", heads=["causal-lm"])
    assert again.card.family == recipe.family
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "two").eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        ours = again.backbone(Batch(ids)).last @ again.backbone.embeddings.tokens.weight.t()
        torch.testing.assert_close(ours, theirs(ids).logits, atol=1e-4, rtol=0)


def test_an_objective_that_hides_nothing_has_no_masks_to_show(store: Store) -> None:
    with pytest.raises(
        SettingsError, match="gpt2 hides no tokens; its objective predicts what stands in the"
    ):
        show_masks(store.folder, recipe="gpt2")
