"""T5's folders mean the same here and in transformers: 1.0 and 1.1, the encoder alone, and a classifier."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import assert_close, one_thread, read_back, redraw
from safetensors.torch import load_file, save_file
from torch import Tensor

from polyseme.checkpoints.loading import heads_in, load
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.saving import files_of, save
from polyseme.errors import CheckpointError
from polyseme.models.batch import Batch
from polyseme.models.transformer.positions import Bucketed

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here
DTYPES = [torch.float32, torch.float64]


def choices(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "vocab_size": int(rng.integers(30, 90)),
        "num_heads": int(rng.choice([1, 2, 4])),
        "d_model": int(rng.integers(8, 40)),
        "d_kv": int(rng.integers(4, 17)),
        "d_ff": int(rng.integers(8, 80)),
        "num_layers": int(rng.integers(1, 4)),
        "num_decoder_layers": int(rng.integers(1, 4)),
        "relative_attention_num_buckets": int(rng.choice([8, 16, 32])),
        "relative_attention_max_distance": int(rng.choice([18, 30, 128])),
        "layer_norm_epsilon": float(rng.choice([1e-6, 1e-5, 1e-3])),
        "feed_forward_proj": ["relu", "gated-gelu", "gated-silu", "gelu", "relu"][seed % 5],
        "tie_word_embeddings": seed % 3 != 1,  # transformers 5 reads it as: whether outputs are scaled
        "decoder_start_token_id": 0,
    }


def foreign(kind: str, seed: int, **changes: Any) -> Any:
    config = transformers.T5Config(**choices(seed) | changes)
    model = getattr(transformers, kind)(config).eval()
    redraw(model, seed)
    return model


def two_sided_batch(seed: int, vocab_size: int) -> Batch:
    """Rows of unlike length on both sides, padded on the right, up to well beyond the last bucket."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(2, 5))

    def side(longest: int) -> tuple[Tensor, Tensor]:
        length = int(rng.integers(3, longest + 1))
        mask = np.arange(length) < rng.integers(1, length + 1, size=(rows, 1))
        mask[0] = True
        return torch.from_numpy(rng.integers(0, vocab_size, (rows, length))), torch.from_numpy(mask)

    input_ids, mask = side(200)
    decoder_input_ids, decoder_mask = side(160)
    return Batch(
        input_ids=input_ids,
        attention_mask=mask,
        decoder_input_ids=decoder_input_ids,
        decoder_attention_mask=decoder_mask,
    )


def inputs_of(batch: Batch) -> dict[str, Tensor]:
    """The batch as transformers takes it."""
    assert batch.attention_mask is not None
    assert batch.decoder_input_ids is not None
    assert batch.decoder_attention_mask is not None
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask.long(),
        "decoder_input_ids": batch.decoder_input_ids,
        "decoder_attention_mask": batch.decoder_attention_mask.long(),
    }


def assert_agree(ours: Model, theirs: Any, batch: Batch) -> None:
    """The same logits, and the same states of every layer of both stacks.

    What the decoder makes of padding is compared nowhere: here a padded token sees itself too, so that none
    is without anything to see.
    """
    real = batch.decoder_attention_mask
    assert real is not None
    with torch.no_grad():
        expected = theirs(**inputs_of(batch), output_hidden_states=True)
        states = ours.backbone(batch, every_layer=True)
        assert states.decoded is not None
        logits = ours.heads["seq2seq-lm"](states.decoded, ours.backbone.embeddings.tokens.weight)
    assert_close(logits[real], expected.logits[real])
    assert len(states.layers) == len(expected.encoder_hidden_states)
    for our_layer, their_layer in zip(states.layers, expected.encoder_hidden_states, strict=True):
        assert_close(our_layer, their_layer)
    assert len(states.decoded_layers) == len(expected.decoder_hidden_states)
    for our_layer, their_layer in zip(states.decoded_layers, expected.decoder_hidden_states, strict=True):
        assert_close(our_layer[real], their_layer[real])


@pytest.fixture
def exact_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference takes the mean square in float32, even where all else is in float64."""

    def normalised(self: Any, hidden_states: Tensor) -> Tensor:
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)

    monkeypatch.setattr(transformers.models.t5.modeling_t5.T5LayerNorm, "forward", normalised)


@pytest.mark.usefixtures("exact_reference")
@pytest.mark.parametrize("seed", range(10))
def test_a_folder_means_the_same_here_and_in_transformers(seed: int, tmp_path: Path) -> None:
    batch = two_sided_batch(seed, choices(seed)["vocab_size"])
    for dtype in DTYPES:
        theirs = foreign("T5ForConditionalGeneration", seed).to(dtype)
        theirs.save_pretrained(tmp_path / f"theirs-{dtype}")
        ours = load(tmp_path / f"theirs-{dtype}", heads=["seq2seq-lm"], dtype=dtype)
        assert_agree(ours, theirs, batch)

        save(ours, tmp_path / f"ours-{dtype}")
        assert_agree(ours, read_back("T5ForConditionalGeneration", tmp_path / f"ours-{dtype}", dtype), batch)
        again = load(tmp_path / f"ours-{dtype}", heads=["seq2seq-lm"], dtype=dtype)
        assert again.backbone.config == ours.backbone.config
        assert files_of(again) == files_of(ours)
        stored = [load_file(tmp_path / f"{who}-{dtype}" / "model.safetensors") for who in ("theirs", "ours")]
        assert stored[0].keys() == stored[1].keys()
        assert all(torch.equal(tensor, stored[1][name]) for name, tensor in stored[0].items())


def untied_folder(folder: Path, seed: int = 1) -> Path:
    """A folder of version 1.1: transformers 5 unties only what it reads from a file of two tensors."""
    foreign("T5ForConditionalGeneration", seed, tie_word_embeddings=False).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(100 + seed)
    tensors["lm_head.weight"] = torch.randn(tensors["shared.weight"].shape, generator=generator) * 0.2
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}))
    return folder


def test_an_output_table_of_its_own_is_kept(tmp_path: Path) -> None:
    ours = load(untied_folder(tmp_path / "theirs"), heads=["seq2seq-lm"])
    assert not ours.backbone.config.embedding.tied
    batch = two_sided_batch(3, ours.backbone.config.vocab_size)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "theirs").eval()
    assert not torch.equal(theirs.lm_head.weight, theirs.shared.weight)
    assert_agree(ours, theirs, batch)
    save(ours, tmp_path / "ours")
    assert_agree(ours, read_back("T5ForConditionalGeneration", tmp_path / "ours"), batch)
    again = load(tmp_path / "ours", heads=["seq2seq-lm"])
    assert again.backbone.config == ours.backbone.config
    assert files_of(again) == files_of(ours)


@pytest.mark.parametrize("both_sides", [True, False])
def test_every_distance_has_its_published_bucket(both_sides: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-3000, 3001)
    for buckets, most in ((32, 128), (8, 20), (64, 1000), (4, 3)):
        config = load_config(buckets, most, causal=not both_sides)
        expected = T5Attention._relative_position_bucket(
            distance, bidirectional=both_sides, num_buckets=buckets, max_distance=most
        )
        assert torch.equal(Bucketed(config).bucket(distance), expected)


def load_config(buckets: int, most: int, *, causal: bool) -> Any:
    import msgspec

    from polyseme.models.transformer.config import TransformerConfig

    attention = {"causal": causal, "bucketed": {"buckets": buckets, "max_distance": most}}
    plain = {"vocab_size": 9, "positions": "bucketed", "attention": attention}
    return msgspec.convert(plain, TransformerConfig)


def test_the_encoder_alone_is_read_and_written(tmp_path: Path) -> None:
    theirs = foreign("T5EncoderModel", 2)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    assert ours.backbone.config.decoder is None
    assert heads_in(tmp_path / "theirs") == []
    save(ours, tmp_path / "ours")
    batch = two_sided_batch(5, ours.backbone.config.vocab_size)
    alone = Batch(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    again = read_back("T5EncoderModel", tmp_path / "ours")
    for reference in (theirs, again):
        with torch.no_grad():
            expected = reference(
                input_ids=alone.input_ids, attention_mask=alone.attention_mask, output_hidden_states=True
            )
            states = ours.backbone(alone, every_layer=True)
        for our_layer, their_layer in zip(states.layers, expected.hidden_states, strict=True):
            assert_close(our_layer, their_layer)
    with pytest.raises(CheckpointError, match="has no seq2seq-lm"):
        load(tmp_path / "theirs", heads=["seq2seq-lm"])


def test_a_model_without_its_head_is_written_as_one(tmp_path: Path) -> None:
    foreign("T5Model", 3).save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    save(ours, tmp_path / "ours")
    theirs = read_back("T5Model", tmp_path / "ours")
    reference = transformers.T5Model.from_pretrained(tmp_path / "theirs").state_dict()
    assert all(torch.equal(tensor, reference[name]) for name, tensor in theirs.state_dict().items())


def test_half_a_decoder_is_no_model(tmp_path: Path) -> None:
    foreign("T5ForConditionalGeneration", 0).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["decoder.final_layer_norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks decoder.final_layer_norm.weight"):
        load(tmp_path)


def test_another_first_token_is_refused(tmp_path: Path) -> None:
    foreign("T5ForConditionalGeneration", 0, decoder_start_token_id=5).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="decoder_start_token_id is 5; polyseme puts the padding token"):
        load(tmp_path)


def test_mt5_is_the_same_network_by_another_name(tmp_path: Path) -> None:
    model = transformers.MT5ForConditionalGeneration(
        transformers.MT5Config(**choices(1) | {"tie_word_embeddings": True})
    ).eval()
    redraw(model, 1)
    model.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs", heads=["seq2seq-lm"])
    assert ours.card.family == "mt5"
    batch = two_sided_batch(1, ours.backbone.config.vocab_size)
    assert_agree(ours, model, batch)
    save(ours, tmp_path / "ours")
    assert_agree(ours, read_back("MT5ForConditionalGeneration", tmp_path / "ours"), batch)
