"""Nothing is loaded by half and nothing is written wrongly: every refusal names what and where."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import change_settings, foreign_folder
from safetensors.torch import load_file, save_file
from torch import Tensor

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import files_of, save
from polyseme.errors import CheckpointError, DataError, PolysemeError, SettingsError
from polyseme.models.heads import ClassificationHead, MaskedLMHead
from polyseme.records import to_json

pytest.importorskip("transformers")

WORDS = "bert.embeddings.word_embeddings.weight"


def change_tensors(folder: Path, **changes: Tensor | None) -> None:
    """Add, replace or (None) take out tensors of a folder; `__` in a name stands for a dot."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def assert_refused(message: str, folder: Path, **options: Any) -> None:
    with pytest.raises(PolysemeError) as caught:
        load(folder, **options)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return foreign_folder(tmp_path / "bert", "BertForPreTraining")


@pytest.fixture
def modernbert(tmp_path: Path) -> Path:
    return foreign_folder(tmp_path / "modernbert", "ModernBertForMaskedLM")


def test_a_missing_tensor_is_named(bert: Path) -> None:
    change_tensors(bert, bert__encoder__layer__1__output__dense__bias=None)
    assert_refused(
        r"bert lacks bert\.encoder\.layer\.1\.output\.dense\.bias; the weights are incomplete", bert
    )


def test_many_missing_tensors_are_named_and_counted(bert: Path) -> None:
    change_settings(bert, num_hidden_layers=3)
    assert_refused(r"lacks (bert\.encoder\.layer\.2\.[\w.]+, ){3}bert\.\S+ and 12 more tensors", bert)


def test_a_tensor_left_over_is_named(bert: Path, modernbert: Path) -> None:
    change_tensors(bert, bert__encoder__layer__0__adapter__weight=torch.zeros(2))
    assert_refused(r"holds bert\.encoder\.layer\.0\.adapter\.weight, which are no part of this model", bert)
    change_tensors(modernbert, model__layers__0__attn_norm__weight=torch.zeros(16))
    assert_refused(r"holds model\.layers\.0\.attn_norm\.weight, which", modernbert)


def test_layers_that_the_settings_leave_out_are_left_over(bert: Path) -> None:
    change_settings(bert, num_hidden_layers=1)
    assert_refused(r"holds bert\.encoder\.layer\.1\.", bert)


def test_a_wrong_shape_is_named_with_both_shapes(bert: Path, modernbert: Path) -> None:
    change_tensors(bert, bert__pooler__dense__weight=torch.zeros(16, 8))
    assert_refused(r"bert\.pooler\.dense\.weight has the shape \[16, 8\], but .* \[16, 16\]", bert)
    change_tensors(modernbert, model__layers__1__attn__Wqkv__weight=torch.zeros(32, 16))
    assert_refused(r"Wqkv\.weight has the shape \[32, 16\], but config\.json asks for \[48, 16\]", modernbert)


def test_a_head_that_the_file_lacks_is_refused_unless_it_starts_fresh(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path, "BertForMaskedLM")
    assert_refused(
        r"has no next-sentence \(its architectures: BertForMaskedLM\).* fresh=",
        folder,
        heads=["next-sentence"],
    )
    assert_refused(
        r'no pooler, which next-sentence reads; in Python, "pooler" in fresh= too',
        folder,
        fresh=["next-sentence"],
    )
    torch.manual_seed(0)
    model = load(folder, heads=["masked-lm"], fresh=["next-sentence", "pooler"])
    assert list(model.heads) == ["masked-lm", "next-sentence"]
    assert model.backbone.config.pooler
    assert model.backbone.pooler.weight.std() > 0.01
    assert not any(p.is_meta for m in (model.backbone, *model.heads.values()) for p in m.parameters())


def test_a_part_in_heads_and_fresh_is_read_where_it_is_and_drawn_where_it_is_not(
    bert: Path, tmp_path: Path
) -> None:
    parts = ["masked-lm", "next-sentence", "pooler"]
    stored = load(bert, heads=parts)
    assert torch.equal(
        load(bert, heads=parts, fresh=parts).heads["next-sentence"].dense.weight,
        stored.heads["next-sentence"].dense.weight,
    )
    alone = load(bert, heads=["masked-lm"], fresh=["next-sentence", "pooler"])
    assert not torch.equal(
        alone.heads["next-sentence"].dense.weight, stored.heads["next-sentence"].dense.weight
    )
    assert not torch.equal(alone.backbone.pooler.weight, stored.backbone.pooler.weight)
    words = foreign_folder(tmp_path / "words", "BertForMaskedLM")
    assert set(load(words, heads=parts, fresh=parts).heads) == {"masked-lm", "next-sentence"}


def test_a_fresh_classifier_takes_its_classes_and_pooling(bert: Path, modernbert: Path) -> None:
    assert_refused(r"needs the names of its classes; pass labels=", bert, fresh=["classification"])
    for folder, given, pooling in (
        (bert, None, "pooler"),
        (modernbert, None, "first"),
        (modernbert, "mean", "mean"),
    ):
        model = load(folder, fresh=["classification"], labels=["a", "b", "c"], pooling=given)
        head = model.heads["classification"]
        assert isinstance(head, ClassificationHead)
        assert (head.dense.out_features, head.pooling) == (3, pooling)
        assert (model.card.labels, model.card.problem) == (["a", "b", "c"], "single")
        files_of(model)


def test_the_classifier_of_another_task_is_not_taken_for_ours(tmp_path: Path) -> None:
    for kind in ("BertForTokenClassification", "ModernBertForTokenClassification"):
        folder = foreign_folder(tmp_path / kind, kind)
        assert load(folder).heads == {}
        assert_refused(
            rf"has no classification \(its architectures: {kind}\)", folder, heads=["classification"]
        )
    questions = foreign_folder(tmp_path / "questions", "BertForQuestionAnswering")
    assert load(questions).heads == {}


def test_a_part_that_does_not_exist_is_refused_with_the_nearest_name(bert: Path, modernbert: Path) -> None:
    assert_refused(r"no part 'maskedlm' \(did you mean 'masked-lm'\?\)", bert, heads=["maskedlm"])
    assert_refused(r"family modernbert has no next-sentence", modernbert, heads=["next-sentence"])
    assert_refused(r"family modernbert has no pooler", modernbert, fresh=["pooler"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bart"}, "family 'bart' cannot be read or written; known are bert, "),
        ({"model_type": None}, "names no model_type"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True, which polyseme does not compute; it reads False"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; polyseme computes gelu, gelu_new"),
        ({"hidden_size": "16"}, r"config\.json: Expected `int`, got `str` - at hidden_size"),
        ({"num_attention_heads": 3}, "hidden_size 16 is not a multiple of num_heads 3"),
        ({"num_hidden_layers": 10**9}, "says 1000000000 layers, but the weights are"),
        (
            {"hidden_size": 2**40, "num_attention_heads": 1},
            "hidden_size must be below 2\\^31, got 1099",
        ),
        ({"hidden_size": 2**20, "num_attention_heads": 1}, "has the shape .* but config.json asks for"),
    ],
)
def test_a_bert_that_we_do_not_compute_is_refused_by_the_value(
    changes: dict[str, Any], message: str, bert: Path
) -> None:
    change_settings(bert, **changes)
    assert_refused(message, bert)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layer_types": ["sliding_attention", "full_attention"]},
            r"layer_types is \['sliding_attention', 'full_attention'\]",
        ),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types is"),
        (
            {"layer_types": ["full_attention", "sliding_attention"], "local_attention": 0},
            "attention.window must be at least 1, got 0",
        ),
        ({"layer_types": ["full_attention"]}, "layer_types names 1 layers and num_hidden_layers 2"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}},
            "rope_type is 'yarn'",
        ),
        ({"norm_bias": True}, "norm_bias is True and attention_bias False"),
        ({"classifier_activation": "relu"}, "classifier_activation is 'relu' and hidden_activation 'gelu'"),
        ({"decoder_bias": False}, "decoder_bias is False"),
        ({"mlp_dropout": 0.5}, "embedding_dropout is 0.0 and mlp_dropout 0.5"),
        ({"max_position_embeddings": 10**9}, "max_position_embeddings is above"),
        ({"pad_token_id": 10**6}, "padding_id must be one of"),
    ],
)
def test_a_modernbert_that_we_do_not_compute_is_refused_by_the_value(
    changes: dict[str, Any], message: str, modernbert: Path
) -> None:
    change_settings(modernbert, **changes)
    assert_refused(message, modernbert)


@pytest.mark.parametrize(
    "kind",
    [
        "BertForPreTraining",
        "ModernBertForMaskedLM",
        "ErnieForPreTraining",
        "RobertaForMaskedLM",
        "AlbertForPreTraining",
        "ElectraForPreTraining",
        "DistilBertForMaskedLM",
    ],
)
def test_no_value_in_the_settings_ends_in_anything_but_a_clear_line(kind: str, tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path, kind)
    original = json.loads((folder / "config.json").read_text())
    junk = [None, "x", -1, 1e300, [[]], {"full_attention": 3}, True]
    keys = [
        *original,
        "id2label",
        "pruned_heads",
        "position_embedding_type",
        "rope_theta",
        "global_rope_theta",
    ]
    for key in keys:
        for value in junk:
            (folder / "config.json").write_text(json.dumps(original | {key: value}))
            try:
                load(folder, heads=["masked-lm"])
            except PolysemeError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_a_decoder_that_is_not_the_token_table_is_refused(bert: Path, modernbert: Path) -> None:
    table = load_file(bert / "model.safetensors")
    change_tensors(
        bert,
        cls__predictions__decoder__weight=table[WORDS].clone(),
        cls__predictions__decoder__bias=table["cls.predictions.bias"].clone(),
    )
    load(bert, heads=["masked-lm"])
    change_tensors(bert, cls__predictions__decoder__weight=table[WORDS] + 1)
    load(bert)
    message = r"cls\.predictions\.decoder\.weight differs from bert\.embeddings\.word_embeddings\.weight"
    assert_refused(message, bert, heads=["masked-lm"])
    change_tensors(modernbert, decoder__weight=torch.zeros(30, 16))
    assert_refused(r"decoder\.weight differs from model\.embeddings", modernbert, heads=["masked-lm"])


def test_a_bias_stored_under_the_decoder_alone_is_read(bert: Path) -> None:
    bias = load_file(bert / "model.safetensors")["cls.predictions.bias"]
    change_tensors(bert, cls__predictions__bias=None, cls__predictions__decoder__bias=bias.clone())
    assert torch.equal(load(bert, heads=["masked-lm"]).heads["masked-lm"].bias, bias)


def test_names_of_old_files_are_read_and_two_names_of_one_tensor_refused(bert: Path) -> None:
    expected = load(bert, heads=["masked-lm", "next-sentence"])
    tensors = load_file(bert / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(20)[None]
    save_file(old, bert / "model.safetensors")
    model = load(bert, heads=["masked-lm", "next-sentence"])
    for name, tensor in expected.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor)
    change_tensors(bert, bert__embeddings__LayerNorm__weight=torch.zeros(16))
    assert_refused(r"holds bert\.embeddings\.LayerNorm\.\w+ and bert\.\S+, two names of one tensor", bert)


def test_a_card_from_the_future_or_of_another_family_is_refused(bert: Path) -> None:
    def write(**content: object) -> None:
        (bert / "polyseme.json").write_bytes(to_json(content))

    write(format_version=99, family="bert", surprise=1)
    assert_refused("has format version 99, this polyseme reads up to 1; install a newer", bert)
    write(format_version=1, family="modernbert")
    assert_refused(r"polyseme\.json says family 'modernbert', but config\.json 'bert'", bert)
    write(format_version=1, family="bert", lables=["a"])
    assert_refused(r"lables is not a setting here \(did you mean 'labels'\?\)", bert)
    write(format_version=1, family="bert", labels=["a", "a"])
    assert_refused("labels must differ, but 'a' stands there twice", bert)


def test_classes_that_do_not_fit_the_classifier_are_refused(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path, "BertForSequenceClassification", num_labels=3)
    for changes, message in (
        ({"id2label": {"0": "a", "1": "b"}}, "id2label must name the classes 0 to 2"),
        ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "id2label must give every class a name of its own"),
        (
            {"problem_type": "regression"},
            "problem_type 'regression' with 3 scores; polyseme reads one number",
        ),
        (
            {"problem_type": "ranking"},
            "problem_type is 'ranking'; polyseme reads single_label_classification",
        ),
    ):
        original = (folder / "config.json").read_bytes()
        change_settings(folder, **changes)
        assert_refused(message, folder, heads=["classification"])
        (folder / "config.json").write_bytes(original)
    (folder / "polyseme.json").write_bytes(to_json(Card(family="bert", labels=["a", "b", "c"])))
    assert_refused(
        r"polyseme\.json names the classes \['a', 'b', 'c'\], but config\.json",
        folder,
        heads=["classification"],
    )


def test_one_score_without_a_problem_type_is_a_number_as_transformers_takes_it(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path, "BertForSequenceClassification", num_labels=1)
    change_settings(folder, problem_type=None)
    assert load(folder, heads=["classification"]).card.problem == "regression"


def test_what_a_folder_cannot_say_is_refused_and_nothing_is_written(
    bert: Path, modernbert: Path, tmp_path: Path
) -> None:
    model = load(bert, heads=["masked-lm"])
    config = model.backbone.config
    three = Card(family="bert", labels=["a", "b", "c"])
    mean, pooler = ClassificationHead(config, 3, "mean"), ClassificationHead(config, 3, "pooler")
    bent = ClassificationHead(config, 3, "pooler", "tanh")
    modern = load(modernbert)
    cases = [
        (
            Model(model.backbone, three, {"classification": mean}),
            "bert folder cannot say that its classifier pools by 'mean'; build the head with 'pooler'",
        ),
        (
            Model(model.backbone, three, {"classification": bent}),
            "bert folder cannot say that its classifier transforms by 'tanh'; build the head with 'none'",
        ),
        (
            Model(model.backbone, three, {"classification": pooler, "masked-lm": model.heads["masked-lm"]}),
            "bert folder cannot hold the heads classification, masked-lm;",
        ),
        (Model(model.backbone, Card(family="bert"), {"classification": pooler}), "set labels in the card"),
        (
            Model(model.backbone, Card(family="bert", labels=["a"]), {"classification": pooler}),
            "gives 3 scores, but the card names 1 classes",
        ),
        (Model(model.backbone, Card(family="modernbert")), "a modernbert folder cannot say"),
        (
            Model(model.backbone, Card(family="bert", pooling="mean-max")),
            "cannot say pooling 'mean-max'; it says first, mean, max, last",
        ),
        (Model(model.backbone, Card(family="bert", pooling="pooler")), "cannot say pooling 'pooler'"),
        (
            Model(modern.backbone, Card(family="modernbert"), {"next-sentence": MaskedLMHead(config)}),
            "modernbert folder cannot hold the heads next-sentence",
        ),
    ]
    for wrong, message in cases:
        with pytest.raises(CheckpointError, match=message):
            save(wrong, tmp_path / "target")
        assert not (tmp_path / "target").exists()


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    small = foreign_folder(tmp_path / "small", "BertModel", tokenizer=True, vocab_size=20)
    assert_refused(r"the tokenizer has \d+ tokens, the model only 20", small)
    good = load(foreign_folder(tmp_path / "good", "BertModel", tokenizer=True))
    (small / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"the tokenizer has \d+ tokens and the model only 20"):
        files_of(Model(load(small).backbone, Card(family="bert"), tokenizer=good.tokenizer))


def test_an_existing_folder_gives_way_only_on_request(bert: Path, tmp_path: Path) -> None:
    model = load(bert)
    save(model, tmp_path / "target")
    with pytest.raises(DataError, match="exists and is not empty"):
        save(model, tmp_path / "target")
    save(model, tmp_path / "target", replace=True)
    assert load(tmp_path / "target").backbone.config == model.backbone.config


def test_a_wrong_name_of_a_part_is_a_mistake_in_the_settings(bert: Path) -> None:
    with pytest.raises(SettingsError):
        load(bert, fresh=["head"])
