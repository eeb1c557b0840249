"""What stands beside a vocabulary decides here as it does in transformers, or is refused by its name."""

import inspect
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from polyseme.errors import CheckpointError, DataError, PolysemeWarning, SettingsError
from polyseme.text import tokenizer_settings as table
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.tokenizer_settings import HARMLESS, HONOURED, USUAL

transformers = pytest.importorskip("transformers")

LETTERS = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"), *"AB[]/1"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"新冠肺炎疫苗今天很好", *LETTERS]
N = len(VOCABULARY)
TEXTS = ["新冠肺炎疫苗", "今天新冠 very GOOD good", "VERYgood 肺炎x 新冠肺炎", "a good疫苗"]
PLAIN = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}


def added(text: str, **flags: bool) -> dict[str, Any]:
    rest = dict.fromkeys(("lstrip", "rstrip", "single_word", "special"), False)
    return {"content": text, "normalized": True, **rest, **flags}


def folder(path: Path, files: dict[str, Any], *, vocabulary: list[str] = VOCABULARY) -> Path:
    (path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    for name, content in files.items():
        (path / name).write_text(json.dumps(content), encoding="utf-8")
    return path


def theirs(path: Path) -> list[list[int]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, split_special_tokens=True)
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]


def decoder(tokens: Any) -> dict[str, Any]:
    return {"tokenizer_config.json": PLAIN | {"added_tokens_decoder": tokens}}


BESIDE: list[dict[str, Any]] = [
    {"added_tokens.json": {"新冠肺炎": N, "good": N + 1}, "tokenizer_config.json": PLAIN},
    decoder({str(N): added("新冠肺炎")}),
    decoder({str(N): added("good", single_word=True)}),
    decoder({str(N): added("GOOD", normalized=False)}),
    decoder({"5": added("新"), str(N): added("肺炎")}),
    {"added_tokens.json": {"新冠": N, "[E1]": N + 1},
     "special_tokens_map.json": {"additional_special_tokens": ["[E1]"], "mask_token": added("[MASK]")},
     "tokenizer_config.json": PLAIN},
    {"tokenizer_config.json": PLAIN | {"additional_special_tokens": ["[E1]", "[E2]"]}},
    {"tokenizer_config.json": PLAIN, "special_tokens_map.json": {"extra_special_tokens": ["新冠"]}},
]  # fmt: skip


@pytest.mark.parametrize("files", BESIDE, ids=range(len(BESIDE)))
def test_tokens_added_beside_a_vocabulary_have_the_ids_of_transformers(
    tmp_path: Path, files: dict[str, Any]
) -> None:
    ours = Tokenizer.load(folder(tmp_path, files))
    expected = theirs(tmp_path)
    assert [ids.tolist() for ids in ours.encode_batch(TEXTS)] == expected
    (tmp_path / "saved").mkdir()
    ours.save(tmp_path / "saved")
    assert [ids.tolist() for ids in Tokenizer.load(tmp_path / "saved").encode_batch(TEXTS)] == expected
    assert theirs(tmp_path / "saved") == expected


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json"])
def test_tokens_added_beside_a_tokenizer_json_count_too(tmp_path: Path, name: str) -> None:
    Tokenizer.load(folder(tmp_path, {"tokenizer_config.json": PLAIN})).save(tmp_path)
    (tmp_path / "special_tokens_map.json").unlink()
    files = {"added_tokens.json": {"新冠肺炎": N}}
    if name == "tokenizer_config.json":
        files = {name: PLAIN | {"added_tokens_decoder": {str(N): added("新冠肺炎")}}}
    folder(tmp_path, files)
    ours = Tokenizer.load(tmp_path).encode_batch(TEXTS)
    if name == "tokenizer_config.json":
        assert [ids.tolist() for ids in ours] == theirs(tmp_path)
    assert N in ours[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"added_tokens.json": {"xy": N + 7}}, f"'xy' has the id {N + 7}, and transformers gives it {N}"),
        ({"added_tokens.json": {"新": 6}}, "give the token '新' the id 6, but its vocabulary 5"),
        ({"added_tokens.json": {"x y": "z"}}, "the added token 'x y' .* has an id that is no number from 0"),
        ({"added_tokens.json": {"x y": 1 << 30}}, "has an id that is no number from 0"),
        ({"added_tokens.json": {"x y": True}}, "has an id that is no number from 0"),
        (decoder({"9" * 5000: added("x y")}), "has an id that is no number"),
        (decoder({str(N): {"content": 3}}), "added_tokens_decoder beside"),
        (decoder([1]), "added_tokens_decoder that is no object"),
        ({"tokenizer_config.json": {"mask_token": 5}}, "name as mask_token a int; a token is a text"),
        ({"tokenizer_config.json": {"do_lower_case": "yes"}}, "do_lower_case beside a tokenizer is true or"),
    ],
)  # fmt: skip
def test_added_tokens_that_cannot_be_are_one_line(
    tmp_path: Path, files: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.load(folder(tmp_path, files))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_of_equal_lines_the_later_counts_and_the_numbers_stay(tmp_path: Path) -> None:
    lines = [*VOCABULARY]
    lines[7] = lines[8] = ""
    lines[20] = "好"
    with pytest.warns(
        PolysemeWarning, match=r"the token '' of line 8 is repeated in line 9, whose id is used"
    ):
        ours = Tokenizer.load(folder(tmp_path, {"tokenizer_config.json": PLAIN}, vocabulary=lines))
    assert ours.vocab_size == N
    assert [ids.tolist() for ids in ours.encode_batch(TEXTS)] == theirs(tmp_path)


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "RoFormerTokenizerFast", "CanineTokenizer"])
@pytest.mark.parametrize("saved", [False, True])
def test_classes_that_cut_by_code_of_their_own_are_refused(tmp_path: Path, name: str, saved: bool) -> None:
    folder(tmp_path, {"tokenizer_config.json": PLAIN})
    if saved:
        Tokenizer.load(tmp_path).save(tmp_path)
    folder(tmp_path, {"tokenizer_config.json": {"tokenizer_class": name}})
    with pytest.raises(CheckpointError, match=f"name the tokenizer_class {name}, which is not computed"):
        Tokenizer.load(tmp_path)


def test_every_class_of_transformers_that_is_no_tokenizer_json_is_refused() -> None:
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    names = {name for name in TOKENIZER_MAPPING_NAMES.values() if name and name.endswith("Tokenizer")}
    classes = {name: tokenizer_class_from_name(name) for name in names}
    coded = {
        name
        for name, of_name in classes.items()
        if of_name is not None and not issubclass(of_name, transformers.TokenizersBackend)
    }
    assert len(coded) > 20
    assert coded <= table.CODE_ONLY


def test_every_setting_of_transformers_tokenizers_is_honoured_harmless_or_refused() -> None:
    from transformers import tokenization_utils_base, tokenization_utils_tokenizers

    base = tokenization_utils_base.PreTrainedTokenizerBase
    source = inspect.getsource(base.__init__) + inspect.getsource(base._from_pretrained)
    source += inspect.getsource(tokenization_utils_tokenizers.TokenizersBackend.__init__)
    keys = set(re.findall(r"kwargs(?:\.pop|\.get|\.setdefault)\(\s*\"(\w+)\"", source))
    keys |= set(base.SPECIAL_TOKENS_ATTRIBUTES)
    for name in ("Bert", "DistilBert", "Roberta", "GPT2", "OpenAIGPT", "Albert", "XLNet", "T5", "XLMRoberta"):
        keys |= set(inspect.signature(getattr(transformers, f"{name}Tokenizer").__init__).parameters)
    # Parameters that no settings file holds: what is found in files, and what passes between functions.
    internal = {"self", "kwargs", "args", "_spm_precompiled_charsmap", "_json_truncation", "_json_padding"}
    internal |= {"tokenizer_truncation", "tokenizer_padding", "tokenizer"}
    assert len(keys) > 40
    assert keys - internal - HONOURED - HARMLESS.keys() - USUAL.keys() == set()


@pytest.mark.parametrize("key", sorted(USUAL))
def test_a_setting_with_another_value_than_the_computed_is_refused_by_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(CheckpointError, match=f"have {key} .*which is not computed"):
        Tokenizer.load(folder(tmp_path, {"tokenizer_config.json": {key: {"other": 1}}}))
    for usual in (None, *USUAL[key]):
        Tokenizer.load(folder(tmp_path, {"tokenizer_config.json": {key: usual}}))


@pytest.mark.parametrize("key", sorted(HARMLESS))
def test_harmless_settings_change_no_id(tmp_path: Path, key: str) -> None:
    plain = Tokenizer.load(folder(tmp_path, {})).encode_batch(TEXTS)
    other = Tokenizer.load(folder(tmp_path, {"tokenizer_config.json": {key: "left"}})).encode_batch(TEXTS)
    assert [ids.tolist() for ids in plain] == [ids.tolist() for ids in other]


def test_a_setting_that_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="have the key 'do_magic', which polyseme does not know"):
        Tokenizer.load(folder(tmp_path, {"tokenizer_config.json": {"do_magic": 1}}))


def test_a_model_without_segments_gets_none(tmp_path: Path) -> None:
    names = ["input_ids", "attention_mask"]
    plain = Tokenizer.load(folder(tmp_path, {}))
    assert plain.frame.types[2] == 1
    bare = Tokenizer.load(folder(tmp_path, {"tokenizer_config.json": {"model_input_names": names}}))
    assert bare.frame.types == ((0,), 0, 0, (0,))


def test_named_special_tokens_are_let_through_and_others_stay_text(tmp_path: Path) -> None:
    settings = PLAIN | {"additional_special_tokens": ["[E1]", "[/E1]"]}
    plain = Tokenizer.load(folder(tmp_path, {"tokenizer_config.json": settings}))
    text = "[E1]新冠[/E1] 今天[SEP][E1]"
    assert not {N, N + 1} & set(plain.encode(text).ids.tolist())
    kept = plain.keeping(["[E1]", "[/E1]"])
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    marked = text.replace("[SEP]", " ")
    assert kept.encode(marked).ids.tolist() == reference(marked, add_special_tokens=False)["input_ids"]
    assert plain.separator_id not in kept.encode(text).ids
    (tmp_path / "saved").mkdir()
    kept.save(tmp_path / "saved")
    for again in (Tokenizer.load(tmp_path / "saved"), pickle.loads(pickle.dumps(kept))):
        assert again.kept == ("[E1]", "[/E1]")
        assert again.encode(text).ids.tolist() == kept.encode(text).ids.tolist()
    assert theirs(tmp_path / "saved") == theirs(tmp_path)
    with pytest.raises(SettingsError, match=r"no special token '\[E3\]' \(did you mean '\[E1\]'\?\); it has"):
        plain.keeping(["[E3]"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("今天", r"texts is a list of texts, and this is one, '今天'; put it into a list"),
        (["今天", float("nan")], r"text 1 is nan \(float\); a text is a str"),
        ([None], r"text 0 is None \(NoneType\); a text is a str"),
        ([10**5000], r"text 0 is a value \(int\); a text is a str"),
    ],
)
def test_what_is_no_list_of_texts_is_named(tmp_path: Path, texts: Any, message: str) -> None:
    tokenizer = Tokenizer.load(folder(tmp_path, {}))
    for read in (tokenizer.encode_batch, tokenizer.encode_joined):
        with pytest.raises(DataError, match=message):
            read(texts)
