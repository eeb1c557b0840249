"""Streams: nothing is left out between rows, and a memory that a kill does not lose."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import small_store, write_text
from foreign_models import one_thread

from polyseme.checkpoints.loading import load
from polyseme.errors import SettingsError
from polyseme.models.batch import Batch
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.memory import read_on
from polyseme.models.transformer.model import Transformer
from polyseme.objectives.rows import lay_out
from polyseme.objectives.samples import in_sequence, order
from polyseme.objectives.segment_lm import Kept, SegmentLM, SegmentLMSettings, Segments
from polyseme.objectives.streams import plan_streams
from polyseme.records import from_plain
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.preparing import prepare
from polyseme.text.store import Store
from polyseme.training import pretraining
from polyseme.training.building import Pretraining, model_config
from polyseme.training.held_out import held_out_batches
from polyseme.training.loader import Loader, Position
from polyseme.training.pretraining import pretrain
from polyseme.training.recipes import changed, read_recipe, sized

assert one_thread  # a fixture, used by every test here
SMALL = (
    "training.batch_size=3",
    "training.length=16",
    "training.held_out=0.1",
    "training.learning_rate=2e-3",
    "model.attention.relative.memory=24",
    "model.num_layers=2",
    "model.hidden_size=16",
    "model.num_heads=2",
    "model.intermediate_size=32",
    "model.dropout=0.1",
    "model.embedding.adaptive.cutoffs=[30, 80]",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("streams"), documents=120)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store made with the recipe's own tokenizer."""
    folder = tmp_path_factory.mktemp("words")
    text = write_text(folder / "text.txt", documents=100)
    settings = from_plain(read_recipe("transformer-xl").tokenizer, LearningSettings, where="test")
    learn(text.read_text("utf-8").splitlines(), settings).save(folder / "vocab")
    return prepare([text], tokenizer=folder / "vocab", out=folder / "store")


def everything(store: Store) -> np.ndarray:
    return np.arange(store.num_documents)


@pytest.mark.parametrize("length", [8, 33])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_row_i_of_a_batch_goes_on_where_row_i_stopped(store: Store, length: int, batch_size: int) -> None:
    loader = Loader(store, Segments(), everything(store), length, batch_size, seed=5)
    batches: list[Batch] = []
    for batch, after in loader.batches(Position(), lambda drawn: 0.0):
        batches.append(batch)
        if after.epoch:
            break
    samples = plan_streams(store, everything(store), length=length, seed=5, epoch=0)
    assert len(batches) == len(samples) // batch_size
    rows = lay_out(store, samples, np.arange(len(samples)), length=length).input_ids
    assert rows.shape[1] == length + 1
    for row in range(batch_size):
        read = torch.cat([batch.input_ids[row] for batch in batches])
        asked = torch.cat([batch.labels.view(batch_size, -1)[row] for batch in batches])  # type: ignore[union-attr]
        assert torch.equal(read[1:], asked[:-1])
        first = row * len(batches)
        assert np.array_equal(read.numpy(), rows[first : first + len(batches), :-1].reshape(-1))
        numbers = [int(batch.samples[row]) for batch in batches]  # type: ignore[index]
        assert numbers == list(range(first, first + len(batches)))


def test_joined_streams_are_the_documents_with_a_separator_after_each(store: Store) -> None:
    samples = plan_streams(store, everything(store), length=16, seed=0, epoch=0)
    rows = lay_out(store, samples, np.arange(len(samples)), length=16)
    assert rows.attention_mask.all()
    stream = np.concatenate([rows.input_ids[:, :-1].reshape(-1), rows.input_ids[-1, -1:]])
    ids, _ = store.gather(np.array([0]), np.array([store.num_tokens]))
    borders = store.document_starts
    end = store.tokenizer.separator_id
    texts = {(*ids[borders[d] : borders[d + 1]].tolist(), end) for d in everything(store)}
    cuts = np.flatnonzero(stream == end) + 1
    found = [tuple(part.tolist()) for part in np.split(stream, cuts)]
    assert set(found[:-1]) <= texts
    assert len(stream) > store.num_tokens + store.num_documents - 18


def test_streams_keep_their_order_and_other_samples_do_not(store: Store) -> None:
    samples = plan_streams(store, everything(store), length=16, seed=0, epoch=0)
    count = len(samples) // 4
    turn = order(samples, seed=3, epoch=2, batch_size=4)
    assert turn.reshape(count, 4)[:, 1].tolist() == list(range(count, 2 * count))
    assert np.array_equal(turn, in_sequence(samples, batch_size=4))
    few = plan_streams(store, everything(store)[:1], length=64, seed=0, epoch=0)
    assert len(few) >= 1
    assert in_sequence(few, batch_size=50).tolist() == list(range(len(few)))


def test_streams_differ_between_epochs_and_seeds_only(store: Store) -> None:
    plans = [
        plan_streams(store, everything(store), length=16, seed=seed, epoch=epoch).starts.tolist()
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert plans[0] == plans[1]
    assert len({tuple(plan) for plan in plans}) == 3


def test_a_text_that_fills_no_row_still_gives_one(store: Store) -> None:
    loader = Loader(store, Segments(), everything(store)[:1], 400, 2, seed=0)
    (batch,) = held_out_batches(loader)
    assert batch.attention_mask is not None
    assert batch.predicted is not None
    assert len(batch.predicted) == int(batch.attention_mask.sum()) - 1


def built(store: Store) -> Pretraining:
    recipe = changed(sized(read_recipe("transformer-xl"), "tiny"), [*SMALL, "model.dropout=0.0"])
    torch.manual_seed(0)
    config = model_config(recipe, "tiny", store)
    return Pretraining(Transformer(config), SegmentLM(SegmentLMSettings(), config, store))


def test_the_loss_is_that_of_reading_on_and_a_new_epoch_begins_empty(words: Store) -> None:
    module = built(words)
    loader = Loader(words, module.objective.corruption, everything(words)[:30], 16, 3, seed=0)
    batches = loader.batches(Position(), lambda drawn: 0.0)
    memory: Any = ()
    restarts = 0
    for _ in range(60):
        batch, after = next(batches)
        loss = module(batch)
        states, memory = read_on(module.backbone, batch, memory)
        expected = module.objective.loss(module.backbone, states, batch)
        assert torch.equal(loss.total, expected.total)
        if after.batch == 0:
            memory, restarts = (), restarts + 1
    assert restarts >= 1


def test_looking_at_held_out_text_leaves_the_memory_of_training_alone(words: Store) -> None:
    module = built(words)
    loader = Loader(words, module.objective.corruption, everything(words), 16, 3, seed=0)
    batches = loader.batches(Position(), lambda drawn: 0.0)
    for _ in range(3):
        module(next(batches)[0])
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.eval()
    looks = []
    for _ in range(2):
        looks.append([module(batch).total.item() for batch in held_out_batches(loader)])
    module.train()
    assert looks[0] == looks[1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert before["objective.kept.states"].shape == (2, 3, 24, 16)


def test_a_memory_of_any_shape_is_loaded() -> None:
    old, new = Kept(persistent=True), Kept(persistent=True)
    old.keep((torch.rand(2, 3, 4), torch.rand(2, 3, 4)), torch.tensor([4, 9]))
    new.load_state_dict(old.state_dict())
    assert torch.equal(torch.stack(new.behind(torch.tensor([5, 10]))), old.states)
    assert new.behind(torch.tensor([5, 11])) == ()
    assert new.behind(torch.tensor([5])) == ()
    assert Kept(persistent=False).state_dict() == {}


class Killed(BaseException):
    """Stands for SIGKILL: nothing behind it runs."""


def test_a_killed_run_ends_bit_equal(words: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: str) -> Any:
        return pretrain(
            "transformer-xl", words.folder, out=tmp_path / folder, size="tiny", steps=45, change=SMALL,
            threads=1, save_steps=7, precision="fp32",
        )  # fmt: skip

    run("whole")
    after = pretraining._Run._after
    for moment in (3, 16, 30):
        with monkeypatch.context() as patch:

            def fall(self: Any, step: Any, moment: int = moment) -> bool:
                if step.number == moment:
                    raise Killed
                return after(self, step)

            patch.setattr(pretraining._Run, "_after", fall)
            with pytest.raises(Killed):
                run("killed")
    outcome = run("killed")
    assert outcome.finished
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    states = [
        sorted((tmp_path / f / "state").iterdir())[-1] / "weights.safetensors" for f in ("whole", "killed")
    ]
    assert states[0].read_bytes() == states[1].read_bytes()


def test_the_recipe_runs_on_its_own_words_and_goes_on_from_its_model(words: Store, tmp_path: Path) -> None:
    options: dict[str, Any] = {"size": "tiny", "steps": 20, "threads": 1}
    one = pretrain("transformer-xl", words.folder, out=tmp_path / "one", change=SMALL, **options)
    assert one.unigram is not None
    assert os.path.isfile(tmp_path / "one" / "model.safetensors")
    two = pretrain(
        "transformer-xl", words.folder, out=tmp_path / "two", change=SMALL, steps=200, threads=1,
        from_model=str(tmp_path / "one"),
    )  # fmt: skip
    assert two.losses["adaptive-lm"] < one.losses["adaptive-lm"]
    assert two.losses["adaptive-lm"] < one.unigram - 0.3
    model = load(tmp_path / "two", heads=["adaptive-lm"])
    assert model.backbone.config.embedding.adaptive.cutoffs == (30, 80)


def test_a_network_without_memory_is_refused(store: Store) -> None:
    config = TransformerConfig(vocab_size=store.vocab_size, hidden_size=8, num_heads=2, num_layers=1)
    with pytest.raises(ValueError, match=r"positions to 'relative' and attention\.causal"):
        SegmentLM(SegmentLMSettings(), config, store)
    recipe = changed(
        sized(read_recipe("transformer-xl"), "tiny"), ["model.embedding.adaptive.cutoffs=[9000]"]
    )
    with pytest.raises(SettingsError, match="must lie below vocab_size"):
        model_config(recipe, "tiny", store)
