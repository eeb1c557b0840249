"""DistilBERT's folders hold the same models here and in transformers."""

from pathlib import Path

import pytest
import torch
from foreign_models import (
    assert_classifier,
    assert_there_and_back,
    encoder_choices,
    foreign_folder,
    one_thread,
)

from polyseme.checkpoints.loading import load
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.embeddings import LearnedPositions, SinusoidalPositions
from polyseme.models.transformer.model import Transformer

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here


@pytest.mark.parametrize("seed", range(10))
def test_a_folder_means_the_same_here_and_in_transformers(seed: int, tmp_path: Path) -> None:
    chosen = encoder_choices(600 + seed)
    chosen["activation"] = chosen.pop("hidden_act")
    del chosen["layer_norm_eps"], chosen["type_vocab_size"]
    # transformers cannot make waves of an odd number of columns.
    waves = seed % 2 == 1 and chosen["hidden_size"] % 2 == 0
    assert_there_and_back(
        "DistilBertForMaskedLM",
        ["masked-lm"],
        tmp_path,
        seed,
        longest=chosen["max_position_embeddings"],
        types=0,
        **chosen | {"sinusoidal_pos_embds": waves},
    )


def test_a_backbone_alone_goes_there_and_back(tmp_path: Path) -> None:
    assert_there_and_back("DistilBertModel", [], tmp_path, 1, longest=20, types=0, vocab_size=40)


def test_a_classifier_keeps_its_scores(tmp_path: Path) -> None:
    assert_classifier("DistilBertForSequenceClassification", tmp_path, types=0)


def test_a_table_of_waves_is_read_by_value_and_not_trained(tmp_path: Path) -> None:
    for waves, kind in ((True, SinusoidalPositions), (False, LearnedPositions)):
        folder = foreign_folder(tmp_path / str(waves), "DistilBertModel", sinusoidal_pos_embds=waves)
        positions = load(folder).backbone.embeddings.positions
        assert type(positions) is kind
        assert len(list(positions.parameters())) == int(not waves)


def test_fresh_waves_are_those_of_transformers() -> None:
    config = transformers.DistilBertConfig(
        vocab_size=30, dim=24, n_heads=2, n_layers=1, hidden_dim=8, sinusoidal_pos_embds=True
    )
    reference = transformers.DistilBertModel(config).embeddings.position_embeddings.weight
    ours = Transformer(
        TransformerConfig(
            vocab_size=30, hidden_size=24, num_heads=2, num_layers=1, positions="sinusoidal",
            type_vocab_size=0, pooler=False,
        )
    )  # fmt: skip
    found = ours.embeddings.positions.weight
    assert found.shape == (512, 24)
    torch.testing.assert_close(found, reference.detach(), rtol=0, atol=1e-7)
    assert found[1, :2].tolist() == pytest.approx([0.8414710, 0.5403023])
