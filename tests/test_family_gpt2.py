"""GPT-2 means the same here and in transformers: states, logits, folders of any age, cached steps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from foreign_models import assert_close, inputs_of, one_thread, padded_batch, read_back, redraw

from polyseme.checkpoints.loading import heads_in, load
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.saving import files_of, save
from polyseme.errors import CheckpointError
from polyseme.models.batch import Batch
from polyseme.models.heads import ClassificationHead
from polyseme.models.transformer.cache import CachedTransformer
from polyseme.models.transformer.config import (
    AttentionChoices,
    EmbeddingChoices,
    InitialChoices,
    TransformerConfig,
)
from polyseme.models.transformer.model import Transformer
from polyseme.records import from_plain
from polyseme.training.recipes import read_recipe

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
        "n_inner": None if seed % 3 == 0 else int(rng.integers(8, 80)),
        "n_positions": int(rng.integers(12, 40)),
        "activation_function": ["gelu_new", "gelu", "relu", "silu", "gelu_pytorch_tanh"][seed % 5],
        "layer_norm_epsilon": float(rng.choice([1e-12, 1e-5, 1e-3])),
        "bos_token_id": vocab_size - 1,
        "eos_token_id": vocab_size - 1,
        "pad_token_id": None if seed % 2 else int(rng.integers(0, 30)),
    }


def gpt2(kind: str = "GPT2LMHeadModel", seed: int = 0, **changes: Any) -> Any:
    config = transformers.GPT2Config(**choices(seed) | changes)
    model = getattr(transformers, kind)(config).eval()
    redraw(model, seed)
    return model


def logits_of(ours: Model, batch: Batch) -> torch.Tensor:
    table = ours.backbone.embeddings.tokens.weight
    logits: torch.Tensor = ours.heads["causal-lm"](ours.backbone(batch).last, table)
    return logits


def assert_agree(ours: Model, theirs: Any, batch: Batch) -> None:
    """The same logits and the same states of every layer, wherever a token is real."""
    assert batch.attention_mask is not None
    real = batch.attention_mask
    with torch.no_grad():
        expected = theirs(**inputs_of(batch), output_hidden_states=True)
        states = ours.backbone(batch, every_layer=True)
        assert_close(logits_of(ours, batch)[real], expected.logits[real])
    assert len(states.layers) == len(expected.hidden_states)
    for our_layer, their_layer in zip(states.layers, expected.hidden_states, strict=True):
        assert_close(our_layer[real], their_layer[real])


@pytest.mark.parametrize("seed", range(10))
def test_a_folder_means_the_same_here_and_in_transformers(seed: int, tmp_path: Path) -> None:
    chosen = choices(seed)
    batch = padded_batch(seed, chosen["vocab_size"], 0, chosen["n_positions"])
    for dtype in DTYPES:
        theirs = gpt2(seed=seed).to(dtype)
        theirs.save_pretrained(tmp_path / f"theirs-{dtype}")
        ours = load(tmp_path / f"theirs-{dtype}", heads=["causal-lm"], dtype=dtype)
        assert_agree(ours, theirs, batch)

        save(ours, tmp_path / f"ours-{dtype}")
        assert_agree(ours, read_back("GPT2LMHeadModel", tmp_path / f"ours-{dtype}", dtype), batch)
        again = load(tmp_path / f"ours-{dtype}", heads=["causal-lm"], dtype=dtype)
        assert again.backbone.config == ours.backbone.config
        assert files_of(again) == files_of(ours)


@pytest.mark.parametrize(("kind", "heads"), [("GPT2Model", []), ("GPT2LMHeadModel", ["causal-lm"])])
def test_every_tensor_goes_there_and_back(kind: str, heads: list[str], tmp_path: Path) -> None:
    gpt2(kind).save_pretrained(tmp_path / "theirs")
    assert heads_in(tmp_path / "theirs") == heads
    save(load(tmp_path / "theirs", heads=heads), tmp_path / "ours")
    theirs = read_back(kind, tmp_path / "ours").state_dict()
    reference = getattr(transformers, kind).from_pretrained(tmp_path / "theirs").state_dict()
    assert theirs.keys() == reference.keys()
    assert all(torch.equal(tensor, reference[name]) for name, tensor in theirs.items())
    assert type(transformers.AutoModel.from_pretrained(tmp_path / "ours")).__name__ == "GPT2Model"


def test_a_bare_network_predicts_too_since_its_head_is_the_token_table(tmp_path: Path) -> None:
    gpt2("GPT2Model").save_pretrained(tmp_path / "bare")
    whole = gpt2("GPT2LMHeadModel")
    whole.transformer.load_state_dict(transformers.GPT2Model.from_pretrained(tmp_path / "bare").state_dict())
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        assert_close(logits_of(load(tmp_path / "bare", heads=["causal-lm"]), Batch(ids)), whole(ids).logits)


def as_released(folder: Path, *, prefix: bool) -> Path:
    """The tensors as the first files had them: masks among the weights, and no common prefix."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    for layer in range(len([name for name in tensors if name.endswith("ln_1.weight")])):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 20, 20).tril()
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    if not prefix:
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    tensors["lm_head.weight"] = tensors["transformer.wte.weight" if prefix else "wte.weight"].clone()
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("prefix", [True, False])
def test_older_files_hold_masks_and_may_lack_the_prefix(prefix: bool, tmp_path: Path) -> None:
    theirs = gpt2(seed=1)
    theirs.save_pretrained(tmp_path)
    ours = load(as_released(tmp_path, prefix=prefix), heads=["causal-lm"])
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        assert_close(logits_of(ours, Batch(ids)), theirs(ids).logits)


def test_an_output_matrix_of_its_own_is_refused(tmp_path: Path) -> None:
    gpt2(seed=1).save_pretrained(tmp_path)
    path = as_released(tmp_path, prefix=True) / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["lm_head.weight"][0, 0] += 1
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from transformer.wte.weight"):
        load(tmp_path, heads=["causal-lm"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"embd_pdrop": 0.3}, "embd_pdrop is 0.3 and resid_pdrop 0.1; polyseme has one value for both"),
        ({"add_cross_attention": True}, "add_cross_attention is True, which polyseme does not compute"),
    ],
)
def test_what_is_not_computed_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("problem", ["single", "multi"])
def test_a_classifier_keeps_its_scores_and_the_names_of_its_classes(problem: str, tmp_path: Path) -> None:
    labels = ["好", "坏", "neutral"]
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    kind = "GPT2ForSequenceClassification"
    theirs = gpt2(kind, pad_token_id=0, problem_type=f"{problem}_label_classification", **named)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs", heads=["classification"])
    assert (ours.card.labels, ours.card.problem) == (labels, problem)
    head = ours.heads["classification"]
    assert isinstance(head, ClassificationHead)
    assert (head.pooling, head.dense.bias) == ("last", None)
    save(ours, tmp_path / "ours")
    again = read_back(kind, tmp_path / "ours")
    assert again.config.id2label == named["id2label"]
    batch = padded_batch(3, theirs.config.vocab_size, 0, 12)
    assert batch.attention_mask is not None
    # The reference finds a text's last token by its id, and so never reads padding inside a text.
    ids = torch.where(batch.attention_mask, batch.input_ids.clamp(min=1), 0)
    batch = Batch(ids, attention_mask=batch.attention_mask)
    with torch.no_grad():
        scores = head(ours.backbone(batch), batch.attention_mask)
        assert_close(scores, theirs(**inputs_of(batch)).logits)
        assert_close(scores, again(**inputs_of(batch)).logits)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("seed", range(4))
def test_cached_steps_give_the_logits_of_one_pass(seed: int, side: str, tmp_path: Path) -> None:
    theirs = gpt2(seed=seed, n_positions=24)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path, heads=["causal-lm"])
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(np.arange(8) < rng.integers(1, 9, size=(4, 1)))
    mask = mask.flip(1) if side == "left" else mask
    prompts = torch.from_numpy(rng.integers(0, 30, (4, 8)))
    more = torch.from_numpy(rng.integers(0, 30, (4, 9)))
    network = CachedTransformer(ours.backbone)
    table = ours.backbone.embeddings.tokens.weight
    with torch.no_grad():
        states, cache = network(prompts, attention_mask=mask)
        pieces = [states]
        for begin, end in ((0, 1), (1, 4), (4, 5), (5, 9)):
            states, cache = network(more[:, begin:end], cache)
            pieces.append(states)
        logits = ours.heads["causal-lm"](torch.cat(pieces, dim=1), table)
        whole = torch.cat((mask, torch.ones(4, 9, dtype=torch.bool)), dim=1)
        places = (whole.cumsum(dim=1) - 1).clamp(min=0)
        expected = theirs(
            torch.cat((prompts, more), dim=1), attention_mask=whole.long(), position_ids=places
        ).logits
    assert_close(logits[whole], expected[whole])


def test_fresh_positions_are_drawn_closer_to_zero() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=400,
        hidden_size=128,
        num_layers=8,
        num_heads=2,
        type_vocab_size=0,
        norm_position="before",
        final_norm=True,
        embedding=EmbeddingChoices(norm=False),
        attention=AttentionChoices(causal=True),
        initial=InitialChoices(range=0.02, positions=0.01, scaled_outputs=True),
    )
    model = Transformer(config)
    deviation = 0.8796  # of a normal distribution cut off at twice its own
    assert model.embeddings.positions.weight.std().item() == pytest.approx(0.01 * deviation, rel=0.02)
    assert model.embeddings.tokens.weight.std().item() == pytest.approx(0.02 * deviation, rel=0.02)
    output = model.layers[3].attention.output.weight.std().item()
    assert output == pytest.approx(0.02 * deviation / 4, rel=0.02)


@pytest.mark.parametrize(
    ("recipe", "size", "vocab_size", "parameters"),
    [
        ("gpt2", "small", 50257, 124_439_808),
        ("gpt2", "medium", 50257, 354_823_168),
        ("gpt2", "large", 50257, 774_030_080),
        ("gpt2", "xl", 50257, 1_557_611_200),
        ("gpt", "base", 40478, 116_534_784),
    ],
)
def test_the_published_sizes_have_the_published_numbers_of_parameters(
    recipe: str, size: str, vocab_size: int, parameters: int
) -> None:
    chosen = read_recipe(recipe)
    fields = chosen.model | chosen.sizes[size] | {"vocab_size": vocab_size}
    config = from_plain(fields, TransformerConfig, where=recipe)
    assert config.dropout == config.attention_dropout == 0.1
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_a_network_that_looks_ahead_cannot_be_read_in_steps() -> None:
    config = TransformerConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=1)
    with pytest.raises(ValueError, match="only a network whose tokens see all that stands before them"):
        CachedTransformer(Transformer(config))
