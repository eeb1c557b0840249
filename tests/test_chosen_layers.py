"""A shallower network keeps the chosen layers of a deep one, and trains on from there."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from corpora import small_store
from foreign_models import one_thread, padded_batch, redraw

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.errors import SettingsError
from polyseme.models.transformer.chosen_layers import with_layers
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.text.store import Store
from polyseme.training.pretraining import pretrain
from polyseme.training.recipes import read_recipe

assert one_thread  # a fixture, used by every test here
MODERN = {
    "type_vocab_size": 0,
    "norm_position": "before",
    "positions": "rotary",
    "final_norm": True,
    "pooler": False,
    "attention": {"first_norm": False, "window": 6, "global_every": 3, "rotary": {"local_base": 100.0}},
}


def network(seed: int, **changes: Any) -> Transformer:
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_layers": 7, "num_heads": 2, "intermediate_size": 24}
    model = Transformer(msgspec.convert(sizes | changes, TransformerConfig)).eval()
    redraw(model, seed)
    return model


@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 4), (6,), tuple(range(7))])
def test_the_states_are_those_of_the_chosen_layers_in_turn(numbers: tuple[int, ...]) -> None:
    deep = network(0)
    kept = with_layers(deep, numbers)
    batch = padded_batch(0, 30, 2, 12)
    with torch.no_grad():
        view = deep.views[0](batch)
        hidden_states = deep.embeddings(batch)
        for number in numbers:
            hidden_states = deep.layers[number](hidden_states, *view)
        assert torch.equal(kept(batch).last, hidden_states)
        assert torch.equal(kept(batch).pooled, deep.pooler(hidden_states))
    assert kept.config.num_layers == len(numbers)
    assert not kept.training
    assert all(own is not other for own in kept.parameters() for other in deep.parameters())


def test_local_and_global_layers_keep_their_kind() -> None:
    deep = network(1, **MODERN)
    kept = with_layers(deep, (0, 1, 5, 6))
    batch = padded_batch(1, 30, 0, 30)
    with torch.no_grad():
        views = [view(batch) for view in deep.views]
        hidden_states = deep.embeddings(batch)
        for number in (0, 1, 5, 6):
            hidden_states = deep.layers[number](hidden_states, *views[int(number % 3 > 0)])
        assert torch.equal(kept(batch).last, deep.final_norm(hidden_states))


@pytest.mark.parametrize(
    ("changes", "numbers", "message"),
    [
        ({}, (), r"layers must be rising numbers from 0 to 6, got \[\]"),
        ({}, (0, 7), r"from 0 to 6, got \[0, 7\]"),
        ({}, (-1,), r"from 0 to 6, got \[-1\]"),
        ({}, (2, 1), r"rising numbers .* got \[2, 1\]"),
        ({}, (1, 1), r"rising numbers .* got \[1, 1\]"),
        ({"distinct_layers": 2}, (0,), "the layers share 2 sets of weights"),
        (MODERN, (1, 2), "layer 0 does not normalise its input, but layer 1 does; keep layer 0"),
        (MODERN, (0, 3), r"layer 3 would become layer 1, but only one .* \(every 3 layers\)"),
    ],
)
def test_layers_that_cannot_stand_alone_are_refused(
    changes: dict[str, Any], numbers: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        with_layers(network(2, **changes), numbers)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("layers"), documents=40)


def test_a_recipe_trains_on_from_chosen_layers(store: Store, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_layers": 4, "num_heads": 2, "intermediate_size": 24}
    config = TransformerConfig(vocab_size=store.vocab_size, padding_id=store.tokenizer.padding_id, **sizes)
    deep = Transformer(config)
    save(Model(deep, Card(family="bert"), {}, store.tokenizer), tmp_path / "deep")
    still = ["training.learning_rate=1e-12", "training.length=32", "training.batch_size=4"]
    options: dict[str, Any] = {"from_model": str(tmp_path / "deep"), "steps": 2, "threads": 1}
    outcome = pretrain("rbt3", store.folder, out=tmp_path / "run", layers=[0, 1, 3], change=still, **options)
    model = load(outcome.folder, heads=["masked-lm"])
    assert model.backbone.config.num_layers == 3
    assert model.card.made["layers"] == [0, 1, 3]
    for place, number in enumerate((0, 1, 3)):
        found, expected = model.backbone.layers[place], deep.layers[number]
        torch.testing.assert_close(found.attention.query.weight, expected.attention.query.weight)
    with pytest.raises(SettingsError, match=r"from 0 to 3, got \[0, 4\]"):
        pretrain("rbt3", store.folder, out=tmp_path / "more", layers=[0, 4], change=still, **options)
    with pytest.raises(SettingsError, match=r"another layers \(\[0, 1, 3\] then, \[0, 1, 2\] now\)"):
        pretrain("rbt3", store.folder, out=tmp_path / "run", layers=[0, 1, 2], change=still, **options)
    with pytest.raises(SettingsError, match=r"layers \[0\] are taken from a model; name it in from_model"):
        pretrain("rbt3", store.folder, out=tmp_path / "none", layers=[0])


@pytest.mark.parametrize(("name", "layers"), [("rbt3", 3), ("rbt4", 4), ("rbt6", 6), ("rbtl3", 3)])
def test_the_shallow_recipes_have_the_layers_of_their_names(name: str, layers: int) -> None:
    recipe = read_recipe(name)
    size = recipe.sizes[recipe.default_size]
    assert size["num_layers"] == layers
    assert size["hidden_size"] == (1024 if "l" in name else 768)
