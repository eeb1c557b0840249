"""Every setting of a folder of sentence-transformers gives its vectors here, or is refused by its name."""

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import foreign_folder

from polyseme.checkpoints import sentence_transformers_keys as keys
from polyseme.checkpoints.dense import ACTIVATIONS
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.saving import save
from polyseme.checkpoints.sentence_transformers import SETTINGS
from polyseme.embedding.embedder import Embedder
from polyseme.embedding.embedding import embed
from polyseme.errors import CheckpointError, DataError, SettingsError

sentence_transformers = pytest.importorskip("sentence_transformers")
from sentence_transformers import models  # noqa: E402

TEXTS = ["这是中国", "A b 我 AB", "他不在这个大国上", "ab"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign_folder(tmp_path_factory.mktemp("plain") / "bert", "BertModel", tokenizer=True)


def build(plain: Path, folder: Path, *parts: Any, **pooling: Any) -> Path:
    """A folder that sentence-transformers itself writes."""
    network = models.Transformer(str(plain), max_seq_length=16)
    parts = (network, models.Pooling(16, **pooling), *parts)
    sentence_transformers.SentenceTransformer(modules=list(parts), device="cpu").save(str(folder))
    return folder


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return build(plain, tmp_path / "model")


def change(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def theirs(folder: Path, **options: Any) -> Any:
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS, **options)


def ours(folder: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts that are cut
        return Embedder.load(folder, threads=1, **options).sentences(TEXTS)


def assert_equal(folder: Path) -> None:
    expected, vectors = theirs(folder), ours(folder)
    assert vectors.shape == expected.shape
    assert np.abs(vectors - expected).max() <= 1e-5


@pytest.mark.parametrize("name", SETTINGS)
def test_each_of_the_seven_names_of_the_settings_is_read(folder: Path, name: str) -> None:
    (folder / "sentence_bert_config.json").unlink()
    (folder / name).write_text('{"max_seq_length": 4, "do_lower_case": false}')
    assert load(folder).card.max_length == 4
    assert_equal(folder)


def test_the_seven_names_are_those_of_sentence_transformers() -> None:
    source = inspect.getsource(models.Transformer.load_config)
    assert all(f'"{name}"' in source for name in SETTINGS)
    assert source.count("_config.json") == len(SETTINGS)


@pytest.mark.parametrize("strips", [None, True, False])
@pytest.mark.parametrize("cased", [True, False])
def test_texts_are_lowered_as_sentence_transformers_does(
    folder: Path, *, cased: bool, strips: bool | None
) -> None:
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] |= {"lowercase": not cased, "strip_accents": strips}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    change(folder / "tokenizer_config.json", do_lower_case=not cased, strip_accents=strips)
    reference = sentence_transformers.SentenceTransformer(str(folder), device="cpu").tokenizer
    normal = reference.backend_tokenizer.normalizer
    rules = load(folder).tokenizer
    assert rules is not None
    for code in [
        *range(0x20, 0x2FFF),
        *range(0xA640, 0xAC00),
        *range(0xFB00, 0x10FFF),
        *range(0x1E900, 0x1E960),
    ]:
        if not 0xD800 <= code < 0xE000:
            text = f"a{chr(code)}b"
            assert rules._pipeline.normalizer.normalize_str(text) == normal.normalize_str(text), hex(code)
    assert_equal(folder)


def test_a_normalizer_of_another_kind_lowers_first(folder: Path) -> None:
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "a"}, "content": "我"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert_equal(folder)


@pytest.mark.parametrize("normalized", [True, False])
def test_truncate_dim_is_kept_unless_dimensions_says_otherwise(
    plain: Path, tmp_path: Path, *, normalized: bool
) -> None:
    folder = build(plain, tmp_path / "model", *([models.Normalize()] if normalized else []))
    change(folder / "config_sentence_transformers.json", truncate_dim=4)
    assert_equal(folder)
    whole = theirs(folder, truncate_dim=16)
    longer = ours(folder, dimensions=6)
    again = np.linalg.norm(whole[:, :6], axis=1, keepdims=True) if normalized else 1
    np.testing.assert_allclose(longer, whole[:, :6] / again, atol=1e-5)
    save(load(folder), tmp_path / "again")
    assert_equal(tmp_path / "again")


PROMPTS = {"prompts": {"query": "这是 ", "passage": "我 b "}, "default_prompt_name": "passage"}


@pytest.mark.parametrize(
    ("pooling", "included"),
    [("mean", True), *((mode, False) for mode in ("mean", "cls", "max", "lasttoken"))],
)
def test_prompts_are_chosen_by_name(plain: Path, tmp_path: Path, pooling: str, *, included: bool) -> None:
    folder = build(plain, tmp_path / "model", pooling_mode=pooling, include_prompt=included)
    change(folder / "config_sentence_transformers.json", **PROMPTS)
    assert_equal(folder)
    embedder = Embedder.load(folder, threads=1)
    for choice in ({"prompt_name": "query"}, {"prompt": "大国 "}, {"prompt": ""}):
        expected = theirs(folder, **choice)
        assert np.abs(embedder.sentences(TEXTS, **choice) - expected).max() <= 1e-5
        assert np.abs(ours(folder, **choice) - expected).max() <= 1e-5
    with pytest.raises(SettingsError, match="has no prompt 'clustering'; its folder names query, passage"):
        embedder.sentences(TEXTS, prompt_name="clustering")
    with pytest.raises(SettingsError, match="give prompt or prompt_name, one of the two"):
        embedder.sentences(TEXTS, prompt_name="query", prompt="x")
    save(load(folder), tmp_path / "again")
    assert load(tmp_path / "again").card == load(folder).card
    assert_equal(tmp_path / "again")


def test_the_command_embeds_with_a_prompt_and_tells_jobs_of_others_apart(
    folder: Path, tmp_path: Path
) -> None:
    change(folder / "config_sentence_transformers.json", **PROMPTS)
    text, out = tmp_path / "t.txt", tmp_path / "v.npy"
    text.write_text("\n".join(TEXTS), encoding="utf-8")
    embed(text, model=folder, out=out, prompt_name="query", threads=1)
    np.testing.assert_allclose(np.load(out), theirs(folder, prompt_name="query"), atol=1e-5)
    embed(text, model=folder, out=out, prompt="", threads=1)
    np.testing.assert_allclose(np.load(out), theirs(folder, prompt=""), atol=1e-5)


@pytest.mark.parametrize("last", [(), ("Normalize",), ("Normalize", "Dense", "Dropout")])
def test_dense_modules_are_computed_in_their_order(
    plain: Path, tmp_path: Path, last: tuple[str, ...]
) -> None:
    kinds = {"Normalize": models.Normalize, "Dropout": lambda: models.Dropout(0.5)}
    torch.manual_seed(0)
    dense = models.Dense(16, 6, activation_function=torch.nn.Tanh())
    more = [kinds[kind]() if kind in kinds else models.Dense(6, 9, bias=False) for kind in last]
    folder = build(plain, tmp_path / "model", dense, *more)
    assert_equal(folder)
    vectors = ours(folder)
    np.testing.assert_array_equal(vectors[1], Embedder.load(folder, threads=1).sentences([TEXTS[1]])[0])
    save(load(folder), tmp_path / "again")
    np.testing.assert_array_equal(ours(tmp_path / "again"), vectors)
    assert_equal(tmp_path / "again")


def test_activations_are_those_that_their_names_say(plain: Path, tmp_path: Path) -> None:
    folder = build(plain, tmp_path / "model", models.Dense(16, 6))
    reference = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    for name in ACTIVATIONS:
        change(folder / "2_Dense" / "config.json", activation_function=name)
        reference[2] = models.Dense.load(str(folder), subfolder="2_Dense")
        assert np.abs(ours(folder) - reference.encode(TEXTS)).max() <= 1e-5


def test_dense_weights_may_be_a_torch_file(plain: Path, tmp_path: Path) -> None:
    folder = build(plain, tmp_path / "model", models.Dense(16, 6))
    expected = theirs(folder)
    weights = safetensors_of(folder / "2_Dense" / "model.safetensors")
    torch.save(weights, folder / "2_Dense" / "pytorch_model.bin")
    (folder / "2_Dense" / "model.safetensors").unlink()
    assert np.abs(ours(folder) - expected).max() <= 1e-5


def safetensors_of(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_features": 15}, "in_features is 15, and the vectors before have 16"),
        ({"out_features": 7}, "linear.weight has the shape .6, 16., and its settings .7, 16."),
        ({"out_features": 1 << 40}, "out_features is 1099511627776; it is a number from 1"),
        ({"bias": False}, "holds the weights linear.bias, linear.weight; its settings ask for linear.weight"),
        ({"activation_function": "os.system"}, "activation_function is 'os.system', which is not computed"),
        ({"activation_function": [1]}, "which is not computed"),
        ({"use_residual": True}, "use_residual is True, which is not computed; computed is False"),
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings', which is not"),
        ({"dropout": 1}, "has the key 'dropout', which polyseme does not know"),
    ],
)
def test_dense_modules_that_are_not_computed_are_refused(
    plain: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = build(plain, tmp_path / "model", models.Dense(16, 6))
    change(folder / "2_Dense" / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_another_pooling_than_the_folders_is_refused_before_a_dense_module(
    plain: Path, tmp_path: Path
) -> None:
    folder = build(plain, tmp_path / "model", models.Dense(16, 6))
    assert Embedder.load(folder, pooling="mean", threads=1).width == 6
    for choice in ({"pooling": "max"}, {"layers": "0"}):
        with pytest.raises(SettingsError, match="this model's folder projects the mean of the last layer"):
            Embedder.load(folder, **choice)


def test_every_key_of_sentence_transformers_is_honoured_harmless_or_refused() -> None:
    def parameters(kind: Any) -> set[str]:
        function = inspect.unwrap(kind.__init__)
        return set(inspect.signature(function).parameters) - {"self", "init_weight", "init_bias"}

    of_modules = [
        (keys.TRANSFORMER, models.Transformer),
        (keys.POOLING, models.Pooling),
        (keys.DENSE, models.Dense),
        (keys.NORMALIZE, models.Normalize),
        (keys.DROPOUT, models.Dropout),
    ]
    for known, kind in of_modules:
        theirs = {*kind.config_keys, *parameters(kind)}
        assert theirs - known.honoured - known.harmless.keys() - known.usual.keys() == set(), kind
    model = sentence_transformers.SentenceTransformer
    source = inspect.getsource(model._get_model_config) + inspect.getsource(
        model.__mro__[1]._get_model_config
    )
    told = {word for word in source.split('"') if word.isidentifier()} - {"transformers", "pytorch"}
    told -= {"sentence_transformers"}
    assert {"prompts", "truncate_dim"} <= told
    assert told - keys.MODEL.honoured - keys.MODEL.harmless.keys() - keys.MODEL.usual.keys() == set()


NETWORK, MODEL = "sentence_bert_config.json", "config_sentence_transformers.json"
POOLING = "1_Pooling/config.json"
FILES = {NETWORK: keys.TRANSFORMER, MODEL: keys.MODEL, POOLING: keys.POOLING}


@pytest.mark.parametrize(
    ("file", "key"), [(file, key) for file, known in FILES.items() for key in [*known.usual, "no_such_key"]]
)
def test_a_key_that_is_not_computed_is_refused_by_name(folder: Path, file: str, key: str) -> None:
    change(folder / file, **{key: {"other": 1}})
    with pytest.raises(CheckpointError, match=key):
        load(folder)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (NETWORK, {"do_lower_case": 1}, "do_lower_case is a int; it is true or false"),
        (NETWORK, {"max_seq_length": 1}, "max_length 1 leaves no room for a text beside its 2"),
        (MODEL, {"default_prompt_name": "x"}, "default_prompt_name 'x' is no prompt of"),
        (MODEL, {"prompts": {"query": 3}}, "prompts must be texts by their names"),
        (MODEL, {"truncate_dim": -1}, "truncate_dim is no number of dimensions"),
        (POOLING, {"embedding_dimension": 17}, "pools vectors of another size than the model's 16"),
        (POOLING, {"pooling_mode": 3}, "pools by a int; polyseme reads"),
        (POOLING, {"pooling_mode": [["mean"]]}, "pools by a list; polyseme reads"),
        (POOLING, {"pooling_mode": {"mean": True}}, "pools by a dict; polyseme reads"),
        (MODEL, {"default_prompt_name": ["query"]}, "default_prompt_name .* is no prompt of"),
        (MODEL, {"default_prompt_name": {"query": 1}}, "default_prompt_name .* is no prompt of"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line(folder: Path, file: str, changes: dict[str, Any], message: str) -> None:
    change(folder / file, **changes)
    with pytest.raises((CheckpointError, SettingsError), match=message):
        Embedder.load(folder)


def test_segments_that_the_model_lacks_are_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for piece in tokenizer["post_processor"]["single"]:
        next(iter(piece.values()))["type_id"] = 7
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        CheckpointError, match="gives tokens the segment 7, and the model has the segments 0 to"
    ):
        load(folder)


def test_what_is_no_list_of_texts_is_named(plain: Path) -> None:
    embedder = Embedder.load(plain, threads=1)
    for read in (embedder.sentences, embedder.tokens, embedder.words, embedder.read):
        with pytest.raises(DataError, match="texts is a list of texts, and this is one, '今天'; put it into"):
            read("今天")
        with pytest.raises(DataError, match=r"text 1 is nan \(float\)"):
            read(["好", float("nan")])  # type: ignore[list-item]
        for value in (iter(["今天"]), {"今天": 1}, 5, None):
            with pytest.raises(DataError, match="give a list of texts"):
                read(value)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="texts is a list of texts"):
        embedder.ranges("今天", [[(0, 1)], [(0, 1)]])
    with pytest.raises(DataError, match=r"word 1 of text 0 is 5 \(int\), not a str"):
        embedder.words([["好", 5]])  # type: ignore[list-item]
