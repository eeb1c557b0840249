"""ALBERT's folders hold the same models here and in transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_models import (
    assert_classifier,
    assert_there_and_back,
    change_settings,
    encoder_choices,
    foreign_folder,
    one_thread,
    padded_batch,
)

from polyseme.checkpoints.loading import load
from polyseme.errors import CheckpointError
from polyseme.models.transformer.config import EmbeddingChoices, TransformerConfig
from polyseme.models.transformer.model import Transformer, course

pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here


@pytest.mark.parametrize("seed", range(10))
def test_a_folder_means_the_same_here_and_in_transformers(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    chosen = encoder_choices(400 + seed) | {"embedding_size": int(rng.integers(4, 20))}
    layers = int(rng.integers(1, 6))
    chosen |= {"num_hidden_layers": layers, "num_hidden_groups": int(rng.integers(1, min(layers, 3) + 1))}
    assert_there_and_back(
        "AlbertForPreTraining",
        ["masked-lm", "sentence-order"],
        tmp_path,
        seed,
        longest=chosen["max_position_embeddings"],
        types=chosen["type_vocab_size"],
        **chosen,
    )


@pytest.mark.parametrize(("kind", "heads"), [("AlbertModel", []), ("AlbertForMaskedLM", ["masked-lm"])])
def test_every_set_of_heads_goes_there_and_back(kind: str, heads: list[str], tmp_path: Path) -> None:
    assert_there_and_back(kind, heads, tmp_path, 1, longest=20, types=2, vocab_size=40)


def test_a_classifier_keeps_its_scores(tmp_path: Path) -> None:
    assert_classifier("AlbertForSequenceClassification", tmp_path, types=2)


def test_many_layers_are_one_layer_applied_many_times() -> None:
    config = TransformerConfig(
        vocab_size=40, hidden_size=16, num_layers=5, distinct_layers=1, num_heads=2, intermediate_size=24,
        embedding=EmbeddingChoices(size=6),
    )  # fmt: skip
    torch.manual_seed(0)
    model = Transformer(config).eval()
    batch = padded_batch(0, 40, 2, 12)
    (layer,) = model.layers
    with torch.no_grad():
        states = model(batch, every_layer=True).layers
        view = model.views[0](batch)
        hidden_states = model.projection(model.embeddings(batch))
        for number in range(5):
            assert torch.equal(states[number], hidden_states)
            hidden_states = layer(hidden_states, *view)
        assert torch.equal(states[5], hidden_states)


def test_layers_share_weights_by_the_published_grouping() -> None:
    for layers in range(1, 49):
        for groups in range(1, layers + 1):
            config = TransformerConfig(vocab_size=9, num_layers=layers, distinct_layers=groups)
            published = [int(number / (layers / groups)) for number in range(layers)]
            assert [weights for weights, _ in course(config)] == published


def test_layers_inside_a_group_are_refused(tmp_path: Path) -> None:
    foreign_folder(tmp_path, "AlbertModel", inner_group_num=2)
    with pytest.raises(CheckpointError, match="inner_group_num is 2, which polyseme does not compute"):
        load(tmp_path)
    change_settings(tmp_path, inner_group_num=1)
    with pytest.raises(CheckpointError, match=r"albert_layers\.1"):
        load(tmp_path)
