"""Folders as people have them: saved by training code, published before today's names, or of another kind."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import assert_agree, change_settings, foreign_folder, padded_batch, read_back
from reporters import Said
from safetensors.torch import load_file, save_file
from torch import Tensor

from polyseme.checkpoints.convert import convert
from polyseme.checkpoints.loading import load
from polyseme.cli.running import run
from polyseme.errors import MissingExtra, PolysemeError
from polyseme.progress import reporting

pytest.importorskip("transformers")

WORDS = "embeddings.word_embeddings.weight"


def renamed(folder: Path, rename: Any, more: dict[str, Tensor] | None = None) -> Path:
    """The folder with other names of its tensors, and more tensors."""
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {rename(name): tensor for name, tensor in tensors.items()} | (more or {}),
        folder / "model.safetensors",
    )
    return folder


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(PolysemeError) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def told(folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """The model of a folder, and what is said while it is read."""
    lines = Said()
    with reporting(lines):
        return load(folder, **options), lines.lines


@pytest.mark.parametrize(
    "kind", ["BertForPreTraining", "RobertaForMaskedLM", "ModernBertForMaskedLM", "BertModel"]
)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "model.module.", "net.encoder."])
def test_what_stands_before_all_names_is_left_out(kind: str, prefix: str, tmp_path: Path) -> None:
    expected = load(foreign_folder(tmp_path, kind)).backbone.state_dict()
    model, said = told(renamed(tmp_path, lambda name: prefix + name))
    found = model.backbone.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert said == [f"{tmp_path}: the names of all tensors begin with {prefix!r}, which is left out"]


def test_a_folder_of_today_says_nothing(tmp_path: Path) -> None:
    import transformers

    for kind in ("BertForPreTraining", "BertModel", "ModernBertModel", "AlbertForMaskedLM"):
        assert told(foreign_folder(tmp_path / kind, kind))[1] == []
    sizes = {"vocab_size": 30, "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 16}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    assert told(tmp_path / "gpt2")[1] == []


def test_a_prefix_that_only_some_names_have_is_named_and_taken_off_once_the_others_are_left_out(
    tmp_path: Path,
) -> None:
    expected = load(foreign_folder(tmp_path, "BertModel")).backbone.state_dict()
    more = {"crf.transitions": torch.zeros(3, 3), "lstm.weight_ih_l0": torch.zeros(2)}
    renamed(tmp_path, lambda name: f"encoder.bert.{name}", more)
    message = refusal(tmp_path)
    assert "begin with 'encoder.', but those of crf.transitions, lstm.weight_ih_l0 do not" in message
    assert "--ignore-tensors 'crf.*' 'lstm.*'" in message
    assert "fresh" not in message
    found = load(tmp_path, ignore=["crf.*", "lstm.*"]).backbone.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_the_name_of_another_family_is_not_left_out(tmp_path: Path) -> None:
    renamed(foreign_folder(tmp_path, "BertModel"), lambda name: f"roberta.{name}")
    assert "begin with 'roberta.', but config.json says that the model is of the family bert" in refusal(
        tmp_path
    )


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_the_checkpoint_of_a_training_program_is_its_weights(key: str, tmp_path: Path) -> None:
    expected = load(foreign_folder(tmp_path, "BertModel")).backbone.state_dict()
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    wrapped = {f"model.bert.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"epoch": 3, key: wrapped, "optimizer_states": [{"lr": 0.1}]}, tmp_path / "pytorch_model.bin")
    model, said = told(tmp_path)
    assert all(torch.equal(tensor, model.backbone.state_dict()[name]) for name, tensor in expected.items())
    assert said[0].endswith(f"the weights are read from {key!r}, without epoch, optimizer_states")


def test_the_file_of_lightning_says_what_to_call_it(tmp_path: Path) -> None:
    foreign_folder(tmp_path, "BertModel")
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    for old in (False, True):
        torch.save({"state_dict": tensors}, tmp_path / "last.ckpt", _use_new_zipfile_serialization=not old)
        assert "last.ckpt is a checkpoint of PyTorch" in (message := refusal(tmp_path))
        assert "rename it to pytorch_model.bin" in message


@pytest.mark.parametrize(
    ("kind", "file", "rename"),
    [
        ("BertForPreTraining", "bert_config.json", {}),
        ("AlbertForMaskedLM", "albert_config.json", {}),
        ("XLNetLMHeadModel", "xlnet_config.json", {"vocab_size": "n_token"}),
    ],
)
@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
def test_settings_under_their_first_name_are_read(
    kind: str, file: str, rename: dict[str, str], weights: str, tmp_path: Path
) -> None:
    import transformers

    if kind.startswith("XLNet"):
        config = transformers.XLNetConfig(vocab_size=30, d_model=8, n_layer=2, n_head=2, d_inner=16)
        transformers.XLNetLMHeadModel(config).save_pretrained(tmp_path)
    else:
        foreign_folder(tmp_path, kind)
    expected = load(tmp_path)
    plain = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    for key in ("model_type", "architectures"):
        del plain[key]
    (tmp_path / file).write_text(json.dumps({rename.get(key, key): value for key, value in plain.items()}))
    if weights == "pytorch_model.bin":
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / weights)
        (tmp_path / "model.safetensors").unlink()
    model, said = told(tmp_path)
    family = expected.card.family
    assert said == [f"{tmp_path / file} is read as the config.json of a {family}"]
    assert model.backbone.config == expected.backbone.config
    for name, tensor in expected.backbone.state_dict().items():
        assert torch.equal(tensor, model.backbone.state_dict()[name])
    (tmp_path / "albert_config.json").write_text("{}")
    (tmp_path / "bert_config.json").write_text("{}")
    assert "has no config.json, but albert_config.json, bert_config.json" in refusal(tmp_path)


def test_tensors_that_a_model_has_no_place_for_are_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = foreign_folder(tmp_path / "tagger", "BertForMaskedLM", tokenizer=True)
    more = {"crf.transitions": torch.zeros(3, 3), "lstm.weight_ih_l0": torch.zeros(2)}
    renamed(source, str, more)
    message = refusal(source)
    assert "holds crf.transitions, lstm.weight_ih_l0, which are no part of this model" in message
    assert re.search(r"polyseme convert \S+/tagger OUT --ignore-tensors 'crf\.\*' 'lstm\.\*' \(in", message)
    assert "no tensor of" in refusal(source, ignore=["crff.*"])

    receipt = convert(source, tmp_path / "python", ignore=["crf.*", "lstm.*"])
    assert "ignored (2): crf.transitions, lstm.weight_ih_l0" in str(receipt)
    assert run(["convert", str(source), str(tmp_path / "out"), "--ignore-tensors", "crf.*", "lstm.*"]) == 0
    assert "ignored (2)" in capsys.readouterr().out
    theirs = read_back("BertForMaskedLM", tmp_path / "out")
    batch = padded_batch(0, 28, 2, 12)
    assert_agree(load(source, ignore=["crf.*", "lstm.*"], heads=["masked-lm"]), theirs, batch)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {
                "adapter_config.json": '{"base_model_name_or_path": "owner/base"}',
                "adapter_model.safetensors": "",
            },
            r"holds an adapter \(LoRA\) of owner/base, not a whole model; merge the two",
        ),
        (
            {"model.fp16.safetensors": ""},
            r"has no model\.safetensors, but model\.fp16\.safetensors; rename it",
        ),
        ({"a.safetensors": "", "b.safetensors": ""}, r"but a\.safetensors, b\.safetensors; rename the one"),
        (
            {"model-q4.gguf": ""},
            r"holds model-q4\.gguf \(GGUF, of llama\.cpp\), which polyseme does not read",
        ),
        ({"model.onnx": ""}, r"holds model\.onnx \(an ONNX graph\), which"),
        (
            {"tf_model.h5": ""},
            r"holds tf_model\.h5 \(of Keras\), which .*; fetch model\.safetensors or pytorch_model",
        ),
        ({"flax_model.msgpack": ""}, r"holds flax_model\.msgpack \(of Flax\), which"),
    ],
)
@pytest.mark.parametrize("settings", [True, False])
def test_a_folder_of_another_kind_says_what_it_holds(
    files: dict[str, str], message: str, settings: bool, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    if settings:
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert re.search(message, refusal(tmp_path))


def test_a_family_that_is_another_one_is_named(tmp_path: Path) -> None:
    foreign_folder(tmp_path, "RobertaForMaskedLM")
    expected = load(tmp_path, heads=["masked-lm"])
    change_settings(tmp_path, model_type="camembert")
    assert refusal(tmp_path).endswith("; it computes what roberta does: set model_type to that")
    change_settings(tmp_path, model_type="roberta")
    assert load(tmp_path).backbone.config == expected.backbone.config


def test_a_model_without_the_head_of_a_task_says_how_to_fine_tune_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = foreign_folder(tmp_path / "bert", "BertModel", tokenizer=True)
    (tmp_path / "texts.txt").write_text("的一是\n", "utf-8")
    words = [
        "predict",
        str(tmp_path / "texts.txt"),
        "--model",
        str(folder),
        "--out",
        str(tmp_path / "out.jsonl"),
    ]
    assert run(words) == 2
    message = capsys.readouterr().err
    assert f"fine-tune it first: polyseme finetune classification --model {folder}" in message
    for head, task in (("token-classification", "tagging"), ("question-answering", "reading-comprehension")):
        assert f"polyseme finetune {task} --model" in refusal(folder, heads=[head])


def test_a_missing_package_is_named_as_pip_knows_it_and_for_a_checkout() -> None:
    message = str(MissingExtra("pyarrow", extra="parquet"))
    assert "pip install pyarrow (" in message
    assert "pip install -e '.[parquet]'" in message
    assert "'polyseme[" not in message


def test_a_command_says_once_how_a_folder_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = renamed(foreign_folder(tmp_path / "source", "BertModel"), lambda name: f"module.{name}")
    assert run(["convert", str(source), str(tmp_path / "out")]) == 0
    assert " ".join(capsys.readouterr().err.split()).count("begin with 'module.'") == 1
