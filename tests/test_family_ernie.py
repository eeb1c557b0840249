"""ERNIE's folders hold the same models here and in transformers."""

from pathlib import Path

import pytest
from foreign_models import (
    assert_classifier,
    assert_there_and_back,
    change_settings,
    encoder_choices,
    foreign_folder,
    one_thread,
)

from polyseme.checkpoints.loading import load
from polyseme.errors import CheckpointError

pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here


@pytest.mark.parametrize("seed", range(10))
def test_a_folder_means_the_same_here_and_in_transformers(seed: int, tmp_path: Path) -> None:
    chosen = encoder_choices(200 + seed)
    assert_there_and_back(
        "ErnieForPreTraining",
        ["masked-lm", "next-sentence"],
        tmp_path,
        seed,
        longest=chosen["max_position_embeddings"],
        types=chosen["type_vocab_size"],
        **chosen,
    )


@pytest.mark.parametrize(
    ("kind", "heads"),
    [("ErnieModel", []), ("ErnieForMaskedLM", ["masked-lm"])],
)
def test_every_set_of_heads_goes_there_and_back(kind: str, heads: list[str], tmp_path: Path) -> None:
    assert_there_and_back(kind, heads, tmp_path, 1, longest=20, types=2, vocab_size=40)


def test_a_classifier_keeps_its_scores(tmp_path: Path) -> None:
    assert_classifier("ErnieForSequenceClassification", tmp_path, types=2)


def test_the_published_shape_is_read(tmp_path: Path) -> None:
    shape = {"hidden_act": "relu", "max_position_embeddings": 513, "layer_norm_eps": 1e-5}
    config = load(foreign_folder(tmp_path, "ErnieModel", **shape)).backbone.config
    assert config.activation == "relu"
    assert config.max_position_embeddings == 513
    assert config.layer_norm_eps == 1e-5


def test_a_vector_for_the_kind_of_task_is_refused(tmp_path: Path) -> None:
    foreign_folder(tmp_path, "ErnieModel", use_task_id=True)
    with pytest.raises(CheckpointError, match="use_task_id is True, which polyseme does not compute"):
        load(tmp_path)
    change_settings(tmp_path, use_task_id=False)
    with pytest.raises(CheckpointError, match=r"holds embeddings\.task_type_embeddings\.weight"):
        load(tmp_path)
