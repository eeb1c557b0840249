"""The Transformer of 2017: layers as those of torch, no token sees what comes later, its folder is whole."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from foreign_models import assert_close, one_thread, redraw
from torch import Tensor, nn

from polyseme.checkpoints.loading import heads_in, load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import files_of, save
from polyseme.errors import CheckpointError
from polyseme.models.batch import Batch
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.encoder_decoder import EncoderDecoder, Seq2SeqLMHead

assert one_thread  # a fixture, used by every test here


def config_of(seed: int, **changes: Any) -> TransformerConfig:
    rng = np.random.default_rng(seed)
    heads = int(rng.choice([1, 2, 4]))
    plain = {
        "vocab_size": int(rng.integers(30, 90)),
        "hidden_size": heads * 2 * int(rng.integers(3, 8)),
        "num_layers": int(rng.integers(1, 4)),
        "num_heads": heads,
        "intermediate_size": int(rng.integers(8, 80)),
        "max_position_embeddings": 40,
        "type_vocab_size": 0,
        "activation": "relu",
        "layer_norm_eps": float(rng.choice([1e-6, 1e-5, 1e-3])),
        "positions": "sinusoidal",
        "embedding": {"norm": False, "scaled": True},
        "pooler": False,
        "initial": {"kind": "fan-in"},
        "decoder": {"num_layers": int(rng.integers(1, 4))},
    }
    return msgspec.convert(plain | changes, TransformerConfig)


def network(seed: int, **changes: Any) -> EncoderDecoder:
    model = build(config_of(seed, **changes))
    assert isinstance(model, EncoderDecoder)
    redraw(model, seed)
    return model.eval()


def two_sided_batch(seed: int, vocab_size: int) -> Batch:
    rng = np.random.default_rng(seed)

    def side() -> tuple[Tensor, Tensor]:
        length = int(rng.integers(3, 30))
        mask = np.arange(length) < rng.integers(1, length + 1, size=(4, 1))
        mask[0] = True
        return torch.from_numpy(rng.integers(0, vocab_size, (4, length))), torch.from_numpy(mask)

    input_ids, mask = side()
    decoder_input_ids, decoder_mask = side()
    return Batch(input_ids, mask, decoder_input_ids=decoder_input_ids, decoder_attention_mask=decoder_mask)


def fill_attention(theirs: nn.MultiheadAttention, ours: Any) -> None:
    theirs.in_proj_weight.copy_(torch.cat((ours.query.weight, ours.key.weight, ours.value.weight)))
    theirs.in_proj_bias.copy_(torch.cat((ours.query.bias, ours.key.bias, ours.value.bias)))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


@torch.no_grad()
def torch_layer(kind: Any, ours: Any, config: TransformerConfig) -> Any:
    """A layer of torch with our layer's weights."""
    theirs = kind(
        config.hidden_size,
        config.num_heads,
        config.intermediate_size,
        dropout=0.0,
        layer_norm_eps=config.layer_norm_eps,
        batch_first=True,
        norm_first=config.norm_position == "before",
        dtype=torch.float64,
    ).eval()
    fill_attention(theirs.self_attn, ours.attention)
    norms = [ours.attention_norm, ours.feedforward_norm]
    if kind is nn.TransformerDecoderLayer:
        fill_attention(theirs.multihead_attn, ours.cross_attention)
        norms.insert(1, ours.cross_attention_norm)
    for number, norm in enumerate(norms, 1):
        getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())
    theirs.linear1.load_state_dict(ours.feedforward.input.state_dict())
    theirs.linear2.load_state_dict(ours.feedforward.output.state_dict())
    return theirs


def first_states(model: EncoderDecoder, ids: Tensor) -> Tensor:
    """Tokens times √hidden_size, and sines in even, cosines in odd columns: written out here once more."""
    size = model.hidden_size
    place = torch.arange(ids.size(1), dtype=torch.float64)[:, None]
    column = torch.arange(size)
    angle = place / 10_000 ** ((column - column % 2) / size)
    waves = torch.where(column % 2 == 0, angle.sin(), angle.cos())
    return model.embeddings.tokens.weight[ids] * size**0.5 + waves


@pytest.mark.parametrize("position", ["after", "before"])
@pytest.mark.parametrize("seed", range(10))
@torch.no_grad()
def test_layers_are_those_of_torch(seed: int, position: str) -> None:
    model = network(seed, norm_position=position, final_norm=position == "before").double()
    config, batch = model.config, two_sided_batch(seed, model.config.vocab_size)
    assert batch.attention_mask is not None
    assert batch.decoder_input_ids is not None
    states = model(batch, every_layer=True)

    own = first_states(model, batch.input_ids)
    assert (states.layers[0] - own).abs().max() < 1e-6  # the table of sines is kept in float32
    encoded = states.layers[0]
    for number, layer in enumerate(model.layers):
        theirs = torch_layer(nn.TransformerEncoderLayer, layer, config)
        encoded = theirs(encoded, src_key_padding_mask=~batch.attention_mask)
        if number + 1 < config.num_layers:
            assert_agree(states.layers[number + 1], encoded, batch.attention_mask)
    encoded = model.final_norm(encoded)
    assert_agree(states.last, encoded, batch.attention_mask)

    decoded = states.decoded_layers[0]
    assert (decoded - first_states(model, batch.decoder_input_ids)).abs().max() < 1e-6
    length = decoded.size(1)
    for number, layer in enumerate(model.decoder.layers):
        theirs = torch_layer(nn.TransformerDecoderLayer, layer, config)
        decoded = theirs(
            decoded,
            encoded,
            tgt_mask=torch.ones(length, length, dtype=torch.bool).triu(1),
            tgt_key_padding_mask=~batch.decoder_attention_mask,  # type: ignore[operator]
            memory_key_padding_mask=~batch.attention_mask,
        )
        if number + 1 < len(model.decoder.layers):
            assert_agree(states.decoded_layers[number + 1], decoded, batch.decoder_attention_mask)
    assert states.decoded is not None
    assert_agree(states.decoded, model.decoder.final_norm(decoded), batch.decoder_attention_mask)


def assert_agree(ours: Tensor, theirs: Tensor, real: Tensor | None) -> None:
    """torch gives zeros at padding in some paths, so only real tokens are compared."""
    assert (ours[real] - theirs[real]).abs().max() <= 1e-6


@pytest.mark.parametrize("positions", ["sinusoidal", "bucketed"])
@torch.no_grad()
def test_what_is_written_later_changes_nothing_before(positions: str) -> None:
    model = network(3, positions=positions).double()
    batch = two_sided_batch(3, model.config.vocab_size)
    ids = batch.decoder_input_ids
    assert ids is not None
    open_batch = Batch(batch.input_ids, batch.attention_mask, decoder_input_ids=ids)
    before = model(open_batch, every_layer=True)
    for place in range(1, ids.size(1)):
        changed = ids.clone()
        changed[:, place] = (changed[:, place] + 1) % model.config.vocab_size
        after = model(
            Batch(batch.input_ids, batch.attention_mask, decoder_input_ids=changed), every_layer=True
        )
        for old, new in zip(before.decoded_layers, after.decoded_layers, strict=True):
            assert torch.equal(old[:, :place], new[:, :place])
            assert not torch.equal(old[:, place:], new[:, place:])
        assert torch.equal(before.last, after.last)


@torch.no_grad()
def test_padding_of_either_side_changes_nothing() -> None:
    model = network(4).double()
    batch = two_sided_batch(4, model.config.vocab_size)
    states = model(batch)
    assert batch.attention_mask is not None
    assert batch.decoder_attention_mask is not None
    assert batch.decoder_input_ids is not None
    for row in range(4):
        read = batch.input_ids[row : row + 1, batch.attention_mask[row]]
        written = batch.decoder_input_ids[row : row + 1, batch.decoder_attention_mask[row]]
        alone = model(Batch(read, decoder_input_ids=written))
        assert_close(states.decoded[row : row + 1, : written.size(1)], alone.decoded)
        assert_close(states.last[row : row + 1, : read.size(1)], alone.last)


def test_all_that_is_read_and_written_comes_from_one_table() -> None:
    model = network(5)
    head = Seq2SeqLMHead(model.config)
    assert not list(head.parameters())
    states = torch.randn(2, 3, model.hidden_size)
    table = model.embeddings.tokens.weight
    assert torch.equal(head(states, table), states @ table.T)
    tables = [name for name, tensor in model.named_parameters() if tensor.size(0) == model.config.vocab_size]
    assert tables == ["embeddings.tokens.weight"]


@pytest.mark.parametrize("position", ["after", "before"])
def test_a_folder_is_read_as_it_was_written(position: str, tmp_path: Path) -> None:
    model = network(6, norm_position=position, final_norm=position == "before")
    ours = Model(model, Card(family="transformer"), {"seq2seq-lm": Seq2SeqLMHead(model.config)})
    save(ours, tmp_path / "whole")
    assert heads_in(tmp_path / "whole") == ["seq2seq-lm"]
    again = load(tmp_path / "whole", heads=["seq2seq-lm"])
    assert again.backbone.config == model.config
    assert files_of(again) == files_of(ours)
    batch = two_sided_batch(6, model.config.vocab_size)
    with torch.no_grad():
        assert torch.equal(again.backbone(batch).decoded, model(batch).decoded)


def test_a_learned_table_is_no_transformer(tmp_path: Path) -> None:
    config = TransformerConfig(vocab_size=30, hidden_size=16, num_layers=1, num_heads=2)
    with pytest.raises(CheckpointError, match="a transformer folder cannot say"):
        save(Model(build(config), Card(family="transformer")), tmp_path / "no")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "learned", "embedding": {}}, "a decoder reads sinusoidal or bucketed positions"),
        ({"type_vocab_size": 2}, "beside a decoder there are no segments"),
        ({"decoder": {"num_layers": 0}}, "decoder.num_layers must be at least 1, got 0"),
        (
            {"decoder": {"scaled_output": True}, "embedding": {"tied": False}},
            "decoder.scaled_output is for the tokens' own vectors",
        ),
        (
            {"attention": {"bucketed": {"buckets": 7}}},
            "attention.bucketed.buckets must be an even number from 4 on, got 7",
        ),
        (
            {"attention": {"bucketed": {"max_distance": 16}}},
            "attention.bucketed.max_distance must be above 16",
        ),
    ],
)
def test_choices_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        config_of(0, **changes)


def test_packed_rows_are_refused() -> None:
    model = network(7)
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="a decoder cannot read rows of several packed texts"):
        model(Batch(ids, document_ids=ids, position_ids=ids, decoder_input_ids=ids))
