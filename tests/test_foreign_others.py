"""Folders of UER-py, Paddle and OpenAI are read as the tensors that transformers has, bit for bit."""

import json
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import assert_like_transformers
from tensorflow_writer import own_tensors, random_model
from test_foreign_tensorflow import SIZES, assert_same, assert_settings
from torch import Tensor

from polyseme.checkpoints.convert import convert
from polyseme.checkpoints.foreign.opening import open_folder
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.readers.numpy_pickles import open_pickled_arrays
from polyseme.checkpoints.readers.paddle import open_parameters
from polyseme.errors import CheckpointError
from polyseme.protobuf import number_field, varint
from polyseme.text.tokenizer import Tokenizer

pytest.importorskip("transformers")

DATA = Path(__file__).parent / "data"


# UER-py and TencentPretrain


def uer_names(name: str) -> str:
    """A name of transformers' BERT, GPT-2 or ALBERT in UER's words."""
    for old, new in (
        (r".*word_embeddings\.|transformer\.wte\.", "embedding.word.embedding."),
        (r".*position_embeddings\.|transformer\.wpe\.", "embedding.pos.embedding."),
        (r".*token_type_embeddings\.", "embedding.seg.embedding."),
        (r".*embeddings\.LayerNorm\.", "embedding.layer_norm."),
        (r"albert\.encoder\.embedding_hidden_mapping_in\.", "encoder.linear."),
        (r"albert\.encoder\.albert_layer_groups\.0\.albert_layers\.0\.", "encoder.transformer."),
        (r"bert\.encoder\.layer\.|transformer\.h\.", "encoder.transformer."),
        (r"attention\.(self\.)?query\.", "self_attn.linear_layers.0."),
        (r"attention\.(self\.)?key\.", "self_attn.linear_layers.1."),
        (r"attention\.(self\.)?value\.", "self_attn.linear_layers.2."),
        (r"attention\.(output\.)?dense\.|attn\.c_proj\.", "self_attn.final_linear."),
        (r"attention\.(output\.)?LayerNorm\.|ln_1\.", "layer_norm_1."),
        (r"intermediate\.dense\.|ffn\.|mlp\.c_fc\.", "feed_forward.linear_1."),
        (r"(?<=\d\.)output\.dense\.|ffn_output\.|mlp\.c_proj\.", "feed_forward.linear_2."),
        (r"(?<=\d\.)output\.LayerNorm\.|full_layer_layer_norm\.|ln_2\.", "layer_norm_2."),
        (r"transformer\.ln_f\.", "encoder.layer_norm."),
        (r"bert\.pooler\.dense\.|albert\.pooler\.", "target.sp.linear_1."),
        (r"cls\.seq_relationship\.|sop_classifier\.classifier\.", "target.sp.linear_2."),
        (r"(cls\.)?predictions\.(transform\.)?dense\.", "target.mlm.linear_1."),
        (r"(cls\.)?predictions\.(transform\.)?LayerNorm\.", "target.mlm.layer_norm."),
        (r"(cls\.)?predictions\.bias", "target.mlm.linear_2.bias"),
    ):
        name = re.sub(old, new, name)
    if "layer_norm" in name:
        name = name.replace("weight", "gamma").replace("bias", "beta")
    return name


def uer_tensors(model: Any) -> dict[str, Tensor]:
    """The state that UER-py would pickle, its decoder and padding's segment included."""
    tensors: dict[str, Tensor] = {}
    table = ""
    for name, tensor in own_tensors(model).items():
        theirs = uer_names(name)
        if theirs == "embedding.seg.embedding.weight":
            tensor = torch.cat([torch.full((1, tensor.shape[1]), 7.0), tensor])
        if "c_attn" in name:
            for number, part in enumerate(tensor.chunk(3, dim=-1)):
                key = theirs.replace("attn.c_attn", f"self_attn.linear_layers.{number}")
                tensors[key] = part.t().contiguous() if part.dim() == 2 else part.clone()
            continue
        convolution = name.startswith("transformer.h.") and tensor.dim() == 2
        tensors[theirs] = tensor.t().contiguous() if convolution else tensor
        table = name if "embedding.word" in theirs else table
    output = "target.lm.output_layer.weight" if "transformer.wte" in table else "target.mlm.linear_2.weight"
    tensors[output] = own_tensors(model)[table]
    return tensors


def uer_folder(folder: Path, tensors: dict[str, Tensor], **said: Any) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(tensors, folder / "google_zh_model.bin")
    (folder / "base_config.json").write_text(json.dumps(said))
    return folder


UER_SIZES = {"layers_num": 2, "heads_num": 1, "hidden_size": 64, "feedforward_size": 24, "dropout": 0.1}


def with_output(model: Any, *names: str) -> dict[str, Tensor]:
    """The tensors that are saved, and those of `names`, which are tied to another one."""
    state = model.state_dict()
    return own_tensors(model) | {name: state[name] for name in names}


def test_uer_bert(tmp_path: Path) -> None:
    model = random_model("BertForPreTraining", **SIZES)
    folder = uer_folder(
        tmp_path / "m", uer_tensors(model), **UER_SIZES, hidden_act="gelu", target=["mlm", "sp"]
    )
    opened = open_folder(folder)
    assert_same(opened, with_output(model, "cls.predictions.decoder.weight"))
    assert_settings(opened, model)


def test_uer_bert_by_its_old_names_and_after_more_steps(tmp_path: Path) -> None:
    model = random_model("BertForPreTraining", **SIZES)
    old = {
        re.sub(
            r"^target\.(sp|mlm)\.linear",
            lambda found: f"target.{'nsp' if found[1] == 'sp' else 'mlm'}_linear",
            name.replace("embedding.word.embedding", "embedding.word_embedding")
            .replace("embedding.pos.embedding", "embedding.position_embedding")
            .replace("embedding.seg.embedding", "embedding.segment_embedding")
            .replace("target.mlm.layer_norm", "target.layer_norm"),
        ): tensor
        for name, tensor in uer_tensors(model).items()
    }
    folder = uer_folder(tmp_path / "m", old, **UER_SIZES)
    (folder / "google_zh_model.bin").rename(folder / "model.bin-250000")
    opened = open_folder(folder)
    assert_same(opened, with_output(model, "cls.predictions.decoder.weight"))
    assert opened.stored["cls.predictions.bias"].name == "target.mlm_linear_2.bias"


def test_a_file_of_tencentpretrain_itself_is_a_model(tmp_path: Path) -> None:
    receipt = convert(DATA / "uer_bert", tmp_path / "ours", check=True)
    assert (receipt.layout, receipt.heads) == ("uer-bert", ("masked-lm", "next-sentence"))
    assert receipt.unused == ("target.mlm.linear_2.weight",)
    assert_like_transformers(receipt.checked)
    model = load(DATA / "uer_bert", heads=["masked-lm"])
    state = torch.load(DATA / "uer_bert" / "bert_model.bin", weights_only=True)
    assert torch.equal(
        model.backbone.embeddings.token_types.weight, state["embedding.seg.embedding.weight"][1:]
    )
    assert model.tokenizer is not None


def test_uer_classifier_after_fine_tuning(tmp_path: Path) -> None:
    model = random_model("BertForSequenceClassification", **SIZES, num_labels=3)
    tensors = {
        name.replace("classifier.", "output_layer_2.").replace("target.sp.linear_1", "output_layer_1"): tensor
        for name, tensor in uer_tensors(model).items()
        if not name.startswith("target.mlm")
    }
    opened = open_folder(uer_folder(tmp_path / "m", tensors, **UER_SIZES))
    assert_same(opened, own_tensors(model))
    assert opened.plain["architectures"] == ["BertForSequenceClassification"]


def test_a_decoder_of_its_own_is_refused(tmp_path: Path) -> None:
    tensors = uer_tensors(random_model("BertForPreTraining", **SIZES))
    tensors["target.mlm.linear_2.weight"] = tensors["target.mlm.linear_2.weight"] + 1
    folder = uer_folder(tmp_path / "m", tensors, **UER_SIZES)
    with pytest.raises(CheckpointError, match=r"target\.mlm\.linear_2\.weight differs from embedding\.word"):
        load(folder, heads=["masked-lm"])


def test_uer_albert(tmp_path: Path) -> None:
    model = random_model("AlbertForPreTraining", embedding_size=8, hidden_act="relu", **SIZES)
    said = {**UER_SIZES, "emb_size": 8, "hidden_act": "relu", "parameter_sharing": True, "dropout": 0.0}
    opened = open_folder(uer_folder(tmp_path / "m", uer_tensors(model), **said))
    assert_same(opened, with_output(model, "predictions.decoder.weight"))
    assert_settings(opened, model)


def test_uer_gpt2(tmp_path: Path) -> None:
    model = random_model(
        "GPT2LMHeadModel", vocab_size=28, n_embd=16, n_layer=2, n_head=2, n_positions=20, n_inner=24
    )
    said = {"layers_num": 2, "heads_num": 2, "hidden_size": 16, "feedforward_size": 24, "dropout": 0.1}
    more = {"hidden_act": "gelu_fast", "layernorm_positioning": "pre", "mask": "causal"}
    opened = open_folder(uer_folder(tmp_path / "m", uer_tensors(model), **said, **more))
    assert_same(opened, with_output(model, "lm_head.weight"))
    assert_settings(opened, model)


def uer_t5(model: Any) -> dict[str, Tensor]:
    tensors = {}
    projections = {
        "q": "linear_layers.0",
        "k": "linear_layers.1",
        "v": "linear_layers.2",
        "o": "final_linear",
    }
    inner = {"wi": "linear_1", "wi_0": "linear_gate", "wi_1": "linear_1", "wo": "linear_2"}
    for name, tensor in own_tensors(model).items():
        name = name.replace("shared.", "embedding.word.embedding.").replace("final_layer_norm", "layer_norm")
        name = name.replace("decoder.block.0.layer.0.SelfAttention.relative", "decoder.self_pos_emb.relative")
        name = name.replace(
            "encoder.block.0.layer.0.SelfAttention.relative", "encoder.relative_pos_emb.relative"
        )
        name = re.sub(
            r"block\.(\d+)\.layer\.(\d)\.layer_norm",
            lambda n: f"block.{n[1]}.layer_norm_{int(n[2]) + 1}",
            name,
        )
        name = re.sub(r"layer\.0\.SelfAttention\.(\w)\.", lambda n: f"self_attn.{projections[n[1]]}.", name)
        name = re.sub(
            r"layer\.1\.EncDecAttention\.(\w)\.", lambda n: f"context_attn.{projections[n[1]]}.", name
        )
        name = re.sub(r"layer\.\d\.DenseReluDense\.(\w+)\.", lambda n: f"feed_forward.{inner[n[1]]}.", name)
        name = name.replace("encoder.block", "encoder.transformer").replace(
            "decoder.block", "decoder.transformer_decoder"
        )
        tensors[name] = tensor
    table = tensors["embedding.word.embedding.weight"]
    return {**tensors, "tgt_embedding.word.embedding.weight": table, "target.lm.output_layer.weight": table}


@pytest.mark.parametrize("inner", ["relu", "gated-gelu"])
def test_uer_t5(inner: str, tmp_path: Path) -> None:
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 2, "num_decoder_layers": 1}
    model = random_model("T5ForConditionalGeneration", vocab_size=28, feed_forward_proj=inner, **sizes)
    said = {
        "layers_num": 2,
        "decoder_layers_num": 1,
        "heads_num": 2,
        "hidden_size": 16,
        "feedforward_size": 24,
    }
    folder = uer_folder(tmp_path / "m", uer_t5(model), **said, layernorm="t5", layernorm_positioning="pre")
    opened = open_folder(folder)
    assert_same(opened, with_output(model, "lm_head.weight", "decoder.embed_tokens.weight"))
    assert_settings(opened, model, "decoder_start_token_id")


def test_settings_of_another_architecture_are_refused(tmp_path: Path) -> None:
    tensors = uer_tensors(random_model("BertForPreTraining", **SIZES))
    folder = uer_folder(tmp_path / "m", tensors, **UER_SIZES, mask="causal")
    with pytest.raises(CheckpointError, match="mask is 'causal', which is not read; 'fully_visible' is"):
        load(folder)


# Paddle


ERNIE = {**SIZES, "hidden_act": "relu", "layer_norm_eps": 1e-5}
SAID = {"hidden_act": "relu", "num_attention_heads": 1, "num_hidden_layers": 2, "hidden_dropout_prob": 0.1}


def static_names(name: str) -> str:
    """A name of transformers' ERNIE in the words of the released parameters."""
    for old, new in (
        ("ernie.embeddings.word_embeddings.weight", "word_embedding"),
        ("ernie.embeddings.position_embeddings.weight", "pos_embedding"),
        ("ernie.embeddings.token_type_embeddings.weight", "sent_embedding"),
        ("ernie.embeddings.LayerNorm.", "pre_encoder_layer_norm_"),
        ("ernie.encoder.layer.", "encoder_layer_"),
        (".attention.self.query", "_multi_head_att_query_fc"),
        (".attention.self.key", "_multi_head_att_key_fc"),
        (".attention.self.value", "_multi_head_att_value_fc"),
        (".attention.output.dense", "_multi_head_att_output_fc"),
        (".attention.output.LayerNorm.", "_post_att_layer_norm_"),
        (".intermediate.dense", "_ffn_fc_0"),
        (".output.dense", "_ffn_fc_1"),
        (".output.LayerNorm.", "_post_ffn_layer_norm_"),
        ("ernie.pooler.dense", "pooled_fc"),
        ("cls.predictions.transform.dense", "mask_lm_trans_fc"),
        ("cls.predictions.transform.LayerNorm.", "mask_lm_trans_layer_norm_"),
        ("cls.predictions.bias", "mask_lm_out_fc.bias"),
        ("cls.seq_relationship", "next_sent_fc"),
    ):
        name = name.replace(old, new)
    if "layer_norm_" in name:
        return name.replace("layer_norm_weight", "layer_norm_scale")
    return name.replace(".weight", ".w_0").replace(".bias", ".b_0")


def parameter_file(tensor: Tensor) -> bytes:
    """A float32 tensor as Paddle writes one."""
    shape = b"".join(varint(2 << 3) + varint(size) for size in tensor.shape)
    description = number_field(1, 5) + shape
    head = struct.pack("<IQIi", 0, 0, 0, len(description))
    return head + description + tensor.contiguous().numpy().tobytes()


def test_ernie_by_single_parameters(tmp_path: Path) -> None:
    model = random_model("ErnieForPreTraining", **ERNIE)
    (tmp_path / "params").mkdir()
    for name, tensor in own_tensors(model).items():
        theirs = static_names(name)
        content = tensor.t() if theirs.endswith(".w_0") else tensor
        (tmp_path / "params" / theirs).write_bytes(parameter_file(content))
        (tmp_path / "params" / f"{theirs}_moment1_0").write_bytes(parameter_file(content))
    (tmp_path / "params" / "@LR_DECAY_COUNTER@").write_bytes(parameter_file(torch.ones(1)))
    (tmp_path / "ernie_config.json").write_text(json.dumps(SAID))
    opened = open_folder(tmp_path)
    assert_same(opened, own_tensors(model))
    assert_settings(opened, model)
    assert {kind: len(names) for kind, names in opened.left.items()} == {
        "optimizer slots": len(own_tensors(model)),
        "step counters": 1,
    }


@pytest.mark.parametrize("tasks", [{}, {"use_task_id": True, "task_type_vocab_size": 4}], ids=["1.0", "3.0"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_ernie_by_one_pickle_of_arrays(protocol: int, tasks: dict[str, Any], tmp_path: Path) -> None:
    model = random_model("ErnieForPreTraining", **ERNIE, **tasks)
    state = {}
    for name, tensor in own_tensors(model).items():
        for old, new in (
            ("embeddings.LayerNorm", "embeddings.layer_norm"),
            ("encoder.layer.", "encoder.layers."),
            ("attention.self.query", "self_attn.q_proj"),
            ("attention.self.key", "self_attn.k_proj"),
            ("attention.self.value", "self_attn.v_proj"),
            ("attention.output.dense", "self_attn.out_proj"),
            ("attention.output.LayerNorm", "norm1"),
            ("intermediate.dense", "linear1"),
            ("predictions.transform.dense", "predictions.transform"),
            ("predictions.transform.LayerNorm", "predictions.layer_norm"),
            ("predictions.bias", "predictions.decoder_bias"),
            ("output.dense", "linear2"),
            ("output.LayerNorm", "norm2"),
        ):
            name = name.replace(old, new)
        matrix = tensor.dim() == 2 and "embeddings" not in name
        state[name] = np.ascontiguousarray((tensor.t() if matrix else tensor).numpy())
    state["StructuredToParameterName@@"] = {name: f"param_{n}" for n, name in enumerate(state)}
    (tmp_path / "ernie_v1.pdparams").write_bytes(pickle.dumps(state, protocol=protocol))
    (tmp_path / "model_config.json").write_text(json.dumps(SAID))
    opened = open_folder(tmp_path)
    assert_same(opened, own_tensors(model))
    assert_settings(opened, model)


def test_files_of_paddle_itself_are_read() -> None:
    with np.load(DATA / "paddle" / "expected.npz") as arrays:
        expected = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for stored in (
        open_parameters(DATA / "paddle" / "params" / "word_embedding"),
        open_pickled_arrays(DATA / "paddle" / "model.pdparams"),
    ):
        assert stored.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(stored[name].read(), tensor)
    assert {
        name: stored.shape
        for name, stored in open_pickled_arrays(DATA / "paddle" / "linear.pdparams").items()
    } == {"weight": (3, 4), "bias": (4,)}


def test_a_vocabulary_with_numbers_is_one_without(tmp_path: Path) -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "你", "好"]
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\t{n}\n" for n, token in enumerate(tokens)), "utf-8")
    assert Tokenizer.load(tmp_path).vocabulary == tokens


# OpenAI


def test_gpt_by_ten_arrays(tmp_path: Path) -> None:
    model = random_model(
        "OpenAIGPTLMHeadModel", vocab_size=28, n_embd=64, n_layer=2, n_head=1, n_positions=20
    )
    tensors = own_tensors(model)
    order = ["transformer.positions_embed.weight", "transformer.tokens_embed.weight"]
    for layer in range(2):
        for part in ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2"):
            order += [f"transformer.h.{layer}.{part}.{end}" for end in ("weight", "bias")]
    assert set(order) == tensors.keys()
    kernels = [
        tensors[name][None] if ".c_" in name and tensors[name].dim() == 2 else tensors[name] for name in order
    ]
    (tmp_path / "params_shapes.json").write_text(json.dumps([list(kernel.shape) for kernel in kernels]))
    row = np.concatenate([kernel.numpy().reshape(-1) for kernel in kernels])
    for number, piece in enumerate(np.array_split(row, 10)):
        np.save(tmp_path / f"params_{number}.npy", piece)
    opened = open_folder(tmp_path)
    assert_same(opened, tensors)
    assert_settings(opened, model)
    (tmp_path / "params_9.npy").unlink()
    with pytest.raises(
        CheckpointError, match=r"asks for \d+ numbers, and the arrays beside it hold \d+; fetch"
    ):
        open_folder(tmp_path)
