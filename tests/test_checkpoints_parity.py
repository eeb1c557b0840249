"""Folders of transformers and ours hold the same models, in both directions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import (
    CLEAN,
    assert_agree,
    assert_close,
    change_settings,
    encoder_choices,
    exact_reference,
    foreign,
    foreign_folder,
    inputs_of,
    one_thread,
    padded_batch,
    read_back,
)

from polyseme.checkpoints.loading import heads_in, load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import files_of, save
from polyseme.models.heads import ClassificationHead
from polyseme.models.transformer.config import AttentionChoices, TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here
assert exact_reference
DTYPES = [torch.float32, torch.float64]


def modernbert_choices(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(100 + seed)
    heads, bias = int(rng.choice([1, 2, 4])), seed % 3 == 2
    activation = ["gelu", "gelu_pytorch_tanh", "relu", "silu"][seed % 4]
    base = float(rng.choice([100.0, 10_000.0, 160_000.0]))
    return {
        "vocab_size": int(rng.integers(30, 90)),
        "num_attention_heads": heads,
        "hidden_size": heads * 2 * int(rng.integers(2, 9)),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "intermediate_size": int(rng.integers(8, 80)),
        "max_position_embeddings": int(rng.integers(12, 40)),
        "hidden_activation": activation,
        "classifier_activation": activation,
        "norm_eps": float(rng.choice([1e-12, 1e-5, 1e-3])),
        **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), bias),
        "global_rope_theta": base,
    }


CASES = [("BertForPreTraining", encoder_choices), ("ModernBertForMaskedLM", modernbert_choices)]


@pytest.mark.usefixtures("exact_reference")
@pytest.mark.parametrize(("kind", "choices"), CASES)
@pytest.mark.parametrize("seed", range(10))
def test_a_folder_means_the_same_here_and_in_transformers(
    seed: int, kind: str, choices: Any, tmp_path: Path
) -> None:
    wanted = ["masked-lm"] if kind.startswith("Modern") else ["masked-lm", "next-sentence"]
    chosen = choices(seed)
    batch = padded_batch(
        seed, chosen["vocab_size"], chosen.get("type_vocab_size", 0), chosen["max_position_embeddings"]
    )
    for dtype in DTYPES:
        theirs = foreign(kind, seed, **chosen).to(dtype)
        theirs.save_pretrained(tmp_path / f"theirs-{dtype}")
        ours = load(tmp_path / f"theirs-{dtype}", heads=wanted, dtype=dtype)
        assert_agree(ours, theirs, batch)

        save(ours, tmp_path / f"ours-{dtype}")
        assert_agree(ours, read_back(kind, tmp_path / f"ours-{dtype}", dtype), batch)
        again = load(tmp_path / f"ours-{dtype}", heads=wanted, dtype=dtype)
        assert again.backbone.config == ours.backbone.config
        assert files_of(again) == files_of(ours)


@pytest.mark.parametrize(
    ("kind", "heads", "plain"),
    [
        ("BertModel", [], "BertModel"),
        ("BertForMaskedLM", ["masked-lm"], "BertModel"),
        ("BertForNextSentencePrediction", ["next-sentence"], "BertModel"),
        ("ModernBertModel", [], "ModernBertModel"),
        ("ModernBertForMaskedLM", ["masked-lm"], "ModernBertModel"),
    ],
)
def test_every_set_of_heads_goes_there_and_back(
    kind: str, heads: list[str], plain: str, tmp_path: Path
) -> None:
    ours = load(foreign_folder(tmp_path / "theirs", kind), heads=heads)
    assert heads_in(tmp_path / "theirs") == heads
    save(ours, tmp_path / "ours")
    theirs = read_back(kind, tmp_path / "ours")
    assert type(theirs).__name__ == kind
    reference = getattr(transformers, kind).from_pretrained(tmp_path / "theirs").state_dict()
    assert theirs.state_dict().keys() == reference.keys()
    assert all(torch.equal(tensor, reference[name]) for name, tensor in theirs.state_dict().items())
    assert type(transformers.AutoModel.from_pretrained(tmp_path / "ours")).__name__ == plain


def test_a_pooler_beside_a_masked_lm_head_is_kept(tmp_path: Path) -> None:
    ours = load(foreign_folder(tmp_path / "theirs", "BertForPreTraining"), heads=["masked-lm"])
    save(ours, tmp_path / "ours")
    theirs, info = transformers.AutoModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(theirs.pooler.dense.weight, ours.backbone.pooler.weight)
    again = load(tmp_path / "ours", heads=["masked-lm"])
    assert torch.equal(again.backbone.pooler.weight, ours.backbone.pooler.weight)
    words, info = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert type(words).__name__ == "BertForMaskedLM"
    assert not info["missing_keys"]
    assert set(info["unexpected_keys"]) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


@pytest.mark.parametrize(
    ("kind", "changes", "pooling"),
    [
        ("BertForSequenceClassification", {}, "pooler"),
        ("ModernBertForSequenceClassification", {"classifier_pooling": "cls"}, "first"),
        ("ModernBertForSequenceClassification", {"classifier_pooling": "mean"}, "mean"),
    ],
)
@pytest.mark.parametrize("problem", ["single", "multi"])
def test_a_classifier_keeps_its_scores_and_the_names_of_its_classes(
    kind: str, changes: dict[str, Any], pooling: str, problem: str, tmp_path: Path
) -> None:
    labels = ["好", "坏", "neutral"]
    named = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: n for n, label in enumerate(labels)},
        "problem_type": f"{problem}_label_classification",
    }
    foreign_folder(tmp_path / "theirs", kind, **changes, **named)
    ours = load(tmp_path / "theirs", heads=["classification"])
    assert (ours.card.labels, ours.card.problem) == (labels, problem)
    head = ours.heads["classification"]
    assert isinstance(head, ClassificationHead)
    assert head.pooling == pooling

    save(ours, tmp_path / "ours")
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert {key: list(info[key]) for key in CLEAN} == {key: [] for key in CLEAN}
    assert theirs.config.id2label == named["id2label"]
    assert theirs.config.label2id == named["label2id"]
    assert theirs.config.problem_type == named["problem_type"]
    assert load(tmp_path / "ours", heads=["classification"]).card == ours.card
    batch = padded_batch(3, ours.backbone.config.vocab_size, ours.backbone.config.type_vocab_size, 20)
    with torch.no_grad():
        scores = head(ours.backbone(batch), batch.attention_mask)
        for reference in (theirs, getattr(transformers, kind).from_pretrained(tmp_path / "theirs")):
            assert_close(scores, reference.eval()(**inputs_of(batch)).logits)


def test_the_tokenizer_of_a_folder_gives_the_same_ids_in_transformers(tmp_path: Path) -> None:
    for kind in ("BertModel", "ModernBertModel"):
        ours = load(foreign_folder(tmp_path / kind, kind, tokenizer=True))
        assert ours.tokenizer is not None
        save(ours, tmp_path / f"ours-{kind}")
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / f"ours-{kind}")
        text = "这是 aab 中国 xyz"
        ids = ours.tokenizer.encode(text).ids.tolist()
        encoded = theirs(text)
        assert encoded["input_ids"] == [ours.tokenizer.first_id, *ids, ours.tokenizer.separator_id]
        assert ("token_type_ids" in encoded) == (kind == "BertModel")
        read_back(kind, tmp_path / f"ours-{kind}")(**theirs(text, return_tensors="pt"))
        plain = json.loads((tmp_path / f"ours-{kind}" / "config.json").read_text())
        if kind == "ModernBertModel":
            assert [plain[f"{name}_token_id"] for name in ("pad", "cls", "sep")] == [0, 2, 3]


def test_fresh_models_of_both_families_are_read_by_transformers(tmp_path: Path) -> None:
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24}
    modern = {
        "type_vocab_size": 0,
        "gated": True,
        "bias": False,
        "norm_position": "before",
        "positions": "rotary",
        "attention": AttentionChoices(first_norm=False),
        "final_norm": True,
        "pooler": False,
    }
    for family, choices in (("bert", {}), ("modernbert", modern)):
        config = TransformerConfig(**sizes | choices)  # type: ignore[arg-type]
        model = Model(Transformer(config).eval(), Card(family=family, made={"seed": 3}))
        save(model, tmp_path / family)
        theirs, info = transformers.AutoModel.from_pretrained(tmp_path / family, output_loading_info=True)
        assert not any(info[key] for key in CLEAN)
        batch = padded_batch(5, 30, config.type_vocab_size, 20)
        with torch.no_grad():
            assert_close(model.backbone(batch).last, theirs.eval()(**inputs_of(batch)).last_hidden_state)
        assert load(tmp_path / family).card.made == {"seed": 3}


def test_rows_that_pad_the_vocabulary_never_reach_the_folder(tmp_path: Path) -> None:
    model = load(foreign_folder(tmp_path / "theirs", "BertForMaskedLM"), heads=["masked-lm"])
    expected = files_of(model)
    with torch.no_grad():
        for owner, name in ((model.backbone.embeddings.tokens, "weight"), (model.heads["masked-lm"], "bias")):
            real = getattr(owner, name)
            padding = torch.full((5, *real.shape[1:]), 7.0)
            setattr(owner, name, torch.nn.Parameter(torch.cat((real, padding))))
    assert files_of(model) == expected


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    model = load(foreign_folder(tmp_path / "theirs", "BertForPreTraining", tokenizer=True))
    assert files_of(model) == files_of(model)
    save(model, tmp_path / "ours")
    written = {
        path.relative_to(tmp_path / "ours").as_posix(): path.read_bytes()
        for path in (tmp_path / "ours").rglob("*")
        if path.is_file()
    }
    assert written == files_of(model)


def test_a_model_comes_in_evaluation_mode_and_can_be_trained(tmp_path: Path) -> None:
    model = load(foreign_folder(tmp_path, "ModernBertForMaskedLM"), heads=["masked-lm"])
    assert not model.backbone.training
    assert not model.heads["masked-lm"].training
    batch = padded_batch(1, 20, 0, 10)
    model.backbone.train()(batch).last.sum().backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    assert not any(tensor.is_meta for tensor in (*model.backbone.parameters(), *model.backbone.buffers()))
    storages = [parameter.untyped_storage().data_ptr() for parameter in model.backbone.parameters()]
    assert len(set(storages)) == len(storages)


def test_a_hand_written_config_means_the_published_defaults(tmp_path: Path) -> None:
    foreign_folder(tmp_path, "BertModel", layer_norm_eps=1e-12)
    change_settings(tmp_path, layer_norm_eps=None, hidden_act=None, pad_token_id=None, architectures=None)
    config = load(tmp_path).backbone.config
    assert (config.layer_norm_eps, config.activation, config.padding_id) == (1e-12, "gelu", 0)


def test_loading_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    foreign_folder(tmp_path, "BertForPreTraining")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    load(tmp_path, heads=["masked-lm", "next-sentence"])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_vocabulary_may_be_smaller_than_the_model(tmp_path: Path) -> None:
    model = load(foreign_folder(tmp_path, "BertModel", tokenizer=True, vocab_size=64))
    assert isinstance(model.tokenizer, Tokenizer)
    assert model.tokenizer.vocab_size < model.backbone.config.vocab_size == 64
