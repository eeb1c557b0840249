"""TensorFlow folders of all families are read as the tensors that transformers has, bit for bit."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_writer as writer
import torch
from foreign_models import assert_like_transformers
from torch import Tensor

from polyseme.checkpoints.convert import convert
from polyseme.checkpoints.foreign.layouts import LAYOUTS, layout_of
from polyseme.checkpoints.foreign.opening import Opened, open_folder
from polyseme.checkpoints.loading import heads_in, load
from polyseme.checkpoints.readers.tensorflow import checkpoint_files, open_checkpoint
from polyseme.errors import CheckpointError, PolysemeError

pytest.importorskip("transformers")

REAL = Path(__file__).parent / "data" / "tensorflow_bert"
"""Written by TensorFlow 2.21.0: BERT with optimizer slots and a step counter; `expected.npz` was put in."""

SIZES: dict[str, Any] = {
    "vocab_size": 28,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
BERT_CONFIG: dict[str, Any] = {
    **SIZES,
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}


def settings(folder: Path, name: str, values: dict[str, Any]) -> Path:
    (folder / name).write_text(json.dumps(values))
    return folder


def assert_same(opened: Opened, expected: dict[str, Tensor]) -> None:
    assert opened.stored.keys() == expected.keys()
    for name, tensor in expected.items():
        assert opened.stored[name].shape == tuple(tensor.shape)
        assert torch.equal(opened.stored[name].read(), tensor), name


def assert_settings(opened: Opened, model: Any, *differ: str) -> None:
    """The settings are those that the model has, but for those of `differ`."""
    known = model.config.to_dict()
    found = {key for key, value in opened.plain.items() if key in known and known[key] != value}
    assert found <= {"architectures", *differ}
    assert opened.plain["model_type"] == model.config.model_type
    assert opened.plain["architectures"] == [type(model).__name__]


def bert_folder(path: Path, seed: int = 0, kind: str = "BertForPreTraining", **how: Any) -> tuple[Any, Path]:
    model = writer.random_model(kind, seed, **SIZES)
    folder = writer.write(path, writer.bert(model), "bert_model.ckpt", **how)
    return model, settings(folder, "bert_config.json", BERT_CONFIG)


def test_a_file_of_tensorflow_itself_is_read_and_written_again_byte_by_byte() -> None:
    stored = open_checkpoint(REAL / "bert_model.ckpt.index")
    with np.load(REAL / "expected.npz") as arrays:
        expected = {name.replace("|", "/"): torch.from_numpy(array) for name, array in arrays.items()}
    tensors = {name: tensor.read() for name, tensor in stored.items()}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    for name, content in checkpoint_files(tensors, "bert_model.ckpt").items():
        assert content == (REAL / name).read_bytes()


def test_a_folder_of_tensorflow_itself_is_a_model_with_its_tokenizer() -> None:
    assert heads_in(REAL) == ["masked-lm", "next-sentence"]
    model = load(REAL, heads=["masked-lm"])
    with np.load(REAL / "expected.npz") as arrays:
        kernel = arrays["bert|encoder|layer_1|attention|self|key|kernel"]
    assert torch.equal(model.backbone.layers[1].attention.key.weight, torch.from_numpy(kernel).T)
    assert model.backbone.config.activation == "gelu_tanh"
    assert model.tokenizer is not None
    assert model.tokenizer.vocab_size == 28


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", [{}, {"shards": 3}, {"block_size": 200}], ids=str)
def test_bert(seed: int, how: dict[str, int], tmp_path: Path) -> None:
    model, folder = bert_folder(tmp_path / "model", seed, **how)
    opened = open_folder(folder)
    assert_same(opened, writer.own_tensors(model))
    # Google's gelu is the form with tanh.
    assert_settings(opened, model, "hidden_act")
    assert opened.plain["hidden_act"] == "gelu_new"


def test_albert(tmp_path: Path) -> None:
    model = writer.random_model("AlbertForPreTraining", embedding_size=8, **SIZES)
    folder = writer.write(tmp_path / "a", writer.albert(model), "model.ckpt-best")
    opened = open_folder(settings(folder, "albert_config.json", {**BERT_CONFIG, "embedding_size": 8}))
    assert_same(opened, writer.own_tensors(model))
    assert_settings(opened, model, "hidden_dropout_prob", "attention_probs_dropout_prob")


def test_electra_is_two_models_in_one_file(tmp_path: Path) -> None:
    discriminator = writer.random_model("ElectraForPreTraining", 0, embedding_size=8, **SIZES)
    smaller = {**SIZES, "intermediate_size": 12, "num_hidden_layers": 1}
    generator = writer.random_model("ElectraForMaskedLM", 1, embedding_size=8, **smaller)
    generator.electra.embeddings.load_state_dict(discriminator.electra.embeddings.state_dict())
    tensors = writer.electra(discriminator, generator)
    folder = writer.write(tmp_path / "e", writer.with_slots(tensors, "/adam_m", "/adam_v"), "electra_small")
    for layout, model, other in (
        (None, discriminator, "generator"),
        ("tensorflow-electra-generator", generator, "discriminator"),
    ):
        opened = open_folder(folder, layout=layout)
        assert_same(opened, writer.own_tensors(model))
        assert_settings(opened, model, "hidden_act")
        assert opened.left.keys() == {"optimizer slots", "step counters", f"tensors of the {other}"}
        assert len(opened.left["optimizer slots"]) == 2 * len(tensors)


def test_xlnet(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 24}
    model = writer.random_model("XLNetLMHeadModel", vocab_size=28, **sizes)
    folder = writer.write(tmp_path / "x", writer.xlnet(model), "xlnet_model.ckpt")
    said = {**sizes, "n_token": 28, "d_head": 8, "ff_activation": "gelu", "untie_r": True}
    opened = open_folder(settings(folder, "xlnet_config.json", said))
    assert_same(opened, writer.own_tensors(model))
    assert_settings(opened, model, "ff_activation")
    with pytest.raises(CheckpointError, match="untie_r is false"):
        open_folder(settings(folder, "xlnet_config.json", {**said, "untie_r": False}))


def test_gpt2(tmp_path: Path) -> None:
    model = writer.random_model(
        "GPT2LMHeadModel", vocab_size=28, n_embd=16, n_layer=2, n_head=2, n_positions=20
    )
    folder = writer.write(tmp_path / "g", writer.gpt2(model), "model.ckpt")
    said = {"n_vocab": 28, "n_ctx": 20, "n_embd": 16, "n_head": 2, "n_layer": 2}
    opened = open_folder(settings(folder, "hparams.json", said))
    assert_same(opened, writer.own_tensors(model))
    assert_settings(opened, model)


@pytest.mark.parametrize("inner", ["relu", "gated-gelu"])
def test_t5(inner: str, tmp_path: Path) -> None:
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    model = writer.random_model(
        "T5ForConditionalGeneration", vocab_size=28, num_decoder_layers=3, feed_forward_proj=inner, **sizes
    )
    tensors = writer.t5(model)
    folder = writer.write(tmp_path / "t", writer.with_slots(tensors, "_slot_v"), "model.ckpt-1000000")
    (folder / "operative_config.gin").write_text(
        "# Macros:\nd_model = 16\nd_kv = 4\ndropout_rate = 0.25\nnum_heads = 2\n"
        "encoder/Unitransformer.d_model = %d_model\nmesh_train.batch_size = ('tokens', 512)\n"
    )
    opened = open_folder(folder)
    assert_same(opened, writer.own_tensors(model))
    assert_settings(opened, model, "dropout_rate", "decoder_start_token_id")
    assert opened.plain["dropout_rate"] == 0.25
    (folder / "operative_config.gin").write_text("num_heads = 4\n")
    with pytest.raises(CheckpointError, match="num_heads is 4 in the settings file and 2 in the tensors"):
        open_folder(folder)


def test_t5_with_the_other_spelling_of_its_norms_and_an_output_of_its_own(tmp_path: Path) -> None:
    model = writer.random_model(
        "T5ForConditionalGeneration", vocab_size=28, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2
    )
    tensors = {
        re.sub(r"final_layer_norm|layer_norm", "rms_norm", name): tensor
        for name, tensor in writer.t5(model).items()
    }
    tensors["decoder/logits/kernel"] = torch.randn(16, 28)
    opened = open_folder(writer.write(tmp_path / "t", tensors, "model.ckpt"))
    expected = writer.own_tensors(model) | {"lm_head.weight": tensors["decoder/logits/kernel"].t()}
    assert_same(opened, expected)
    assert opened.plain["tie_word_embeddings"] is False


def transformer_xl() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A random model by the names of TensorFlow and by those of transformers 4.35.2, which had it."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    foreign: dict[str, Tensor] = {}
    published: dict[str, Tensor] = {}
    for cluster, (size, width) in enumerate([(6, 12), (8, 6), (14, 3)]):
        table, projection, bias = draw(size, width), draw(width, 12), draw(size)
        foreign[f"transformer/adaptive_embed/cutoff_{cluster}/lookup_table"] = table
        foreign[f"transformer/adaptive_embed/cutoff_{cluster}/proj_W"] = projection
        foreign[f"transformer/adaptive_softmax/cutoff_{cluster}/b"] = bias
        published[f"transformer.word_emb.emb_layers.{cluster}.weight"] = table
        published[f"transformer.word_emb.emb_projs.{cluster}"] = projection.t()
        published[f"crit.out_layers.{cluster}.bias"] = bias
    own = draw(12, 12)
    foreign["transformer/adaptive_softmax/cutoff_0/proj"] = own
    published["crit.out_projs.0"] = own.t()
    foreign["transformer/adaptive_softmax/cutoff_0/cluster_W"] = published["crit.cluster_weight"] = draw(
        2, 12
    )
    foreign["transformer/adaptive_softmax/cutoff_0/cluster_b"] = published["crit.cluster_bias"] = draw(2)
    for name in ("r_w_bias", "r_r_bias"):
        foreign[f"transformer/{name}"] = draw(2, 3, 5)
        for layer in range(2):
            published[f"transformer.layers.{layer}.dec_attn.{name}"] = foreign[f"transformer/{name}"][layer]
    for layer in range(2):
        theirs, ours = f"transformer/layer_{layer}", f"transformer.layers.{layer}"
        for name, shape in (("qkv", (12, 45)), ("r", (12, 15)), ("o", (15, 12))):
            kernel = foreign[f"{theirs}/rel_attn/{name}/kernel"] = draw(*shape)
            published[f"{ours}.dec_attn.{name}_net.weight"] = kernel.t()
        for name, place, shape in (("layer_1", 0, (12, 20)), ("layer_2", 3, (20, 12))):
            kernel = foreign[f"{theirs}/ff/{name}/kernel"] = draw(*shape)
            published[f"{ours}.pos_ff.CoreNet.{place}.weight"] = kernel.t()
            bias = foreign[f"{theirs}/ff/{name}/bias"] = draw(shape[1])
            published[f"{ours}.pos_ff.CoreNet.{place}.bias"] = bias
        for part, module in (("rel_attn", "dec_attn"), ("ff", "pos_ff")):
            for old, new in (("gamma", "weight"), ("beta", "bias")):
                vector = foreign[f"{theirs}/{part}/LayerNorm/{old}"] = draw(12)
                published[f"{ours}.{module}.layer_norm.{new}"] = vector
    return foreign, published


def test_transformer_xl(tmp_path: Path) -> None:
    foreign, published = transformer_xl()
    opened = open_folder(
        writer.write(tmp_path / "x", writer.with_slots(foreign, "/Adam", "/Adam_1"), "model.ckpt-0")
    )
    assert_same(opened, published)
    expected = {
        "vocab_size": 28,
        "cutoffs": [6, 14],
        "d_embed": 12,
        "d_model": 12,
        "div_val": 2,
        "n_layer": 2,
        "n_head": 3,
        "d_head": 5,
        "d_inner": 20,
        "tie_projs": [False, True, True],
        "tie_word_embeddings": True,
    }
    assert {key: opened.plain[key] for key in expected} == expected


def test_bert_goes_to_tensorflow_and_back_without_a_bit_changed(tmp_path: Path) -> None:
    _, folder = bert_folder(tmp_path / "source", 3)
    first = convert(folder, tmp_path / "ours", check=True)
    assert "0 cut into several" in str(first)
    assert (first.layout, first.tensors, first.renamed, first.transposed) == ("tensorflow-bert", 46, 46, 14)
    assert_like_transformers(first.checked)
    second = convert(tmp_path / "ours", tmp_path / "tensorflow", to="tensorflow", check=True)
    assert second.checked == "read back: 46 tensors, every one equal bit by bit"
    for one, other in zip(
        sorted(folder.glob("*.ckpt*")), sorted((tmp_path / "tensorflow").glob("*.ckpt*")), strict=True
    ):
        assert one.read_bytes() == other.read_bytes()
    convert(tmp_path / "tensorflow", tmp_path / "again")
    weights = "model.safetensors"
    assert (tmp_path / "ours" / weights).read_bytes() == (tmp_path / "again" / weights).read_bytes()
    assert (tmp_path / "ours" / "config.json").read_bytes() == (
        tmp_path / "again" / "config.json"
    ).read_bytes()


def test_what_tensorflows_code_cannot_be_told_is_kept_and_said(tmp_path: Path) -> None:
    model = writer.random_model("BertForSequenceClassification", 1, **SIZES, num_labels=3)
    model.config.id2label = {0: "好", 1: "坏", 2: "中"}
    model.config.label2id = {"好": 0, "坏": 1, "中": 2}
    model.save_pretrained(tmp_path / "source")
    receipt = convert(tmp_path / "source", tmp_path / "tensorflow", to="tensorflow")
    assert str(receipt).endswith("; TensorFlow's code computes another hidden_act gelu")
    again = load(tmp_path / "tensorflow", heads=["classification"])
    assert again.backbone.config.activation == "gelu"
    assert again.card.labels == ["好", "坏", "中"]
    assert torch.equal(again.heads["classification"].dense.weight, model.classifier.weight)


def test_only_families_that_are_written_for_tensorflow_are(tmp_path: Path) -> None:
    from foreign_models import foreign_folder

    source = foreign_folder(tmp_path / "source", "ModernBertForMaskedLM")
    with pytest.raises(
        CheckpointError, match="modernbert are not written for TensorFlow, only bert; write them"
    ):
        convert(source, tmp_path / "target", to="tensorflow")
    assert not (tmp_path / "target").exists()


def test_a_receipt_counts_what_was_no_weight_by_its_kind() -> None:
    opened = open_folder(REAL)
    assert {kind: len(names) for kind, names in opened.left.items()} == {
        "optimizer slots": 4,
        "step counters": 1,
    }


def test_an_unknown_tensor_a_missing_one_and_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    model = writer.random_model("BertForPreTraining", **SIZES)
    tensors = writer.bert(model)
    query = "bert/encoder/layer_1/attention/self/query/kernel"
    for number, (changed, message) in enumerate(
        [
            (
                {**tensors, "bert/encoder/layer_1/extra": torch.zeros(2)},
                "holds bert/encoder/layer_1/extra, which",
            ),
            (
                {k: v for k, v in tensors.items() if k != query},
                r"lacks bert\.encoder\.layer\.1\.attention\.self\.query",
            ),
            (
                {**tensors, query: torch.zeros(64, 63)},
                rf"{query} has the shape \[63, 64\], but config.json asks",
            ),
        ]
    ):
        folder = writer.write(tmp_path / str(number), changed, "bert_model.ckpt")
        settings(folder, "bert_config.json", BERT_CONFIG)
        with pytest.raises(CheckpointError, match=message):
            load(folder)


def test_a_folder_says_what_it_lacks_and_which_file_is_meant(tmp_path: Path) -> None:
    _, folder = bert_folder(tmp_path / "model")
    for file in list(folder.glob("bert_model.ckpt*")):
        (folder / file.name.replace("bert_model", "other")).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="several files like a TensorFlow checkpoint: bert_model"):
        load(folder)
    (folder / "checkpoint").write_text('model_checkpoint_path: "/data/runs/other.ckpt"\n')
    assert {stored.file.name for stored in open_folder(folder).stored.values()} == {
        "other.ckpt.data-00000-of-00001"
    }
    (folder / "checkpoint").write_text('model_checkpoint_path: "../../other.ckpt"\n')
    assert open_folder(folder).stored["cls.predictions.bias"].file.parent == folder
    (folder / "other_config.json").write_text("{}")
    (folder / "bert_config.json").rename(folder / "a_config.json")
    with pytest.raises(
        CheckpointError, match=r"several settings files: a_config\.json, other_config\.json; say which"
    ):
        load(folder)
    receipt = convert(folder, tmp_path / "out", settings=folder / "a_config.json")
    assert receipt.heads == ("masked-lm", "next-sentence")
    with pytest.raises(CheckpointError, match="no layout 'tensorflow-brt' \\(did you mean 'tensorflow-bert'"):
        convert(folder, tmp_path / "more", layout="tensorflow-brt")
    with pytest.raises(
        CheckpointError, match="of no layout that polyseme reads \\(tensorflow-gpt2\\); it holds bert/"
    ):
        convert(folder, tmp_path / "more", layout="tensorflow-gpt2")


def test_a_checkpoint_of_version_1_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "bert_model.ckpt").write_bytes(b"\0" * 100)
    (tmp_path / "bert_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"version 1, or cut off; save it again with tf\.compat"):
        load(tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_the_table_is_one(name: str) -> None:
    layout = layout_of(name)
    assert layout.marks
    assert layout.architectures[-1][0] == ""
    for expression in layout.ignored.values():
        re.compile(expression)


def test_an_xlnet_settings_file_with_any_value_of_another_kind_is_refused_or_opened(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24}
    model = writer.random_model("XLNetLMHeadModel", vocab_size=28, **sizes)
    folder = writer.write(tmp_path / "x", writer.xlnet(model), "xlnet_model.ckpt")
    said = {**sizes, "n_token": 28, "d_head": 8, "ff_activation": "gelu", "untie_r": True}
    values: list[Any] = [None, True, -1, 0, 1 << 40, -1.5, 1e308, "", "x", [], ["gelu"], {}, {"n_head": 2}]
    refused = 0
    for name in said:
        for value in values:
            (folder / "xlnet_config.json").write_text(json.dumps({**said, name: value}), encoding="utf-8")
            try:
                load(folder)
            except PolysemeError:
                refused += 1
    for content in (
        '{"n_head": {"n_head": 2}, "ff_activation": "gelu"}',
        "[" * 9_999,
        '{"n_head": ' + "9" * 5_000 + "}",
    ):
        (folder / "xlnet_config.json").write_text(content, encoding="utf-8")
        with pytest.raises(PolysemeError):
            load(folder)
    assert refused > 50
