"""Taggers on disk: the folders that transformers writes for them load here, and ours load there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import CLEAN, assert_close, foreign, inputs_of, padded_batch

from polyseme.checkpoints.loading import heads_in, load
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.saving import files_of, save
from polyseme.errors import CheckpointError
from polyseme.models.batch import Batch

TAGS = ["O", "B-人", "I-人", "B-LOC", "I-LOC"]
NAMED = {"id2label": dict(enumerate(TAGS)), "label2id": {tag: number for number, tag in enumerate(TAGS)}}
FAMILIES = [
    ("Bert", 2),
    ("Ernie", 2),
    ("Roberta", 1),
    ("XLMRoberta", 1),
    ("Albert", 2),
    ("Electra", 2),
    ("DistilBert", 0),
    ("ModernBert", 0),
]
OTHERS: dict[str, dict[str, Any]] = {
    "XLNet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24, "mem_len": None},
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 20},
    "T5": {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24, "d_kv": 8},
    "MT5": {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24, "d_kv": 8},
}


def scores_of(model: Model, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = model.heads["token-classification"](model.backbone(batch).last)
    return scores


def assert_there_and_back(theirs: Any, folder: Path, types: int) -> None:
    import transformers

    kind = type(theirs)
    theirs.save_pretrained(folder / "theirs")
    assert heads_in(folder / "theirs") == ["token-classification"]
    ours = load(folder / "theirs", heads=["token-classification"])
    assert (ours.card.labels, ours.card.problem) == (TAGS, None)
    save(ours, folder / "ours")
    back, told = kind.from_pretrained(folder / "ours", output_loading_info=True)
    assert {key: list(told[key]) for key in CLEAN} == {key: [] for key in CLEAN}
    assert back.config.id2label == NAMED["id2label"]
    automatic = transformers.AutoModelForTokenClassification.from_pretrained(folder / "ours")
    assert type(automatic) is kind
    assert files_of(load(folder / "ours", heads=["token-classification"])) == files_of(ours)
    batch = padded_batch(5, ours.backbone.config.vocab_size, types, 15)
    assert batch.attention_mask is not None
    for reference in (theirs, back.eval()):
        with torch.no_grad():
            expected = reference(**inputs_of(batch)).logits
        assert_close(scores_of(ours, batch)[batch.attention_mask], expected[batch.attention_mask])


@pytest.mark.parametrize(("family", "types"), FAMILIES)
def test_encoders_agree_with_transformers_there_and_back(family: str, types: int, tmp_path: Path) -> None:
    assert_there_and_back(foreign(f"{family}ForTokenClassification", 5, **NAMED), tmp_path, types)


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_agree_too(family: str, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    settings = {"vocab_size": 40, "pad_token_id": 0, **OTHERS[family], **NAMED}
    config = getattr(transformers, f"{family}Config")(**settings)
    theirs = getattr(transformers, f"{family}ForTokenClassification")(config).eval()
    assert_there_and_back(theirs, tmp_path, 0)


def test_a_classifier_of_texts_is_no_tagger(tmp_path: Path) -> None:
    foreign("BertForSequenceClassification", **NAMED).save_pretrained(tmp_path / "texts")
    foreign("BertForTokenClassification", **NAMED).save_pretrained(tmp_path / "tokens")
    assert heads_in(tmp_path / "texts") == ["classification"]
    assert heads_in(tmp_path / "tokens") == ["token-classification"]
    with pytest.raises(CheckpointError, match="has no classification"):
        load(tmp_path / "tokens", heads=["classification"])
    fresh = load(tmp_path / "texts", fresh=["token-classification"], labels=TAGS)
    assert (fresh.card.labels, fresh.card.problem) == (TAGS, None)
    assert fresh.heads["token-classification"].dense.out_features == len(TAGS)


def test_a_tagger_is_not_saved_without_the_names_of_all_its_tags(tmp_path: Path) -> None:
    foreign("BertForTokenClassification", **NAMED).save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "theirs", heads=["token-classification"])
    fewer = load(tmp_path / "theirs", fresh=["token-classification"], labels=TAGS[:3])
    with pytest.raises(CheckpointError, match="gives 5 scores, but the card names 3 classes"):
        save(Model(model.backbone, fewer.card, model.heads), tmp_path / "ours")
