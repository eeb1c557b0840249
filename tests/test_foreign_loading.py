"""Foreign folders of every family become our models at once, the same as by transformers' folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_writer as writer
import torch
from foreign_models import assert_like_transformers
from safetensors.torch import load_file
from test_foreign_others import parameter_file, static_names, uer_t5, uer_tensors
from test_foreign_tensorflow import transformer_xl

from polyseme.checkpoints.convert import convert
from polyseme.checkpoints.foreign.layouts import layout_of
from polyseme.checkpoints.formats import FORMATS
from polyseme.checkpoints.loading import heads_in, read_model
from polyseme.embedding.embedder import Embedder

pytest.importorskip("transformers")

BERT: dict[str, Any] = {
    "vocab_size": 28,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    # That of Google's code: our networks have it, and transformers' too.
    "hidden_act": "gelu_new",
}
GPT: dict[str, Any] = {"vocab_size": 28, "n_embd": 64, "n_layer": 2, "n_head": 1, "n_positions": 20}
T5: dict[str, Any] = {"vocab_size": 28, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
UER_BERT = {"layers_num": 2, "heads_num": 1, "hidden_size": 64, "feedforward_size": 24, "dropout": 0.1}


def said(folder: Path, name: str, **values: Any) -> None:
    (folder / name).write_text(json.dumps(values))


def tensorflow(names: Callable[[Any], Any], config: str, **values: Any) -> Callable[[Any, Path], None]:
    def write(model: Any, folder: Path) -> None:
        writer.write(folder, writer.with_slots(names(model), "/adam_m"), "model.ckpt")
        if config:
            said(folder, config, **values)

    return write


def t5(model: Any, folder: Path) -> None:
    writer.write(folder, writer.with_slots(writer.t5(model), "_slot_vr", "_slot_vc"), "model.ckpt-1000000")


def electra(model: Any, folder: Path) -> None:
    other = writer.random_model("ElectraForMaskedLM", 1, **BERT, embedding_size=8)
    other.electra.embeddings.load_state_dict(model.electra.embeddings.state_dict())
    writer.write(folder, writer.electra(model, other), "electra_small")


def uer(names: Callable[[Any], Any], **values: Any) -> Callable[[Any, Path], None]:
    def write(model: Any, folder: Path) -> None:
        folder.mkdir()
        torch.save(names(model), folder / "model.bin")
        said(folder, "base_config.json", **values)

    return write


def paddle(model: Any, folder: Path) -> None:
    (folder / "params").mkdir(parents=True)
    for name, tensor in writer.own_tensors(model).items():
        theirs = static_names(name)
        (folder / "params" / theirs).write_bytes(
            parameter_file(tensor.t() if theirs.endswith(".w_0") else tensor)
        )
    said(folder, "ernie_config.json", num_attention_heads=1, hidden_act="relu")


def openai(model: Any, folder: Path) -> None:
    tensors = writer.own_tensors(model)
    order = ["transformer.positions_embed.weight", "transformer.tokens_embed.weight"]
    for layer in range(2):
        for part in ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2"):
            order += [f"transformer.h.{layer}.{part}.{end}" for end in ("weight", "bias")]
    folder.mkdir()
    shapes = [
        [1, *tensors[n].shape] if ".c_" in n and tensors[n].dim() == 2 else list(tensors[n].shape)
        for n in order
    ]
    (folder / "params_shapes.json").write_text(json.dumps(shapes))
    row = np.concatenate([tensors[name].numpy().reshape(-1) for name in order])
    for number, piece in enumerate(np.array_split(row, 10)):
        np.save(folder / f"params_{number}.npy", piece)


FOLDERS: dict[str, tuple[str, dict[str, Any], Callable[[Any, Path], None]]] = {
    "tensorflow-bert": (
        "BertForPreTraining",
        BERT,
        tensorflow(writer.bert, "bert_config.json", **{**BERT, "hidden_act": "gelu"}),
    ),
    "tensorflow-albert": (
        "AlbertForPreTraining",
        {**BERT, "embedding_size": 8},
        tensorflow(writer.albert, "albert_config.json", **{**BERT, "hidden_act": "gelu"}),
    ),
    "tensorflow-electra": ("ElectraForPreTraining", {**BERT, "embedding_size": 8}, electra),
    "tensorflow-gpt2": ("GPT2LMHeadModel", GPT, tensorflow(writer.gpt2, "hparams.json", n_head=1)),
    "tensorflow-t5": ("T5ForConditionalGeneration", T5, t5),
    "tensorflow-t5-gated": (
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu"},
        t5,
    ),
    "tensorflow-xlnet": (
        "XLNetLMHeadModel",
        {
            "vocab_size": 28,
            "d_model": 16,
            "n_layer": 2,
            "n_head": 2,
            "d_inner": 24,
            "ff_activation": "gelu_new",
        },
        tensorflow(writer.xlnet, "xlnet_config.json", n_token=28, n_head=2, ff_activation="gelu"),
    ),
    "uer-bert": ("BertForPreTraining", {**BERT, "hidden_act": "gelu"}, uer(uer_tensors, **UER_BERT)),
    "uer-albert": (
        "AlbertForPreTraining",
        {**BERT, "embedding_size": 8, "hidden_act": "relu"},
        uer(uer_tensors, **UER_BERT, emb_size=8, hidden_act="relu"),
    ),
    "uer-gpt2": (
        "GPT2LMHeadModel",
        {**GPT, "n_inner": 24},
        uer(uer_tensors, **UER_BERT, hidden_act="gelu_fast", mask="causal"),
    ),
    "uer-t5": (
        "T5ForConditionalGeneration",
        T5,
        uer(uer_t5, layers_num=2, decoder_layers_num=2, heads_num=2, hidden_size=16, feedforward_size=24),
    ),
    "paddle-ernie": ("ErnieForPreTraining", {**BERT, "hidden_act": "relu", "layer_norm_eps": 1e-5}, paddle),
    "openai-gpt": ("OpenAIGPTLMHeadModel", GPT, openai),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_foreign_folder_is_the_model_that_transformers_folder_is(name: str, tmp_path: Path) -> None:
    kind, sizes, write = FOLDERS[name]
    if layout_of(name.removesuffix("-gated")).family not in FORMATS:
        pytest.skip("this family is not there yet")
    model = writer.random_model(kind, 5, **sizes)
    write(model, tmp_path / "foreign")
    model.save_pretrained(tmp_path / "published")
    heads = heads_in(tmp_path / "foreign")
    assert heads == heads_in(tmp_path / "published")
    one, reading = read_model(tmp_path / "foreign", heads=heads)
    other, _ = read_model(tmp_path / "published", heads=heads)
    assert reading.layout == name.removesuffix("-gated")
    assert one.backbone.config.activation == other.backbone.config.activation
    for ours, theirs in ((one.backbone, other.backbone), *((one.heads[h], other.heads[h]) for h in heads)):
        state = theirs.state_dict()
        assert ours.state_dict().keys() == state.keys()
        assert all(torch.equal(tensor, state[key]) for key, tensor in ours.state_dict().items())
    receipt = convert(tmp_path / "foreign", tmp_path / "ours", check=True)
    assert receipt.tensors == len(reading.used)
    assert_like_transformers(receipt.checked)
    again, _ = read_model(tmp_path / "ours", heads=heads)
    state = again.backbone.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in one.backbone.state_dict().items())


def test_transformer_xl_becomes_what_transformers_had(tmp_path: Path) -> None:
    foreign, published = transformer_xl()
    writer.write(tmp_path / "foreign", writer.with_slots(foreign, "/Adam", "/Adam_1"), "model.ckpt-0")
    receipt = convert(tmp_path / "foreign", tmp_path / "ours", check=True)
    assert (receipt.family, receipt.heads, receipt.tensors) == ("transfo-xl", ("adaptive-lm",), len(foreign))
    assert len(receipt.left["optimizer slots"]) == 2 * len(foreign)
    assert "outputs not compared: transformers" in receipt.checked
    saved = load_file(tmp_path / "ours" / "model.safetensors")
    assert saved.keys() == published.keys()
    assert all(torch.equal(tensor, published[name]) for name, tensor in saved.items())


def test_the_generator_of_electra_is_a_model_too(tmp_path: Path) -> None:
    model = writer.random_model("ElectraForPreTraining", 5, **BERT, embedding_size=8)
    electra(model, tmp_path / "foreign")
    receipt = convert(tmp_path / "foreign", tmp_path / "g", layout="tensorflow-electra-generator", check=True)
    assert receipt.heads == ("masked-lm",)
    assert "tensors of the discriminator" in receipt.left
    assert_like_transformers(receipt.checked)


def test_vectors_come_from_a_foreign_folder_at_once() -> None:
    folder = Path(__file__).parent / "data" / "tensorflow_bert"
    vectors = Embedder.load(folder).sentences(["我在国上", "他要大"])
    assert vectors.shape == (2, 16)
    assert np.isfinite(vectors).all()
