"""A pad_token_id that is not the tokenizer's, as in many published folders: the mask says what is padding."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import assert_close, foreign_folder, one_thread, read_back
from torch import Tensor

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.saving import save
from polyseme.embedding.embedder import Embedder
from polyseme.models.batch import Batch

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here

TEXTS = ["的一是在", "中", "国这中大为的我以"]
PAD, OTHER = 0, 5
"""The tokenizer's padding, and a token of the texts, which config.json takes for it."""
ENCODERS = ["Bert", "Ernie", "Roberta", "XLMRoberta", "Electra", "DistilBert", "Albert", "ModernBert"]


def padded(folder: Path) -> dict[str, Tensor]:
    """The texts as transformers reads them, in one batch with padding."""
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    inputs: dict[str, Tensor] = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    assert (inputs["input_ids"] == PAD).any()
    assert (inputs["input_ids"] == OTHER).any()
    return inputs


@pytest.mark.parametrize("family", ENCODERS)
def test_vectors_are_those_of_transformers_before_and_after_saving(family: str, tmp_path: Path) -> None:
    kind = f"{family}Model"
    folder = foreign_folder(tmp_path / "theirs", kind, tokenizer=True, pad_token_id=OTHER)
    inputs = padded(folder)
    mask = inputs["attention_mask"]
    inputs = inputs if family != "DistilBert" else {k: v for k, v in inputs.items() if k != "token_type_ids"}
    if family == "ModernBert":
        del inputs["token_type_ids"]

    def means(states: Tensor) -> Tensor:
        return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    model = load(folder)
    save(model, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["pad_token_id"] == OTHER
    with torch.no_grad():
        expected = means(read_back(kind, folder)(**inputs)[0])
        assert_close(means(read_back(kind, tmp_path / "ours")(**inputs)[0]), expected)
        batch = Batch(inputs["input_ids"], attention_mask=mask.bool())
        assert_close(means(model.backbone(batch).last), expected)
    for path in (folder, tmp_path / "ours"):
        vectors = Embedder.load(path, precision="fp32", pooling="mean").sentences(TEXTS)
        assert_close(torch.from_numpy(vectors), expected)


def test_a_classifier_that_reads_the_last_token_is_saved_with_the_tokenizer_s_padding(tmp_path: Path) -> None:
    labels: dict[str, Any] = {"id2label": {0: "好", 1: "坏"}, "label2id": {"好": 0, "坏": 1}}
    sizes = {"vocab_size": 28, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 20}
    config = transformers.GPT2Config(**sizes, **labels, pad_token_id=OTHER, bos_token_id=2, eos_token_id=3)
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    words = foreign_folder(tmp_path / "words", "BertModel", tokenizer=True)
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "theirs" / name).write_bytes((words / name).read_bytes())
    model = load(tmp_path / "theirs", heads=["classification"])
    save(model, tmp_path / "ours")
    inputs = padded(tmp_path / "theirs")
    del inputs["token_type_ids"]
    batch = Batch(inputs["input_ids"], attention_mask=inputs["attention_mask"].bool())
    with torch.no_grad():
        scores = model.heads["classification"](model.backbone(batch), batch.attention_mask)
        back = read_back("GPT2ForSequenceClassification", tmp_path / "ours")
        assert_close(scores, back(**inputs).logits)
