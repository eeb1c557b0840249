"""The recipes of the encoders run from raw text on, and have the published sizes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import write_text
from foreign_models import CLEAN, one_thread

from polyseme.checkpoints.loading import load
from polyseme.models.batch import Batch
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.records import from_plain
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.preparing import prepare
from polyseme.text.store import Store
from polyseme.text.words import word_cutter
from polyseme.training.building import model_config
from polyseme.training.pretraining import pretrain
from polyseme.training.recipes import read_recipe, sized

assert one_thread  # a fixture, used by every test here
NAMES = (
    "bert-wwm-ext", "roberta-wwm-ext", "rbt3", "rbt4", "rbt6", "rbtl3", "macbert", "ernie", "roberta",
    "xlm-roberta", "albert", "modernbert",
)  # fmt: skip
SMALL = (
    "training.batch_size=4",
    "training.length=48",
    "training.held_out=0.05",
    "model.hidden_size=32",
    "model.num_heads=2",
    "model.intermediate_size=64",
)
PUBLISHED = {
    ("rbt3", "base"): 38,
    ("rbtl3", "large"): 61,
    ("roberta-wwm-ext", "base"): 102,
    ("macbert", "large"): 324,
    ("roberta", "base"): 125,
    ("roberta", "large"): 355,
    ("xlm-roberta", "base"): 278,
    ("xlm-roberta", "large"): 560,
    ("albert", "base"): 12,
    ("albert", "large"): 18,
    ("albert", "xlarge"): 60,
    ("albert", "xxlarge"): 223,
    ("modernbert", "base"): 149,
    ("modernbert", "large"): 395,
}
"""Millions of parameters, as the publishers count them; of ALBERT-xxlarge as the released file has them."""


def store_of(recipe: str, folder: Path) -> Store:
    """A store of a small text by the recipe's own tokenizer, with a vocabulary that the text can fill."""
    text = write_text(folder / "text.txt", documents=30)
    settings = read_recipe(recipe).tokenizer | {"vocab_size": 500}
    tokenizer = learn(
        text.read_text("utf-8").splitlines(), from_plain(settings, LearningSettings, where="here")
    )
    tokenizer.save(folder / "vocab")
    return prepare([text], tokenizer=folder / "vocab", out=folder / "store", phrases="statistics")


def vectors_of(text: Path) -> Path:
    """Word vectors by chance for the words of a text, in word2vec's format."""
    words = sorted(
        {word for line in text.read_text("utf-8").splitlines() for word in word_cutter("rjieba")(line)}
    )
    words = [word for word in words if word.strip()]
    vectors = np.random.default_rng(0).normal(size=(len(words), 6)).round(3)
    lines = [" ".join([word, *map(str, row)]) for word, row in zip(words, vectors.tolist(), strict=True)]
    path = text.with_name("vectors.txt")
    path.write_text(f"{len(words)} 6\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_from_raw_text_and_goes_on_from_its_model(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    store = store_of(name, tmp_path)
    change = list(SMALL)
    if name == "macbert":
        change.append(f"objectives.0.similar.vectors={vectors_of(tmp_path / 'text.txt')}")
    options: dict[str, Any] = {"size": "tiny", "steps": 2, "threads": 1, "change": change}
    first = pretrain(name, store.folder, out=tmp_path / "first", **options)
    assert first.finished
    second = pretrain(name, store.folder, out=tmp_path / "second", from_model=str(first.folder), **options)
    assert second.finished
    model = load(second.folder, heads=["masked-lm"])
    assert model.card.family == read_recipe(name).family
    assert model.tokenizer is not None
    frame = model.tokenizer.frame
    if not model.backbone.config.tells_segments:  # then the folder gives no types of tokens
        frame = frame._replace(
            types=store.tokenizer.frame.types, single_types=store.tokenizer.frame.single_types
        )
    assert frame == store.tokenizer.frame
    (kind,) = json.loads((second.folder / "config.json").read_text())["architectures"]
    theirs, info = getattr(transformers, kind).from_pretrained(second.folder, output_loading_info=True)
    # A pooler may lie beside a masked-lm head, which that class of transformers does not read.
    assert not any(info[key] for key in CLEAN if key != "unexpected_keys")
    assert not [key for key in info["unexpected_keys"] if "pooler" not in key]
    ids = torch.tensor([[*range(5, 17)]])
    with torch.no_grad():
        found = model.backbone(Batch(ids)).last
        expected = theirs.eval()(ids, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_size_of_a_recipe_can_be_built(name: str, tmp_path: Path) -> None:
    recipe, store = read_recipe(name), store_of(name, tmp_path)
    for size in recipe.sizes:
        assert model_config(recipe, size, store).num_layers == recipe.sizes[size]["num_layers"]


@pytest.mark.parametrize(("recipe_and_size", "millions"), PUBLISHED.items())
def test_the_published_sizes_have_the_published_number_of_parameters(
    recipe_and_size: tuple[str, str], millions: int
) -> None:
    name, size = recipe_and_size
    recipe = read_recipe(name)
    fields = sized(recipe, size).model | {"vocab_size": recipe.tokenizer["vocab_size"]}
    with torch.device("meta"):
        network = Transformer(from_plain(fields, TransformerConfig, where="here"))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.025, abs=0.6)
