"""GPT means the same here and in transformers: states, logits, folders, cached steps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import assert_close, inputs_of, one_thread, padded_batch, read_back, redraw
from test_family_gpt2 import assert_agree, logits_of

from polyseme.checkpoints.formats import config_json, format_of
from polyseme.checkpoints.loading import heads_in, load
from polyseme.checkpoints.saving import files_of, save
from polyseme.errors import CheckpointError
from polyseme.models.batch import Batch
from polyseme.models.transformer.cache import CachedTransformer
from polyseme.models.transformer.config import TransformerConfig
from polyseme.records import from_plain

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here
DTYPES = [torch.float32, torch.float64]


def choices(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    heads, vocab_size = int(rng.choice([1, 2, 4])), int(rng.integers(30, 90))
    return {
        "vocab_size": vocab_size,
        "n_head": heads,
        "n_embd": heads * int(rng.integers(4, 17)),
        "n_layer": int(rng.integers(1, 4)),
        "n_positions": int(rng.integers(12, 40)),
        "afn": ["gelu", "relu", "silu"][seed % 3],
        "layer_norm_epsilon": float(rng.choice([1e-12, 1e-5, 1e-3])),
        "pad_token_id": None if seed % 2 else int(rng.integers(0, 30)),
    }


def gpt(kind: str = "OpenAIGPTLMHeadModel", seed: int = 0, **changes: Any) -> Any:
    config = transformers.OpenAIGPTConfig(**choices(seed) | changes)
    model = getattr(transformers, kind)(config).eval()
    redraw(model, seed)
    return model


@pytest.mark.parametrize("seed", range(10))
def test_a_folder_means_the_same_here_and_in_transformers(seed: int, tmp_path: Path) -> None:
    chosen = choices(seed)
    batch = padded_batch(seed, chosen["vocab_size"], 0, chosen["n_positions"])
    for dtype in DTYPES:
        theirs = gpt(seed=seed).to(dtype)
        theirs.save_pretrained(tmp_path / f"theirs-{dtype}")
        ours = load(tmp_path / f"theirs-{dtype}", heads=["causal-lm"], dtype=dtype)
        assert_agree(ours, theirs, batch)

        save(ours, tmp_path / f"ours-{dtype}")
        assert_agree(ours, read_back("OpenAIGPTLMHeadModel", tmp_path / f"ours-{dtype}", dtype), batch)
        again = load(tmp_path / f"ours-{dtype}", heads=["causal-lm"], dtype=dtype)
        assert again.backbone.config == ours.backbone.config
        assert files_of(again) == files_of(ours)


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("OpenAIGPTModel", []),
        ("OpenAIGPTLMHeadModel", ["causal-lm"]),
        ("OpenAIGPTForSequenceClassification", ["classification"]),
    ],
)
def test_every_tensor_goes_there_and_back(kind: str, heads: list[str], tmp_path: Path) -> None:
    changes = {"problem_type": "single_label_classification", "num_labels": 3} if "For" in kind else {}
    gpt(kind, pad_token_id=0, **changes).save_pretrained(tmp_path / "theirs")
    assert heads_in(tmp_path / "theirs") == heads
    save(load(tmp_path / "theirs", heads=heads), tmp_path / "ours")
    theirs = read_back(kind, tmp_path / "ours").state_dict()
    reference = getattr(transformers, kind).from_pretrained(tmp_path / "theirs").state_dict()
    assert theirs.keys() == reference.keys()
    assert all(torch.equal(tensor, reference[name]) for name, tensor in theirs.items())


def test_a_classifier_keeps_its_scores_and_the_names_of_its_classes(tmp_path: Path) -> None:
    labels = ["好", "坏", "neutral"]
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    kind = "OpenAIGPTForSequenceClassification"
    theirs = gpt(kind, pad_token_id=0, problem_type="single_label_classification", **named)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs", heads=["classification"])
    assert ours.card.labels == labels
    save(ours, tmp_path / "ours")
    again = read_back(kind, tmp_path / "ours")
    assert again.config.id2label == named["id2label"]
    batch = padded_batch(3, theirs.config.vocab_size, 0, 12)
    assert batch.attention_mask is not None
    ids = torch.where(batch.attention_mask, batch.input_ids.clamp(min=1), 0)
    batch = Batch(ids, attention_mask=batch.attention_mask)
    with torch.no_grad():
        scores = ours.heads["classification"](ours.backbone(batch), batch.attention_mask)
        assert_close(scores, theirs(**inputs_of(batch)).logits)
        assert_close(scores, again(**inputs_of(batch)).logits)


def test_the_word_gelu_means_the_approximation_in_this_family(tmp_path: Path) -> None:
    gpt(afn="gelu").save_pretrained(tmp_path)
    config = load(tmp_path).backbone.config
    assert config.activation == "gelu_tanh"
    assert config_json(format_of("openai-gpt"), config)["afn"] == "gelu"
    plain = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(plain | {"afn": "gelu_new"}))
    with pytest.raises(CheckpointError, match="afn is 'gelu_new'; polyseme computes gelu, relu, silu, swish"):
        load(tmp_path)


def test_what_the_family_has_no_word_for_is_refused() -> None:
    shape = {
        "type_vocab_size": 0,
        "pooler": False,
        "layer_norm_eps": 1e-5,
        "embedding": {"norm": False},
        "attention": {"causal": True},
    }

    def written(**changes: Any) -> dict[str, Any]:
        config = from_plain({"vocab_size": 9, **shape, **changes}, TransformerConfig, where="here")
        return config_json(format_of("openai-gpt"), config)

    assert written(activation="gelu_tanh")["afn"] == "gelu"
    with pytest.raises(CheckpointError, match="openai-gpt folder cannot say activation='gelu'"):
        written()
    with pytest.raises(CheckpointError, match="cannot say intermediate_size=64; in this family it is 3072"):
        written(activation="gelu_tanh", intermediate_size=64)


def test_cached_steps_give_the_logits_of_one_pass(tmp_path: Path) -> None:
    theirs = gpt(seed=3, n_positions=24)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path, heads=["causal-lm"])
    network = CachedTransformer(ours.backbone)
    ids = torch.randint(0, 30, (3, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states, cache = network(ids[:, :5])
        pieces = [states]
        for place in range(5, 12):
            states, cache = network(ids[:, place : place + 1], cache)
            pieces.append(states)
        logits = ours.heads["causal-lm"](torch.cat(pieces, dim=1), ours.backbone.embeddings.tokens.weight)
        assert_close(logits, theirs(ids).logits)
        assert_close(logits, logits_of(ours, Batch(ids)))
