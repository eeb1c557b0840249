"""ERNIE's folders hold the same models here and in transformers."""

from pathlib import Path

import pytest
import torch
from foreign_models import (
    assert_classifier,
    assert_close,
    assert_there_and_back,
    change_settings,
    encoder_choices,
    foreign_folder,
    one_thread,
)

from polyseme.checkpoints.loading import load
from polyseme.embedding.embedder import Embedder
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


@pytest.mark.parametrize("kind", ["ErnieModel", "ErnieForPreTraining", "ErnieForSequenceClassification"])
def test_the_task_types_of_later_versions_go_there_and_back(kind: str, tmp_path: Path) -> None:
    tasks = {"use_task_id": True, "task_type_vocab_size": 3, "type_vocab_size": 4}
    if kind == "ErnieForSequenceClassification":
        assert_classifier(kind, tmp_path, types=4, **tasks)
    else:
        heads = ["masked-lm", "next-sentence"] if kind == "ErnieForPreTraining" else []
        assert_there_and_back(kind, heads, tmp_path, 3, longest=20, types=4, vocab_size=40, **tasks)


def test_the_compiled_encoder_adds_the_task_type_too(tmp_path: Path) -> None:
    import transformers

    foreign_folder(tmp_path, "ErnieModel", tokenizer=True, use_task_id=True)
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path)
    theirs = transformers.ErnieModel.from_pretrained(tmp_path).eval()
    texts = ["的一是在", "中人", "国这中大为上个我以"]
    with torch.no_grad():
        expected = [theirs(**tokenizer(text, return_tensors="pt"))[0][0].mean(dim=0) for text in texts]
    found = Embedder.load(tmp_path, precision="fp32", pooling="mean").sentences(texts)
    assert_close(torch.from_numpy(found), torch.stack(expected))


def test_a_task_type_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    foreign_folder(tmp_path, "ErnieModel", use_task_id=True)
    change_settings(tmp_path, task_type_vocab_size=-1)
    with pytest.raises(CheckpointError, match="use_task_id must be true or false and task_type_vocab_size"):
        load(tmp_path)
    change_settings(tmp_path, task_type_vocab_size=5)
    with pytest.raises(CheckpointError, match=r"task_type_embeddings\.weight has the shape \[3, 16\]"):
        load(tmp_path)
    change_settings(tmp_path, use_task_id=False)
    with pytest.raises(CheckpointError, match=r"holds embeddings\.task_type_embeddings\.weight"):
        load(tmp_path)
