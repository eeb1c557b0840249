"""ELECTRA's folders, of generators and discriminators, hold the same models here and in transformers."""

from pathlib import Path

import numpy as np
import pytest
from foreign_models import (
    assert_classifier,
    assert_there_and_back,
    encoder_choices,
    foreign_folder,
    one_thread,
)

from polyseme.checkpoints.loading import load
from polyseme.errors import CheckpointError

pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here
SIDES = [("ElectraForPreTraining", "replaced-token"), ("ElectraForMaskedLM", "masked-lm")]


@pytest.mark.parametrize(("kind", "head"), SIDES)
@pytest.mark.parametrize("seed", range(10))
def test_a_folder_means_the_same_here_and_in_transformers(
    seed: int, kind: str, head: str, tmp_path: Path
) -> None:
    chosen = encoder_choices(500 + seed)
    size = chosen["hidden_size"] if seed % 3 == 0 else int(np.random.default_rng(seed).integers(4, 20))
    if head == "masked-lm":
        chosen["hidden_act"] = "gelu"
    assert_there_and_back(
        kind,
        [head],
        tmp_path,
        seed,
        longest=chosen["max_position_embeddings"],
        types=chosen["type_vocab_size"],
        **chosen | {"embedding_size": size},
    )


def test_a_backbone_alone_goes_there_and_back(tmp_path: Path) -> None:
    assert_there_and_back("ElectraModel", [], tmp_path, 1, longest=20, types=2, vocab_size=40)


def test_a_classifier_keeps_its_scores(tmp_path: Path) -> None:
    assert_classifier("ElectraForSequenceClassification", tmp_path, types=2)


def test_tables_of_the_hidden_size_need_no_projection(tmp_path: Path) -> None:
    equal = load(foreign_folder(tmp_path / "equal", "ElectraModel", embedding_size=16)).backbone
    assert equal.config.embedding.size is None
    smaller = load(foreign_folder(tmp_path / "smaller", "ElectraModel", embedding_size=12)).backbone
    assert smaller.config.embedding.size == 12
    assert smaller.projection.weight.shape == (16, 12)


def test_a_generator_that_bends_otherwise_than_its_layers_is_refused(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path, "ElectraForMaskedLM", hidden_act="silu")
    with pytest.raises(CheckpointError, match="masked-lm head of electra always has 'gelu'"):
        load(folder, heads=["masked-lm"])
