import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyseme.errors import CheckpointError, DataError, SettingsError
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.words import word_cutter, word_starts

KINDS = ["wordpiece", "bpe", "byte-bpe", "unigram", "characters", "words"]
SHARED = Path(__file__).parents[2] / "shared" / "data" / "vocab"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [
    *SPECIAL,
    "深",
    "度",
    "学",
    "习",
    "play",
    "##ing",
    "cafe",
    "Café",
    "2",
    "##0",
    "##1",
    "##9",
    "，",
    "[",
]
TEXTS = [
    "深度学习是机器学习的分支，机器学习是人工智能的分支。",
    "The lower the slower, the lowest the slowest; newer and wider, newest and widest!",
    "自然语言处理 (NLP) 让机器理解自然语言：BERT、ELMo 与 GPT-2。",
    "naïve résumés, 2018 2019 2020; it's O'Neil's — “quoted”…",
]


def vocabulary(
    folder: Path, *, lines: list[str] = VOCABULARY, settings: dict[str, Any] | None = None
) -> Path:
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def learned(kind: str, **settings: Any) -> Tokenizer:
    return learn(TEXTS * 2, LearningSettings(kind=kind, vocab_size=400, **settings))  # type: ignore[arg-type]


def test_a_bare_vocabulary_is_read_in_lower_case(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(vocabulary(tmp_path) / "vocab.txt")
    assert tokenizer.kind == "wordpiece"
    assert tokenizer.vocab_size == len(VOCABULARY)
    assert tokenizer.vocabulary == VOCABULARY
    encoded = tokenizer.encode("Playing 深度Café")
    assert tokenizer.tokens(encoded.ids) == ["play", "##ing", "深", "度", "cafe"]
    assert (tokenizer.padding_id, tokenizer.unknown_id, tokenizer.first_id) == (0, 1, 2)
    assert (tokenizer.separator_id, tokenizer.mask_id) == (3, 4)
    assert tokenizer.special_ids == {0, 1, 2, 3, 4}


def test_the_settings_beside_a_vocabulary_are_respected(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(vocabulary(tmp_path, settings={"do_lower_case": False}))
    assert tokenizer.tokens(tokenizer.encode("Café").ids) == ["Café"]
    tokenizer = Tokenizer.load(vocabulary(tmp_path, settings={"strip_accents": False}))
    assert tokenizer.tokens(tokenizer.encode("Café").ids) == ["[UNK]"]
    tokenizer = Tokenizer.load(vocabulary(tmp_path, settings={"tokenize_chinese_chars": False}))
    assert tokenizer.tokens(tokenizer.encode("深度 深").ids) == ["[UNK]", "深"]


def test_the_settings_beside_a_tokenizer_json_are_respected(tmp_path: Path) -> None:
    Tokenizer.load(vocabulary(tmp_path)).save(tmp_path / "saved")
    settings = tmp_path / "saved" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_lower_case": False}))
    tokenizer = Tokenizer.load(tmp_path / "saved")
    assert tokenizer.tokens(tokenizer.encode("Café").ids) == ["Café"]


def test_offsets_count_characters_of_the_raw_text(tmp_path: Path) -> None:
    text = "\ufeff深 \u200b度 Pla\u200dYing Cafe\u0301 𠮷，2019"
    encoded = Tokenizer.load(vocabulary(tmp_path)).encode(text)
    spans = [text[begin:end] for begin, end in encoded.offsets]
    assert spans == ["深", "度", "Pla\u200dY", "ing", "Cafe", "𠮷", "，", "2", "0", "1", "9"]


def test_each_token_knows_its_word(tmp_path: Path) -> None:
    encoded = Tokenizer.load(vocabulary(tmp_path)).encode("playing 深度，xyz 20")
    # Words: playing, blank, 深, 度, the comma, xyz (unknown), blank, 20.
    assert encoded.words.tolist() == [0, 0, 2, 3, 4, 5, 7, 7]
    assert encoded.word(7).tolist() == [6, 7]
    assert len(encoded) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_given_words_are_met_by_character_offsets(kind: str) -> None:
    tokenizer = learned(kind)
    cutter = word_cutter("rjieba")
    for text in [*TEXTS, "", "𠮷野家 unknown☃文字", "  机器学习\t"]:
        starts = word_starts(cutter, text)
        encoded = tokenizer.encode(text, starts=starts)
        bounds = [*starts.tolist(), len(text)]
        for (begin, end), word in zip(encoded.offsets.tolist(), encoded.words.tolist(), strict=True):
            # A blank belongs to a token as its front, so the first visible character decides.
            seen = next((i for i in range(begin, end) if not text[i].isspace()), begin)
            assert bounds[word] <= seen < bounds[word + 1]
        assert (np.diff(encoded.words) >= 0).all()


@pytest.mark.parametrize("kind", ["bpe", "byte-bpe", "unigram"])
def test_no_token_crosses_a_given_word(kind: str) -> None:
    tokenizer = learned(kind, words="blanks")
    text = "机器学习是机器学习的分支，the lowest"
    assert any("习的" in text[a:b] or "学习" in text[a:b] for a, b in tokenizer.encode(text).offsets)
    starts = np.arange(len(text))
    for begin, end in tokenizer.encode(text, starts=starts).offsets.tolist():
        assert len(text[begin:end].strip()) <= 1
    ids, begins, counts = tokenizer.encode_joined([text, "", text], starts=[starts, starts[:0], starts])
    assert counts.tolist() == [len(ids) // 2, 0, len(ids) // 2]
    assert (
        not any(text[begin].isspace() and text[begin + 1] != " " for begin in begins.tolist()) or kind != "x"
    )


def test_begins_pass_over_the_blank_that_a_token_holds() -> None:
    tokenizer = learned("byte-bpe")
    text = "newest newest"
    _, begins, _ = tokenizer.encode_joined([text])
    assert 7 in begins.tolist()
    assert 6 not in begins.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_special_tokens_in_a_text_are_text(kind: str) -> None:
    tokenizer = learned(kind)
    forbidden = tokenizer.special_ids - {tokenizer.unknown_id}
    for text in ["[SEP]", "机器[MASK]学习", "[CLS][SEP][PAD]", "a [SEP] b"]:
        assert forbidden.isdisjoint(tokenizer.encode(text).ids.tolist())
        assert forbidden.isdisjoint(tokenizer.encode_joined([text])[0].tolist())


def test_a_unigram_vocabulary_does_not_let_special_tokens_in_by_their_names(tmp_path: Path) -> None:
    definition = json.loads(learned("unigram").files()["tokenizer.json"])
    definition["pre_tokenizer"] = None
    definition["model"]["vocab"] += [["[", -9.0], ["]", -9.0]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    tokenizer = Tokenizer.load(tmp_path)
    text = "机器[SEP]学习[SEP][CLS]"
    encoded = tokenizer.encode(text)
    assert (tokenizer.special_ids - {tokenizer.unknown_id}).isdisjoint(encoded.ids.tolist())
    assert encoded.offsets[0, 0] == 0
    assert encoded.offsets[-1, 1] == len(text)
    assert (encoded.offsets[1:, 0] == encoded.offsets[:-1, 1]).all()


def test_a_special_token_of_one_character_is_unknown_in_a_text(tmp_path: Path) -> None:
    settings = {"mask_token": "深"}
    tokenizer = Tokenizer.load(vocabulary(tmp_path, settings=settings))
    assert tokenizer.tokens(tokenizer.encode("深度").ids) == ["[UNK]", "度"]
    tokenizer = Tokenizer.load(vocabulary(tmp_path, settings={**settings, "tokenize_chinese_chars": False}))
    assert tokenizer.tokens(tokenizer.encode("深 度").ids) == ["[UNK]", "度"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_makes_the_same_ids_in_transformers(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = learned(kind)
    tokenizer.save(tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    rng = random.Random(0)
    texts = [*TEXTS, *("".join(rng.sample(" ".join(TEXTS), 30)) for _ in range(50)), ""]
    for text in texts:
        ids = tokenizer.encode(text).ids.tolist()
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs(text)["input_ids"] == [tokenizer.first_id, *ids, tokenizer.separator_id]
    pair = theirs("机器", "学习")
    assert pair["token_type_ids"][0] == 0
    assert pair["token_type_ids"][-1] == 1
    for name in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(theirs, f"{name}_token") == f"[{name.upper()}]"


def test_names_of_special_tokens_mean_the_same_to_transformers_if_it_splits_them(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = learned("wordpiece")
    tokenizer.save(tmp_path)
    ours = tokenizer.encode("机器[SEP]学习").ids.tolist()
    theirs = AutoTokenizer.from_pretrained(tmp_path, split_special_tokens=True)
    assert theirs("机器[SEP]学习", add_special_tokens=False)["input_ids"] == ours
    usual = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.separator_id in usual("机器[SEP]学习", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_saved_and_loaded_is_the_same_to_the_byte(kind: str, tmp_path: Path) -> None:
    tokenizer = learned(kind)
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.files() == tokenizer.files()
    assert again.kind == kind
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert copied.files() == tokenizer.files()
    for text in TEXTS:
        assert again.encode(text).ids.tolist() == copied.encode(text).ids.tolist()


def test_a_vocabulary_saved_as_vocab_txt_reads_alone(tmp_path: Path) -> None:
    tokenizer = learned("wordpiece", lowercase=False)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert Tokenizer.load(tmp_path).files() == tokenizer.files()


def test_files_say_what_the_model_reads() -> None:
    files = learned("wordpiece").files(token_type_ids=False, max_length=512)
    settings = json.loads(files["tokenizer_config.json"])
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    assert settings["model_max_length"] == 512


def test_decoding_leaves_no_blanks_in_chinese() -> None:
    tokenizer = learned("wordpiece")
    ids = [tokenizer.first_id, *tokenizer.encode("机器学习 the lowest，自然").ids, tokenizer.separator_id]
    assert tokenizer.decode(ids) == "机器学习the lowest，自然"


@pytest.mark.parametrize("vocabulary_name", ["vocab.json", "vocab.txt"])
def test_gpt2_files_are_read_from_json_and_from_lines(tmp_path: Path, vocabulary_name: str) -> None:
    letters = [*"abĠ", "ab", "Ġab", "<s>", "</s>"]
    content = json.dumps({token: i for i, token in enumerate(letters)})
    lines = "\n".join(letters)
    (tmp_path / f"my_{vocabulary_name}").write_text(content if "json" in vocabulary_name else lines)
    (tmp_path / "my_merges.txt").write_text("#version: 0.2\na b\nĠ ab\n")
    for source in (tmp_path, tmp_path / f"my_{vocabulary_name}", tmp_path / "my_merges.txt"):
        tokenizer = Tokenizer.load(source)
        assert tokenizer.kind == "byte-bpe"
        assert tokenizer.tokens(tokenizer.encode("ab ab").ids) == ["ab", "Ġab"]
        assert tokenizer.decode(tokenizer.encode("ab ab").ids) == "ab ab"
        assert tokenizer.separator_id == 6
    with pytest.raises(
        SettingsError, match="this byte-bpe tokenizer has no mask token; it has first, separator"
    ):
        _ = tokenizer.mask_id


def test_truncation_and_padding_of_a_tokenizer_json_do_not_touch_texts(tmp_path: Path) -> None:
    definition = json.loads(learned("wordpiece").files()["tokenizer.json"])
    definition["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    assert len(Tokenizer.load(tmp_path).encode("机器学习").ids) == 4


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no tokenizer: neither tokenizer.json nor vocab.txt"),
        ({"vocab.txt": ""}, "vocab.txt is empty"),
        (
            {"vocab.txt": "[PAD]\na\n"},
            r"lacks the special token for unknown, first, separator, mask \(\[UNK\], ",
        ),
        ({"vocab.txt": b"\xff\xfe[PAD]"}, r"vocab.txt is not UTF-8 \(byte 0\)"),
        ({"tokenizer.json": "{"}, "tokenizer.json is damaged: Input data was truncated"),
        ({"tokenizer.json": "[1]"}, "tokenizer.json is no settings file: it holds list"),
        ({"tokenizer.json": "{}"}, 'is no tokenizer.json: it has no "model"'),
        ({"tokenizer.json": '{"model": {"type": "Magic"}}'}, "holds a model of the unknown kind 'Magic'"),
        (
            {"tokenizer.json": '{"model": {"type": "WordPiece"}}'},
            "model: Object missing required field",
        ),
        (
            {"tokenizer.json": '{"model": {"type": "Unigram", "vocab": [1]}}'},
            r"model\.vocab\[0\]: Exp",
        ),
        (
            {"tokenizer.json": '{"model": {"vocab": {}}, "normalizer": [1]}'},
            "normalizer: Expected `object",
        ),
        ({"merges.txt": "a b"}, "merges.txt has no vocab.json or vocab.txt beside it"),
        ({"merges.txt": "a c", "vocab.txt": "a\nb\nab"}, "line 1: 'a c' is not a merge of two tokens"),
        (
            {"vocab.txt": "\n".join(SPECIAL), "tokenizer_config.json": '{"mask_token": "<m>"}'},
            "name '<m>' as mask_token, but the vocabulary lacks it",
        ),
        ({"vocab.txt": "\n".join(SPECIAL), "tokenizer_config.json": "{"}, "tokenizer_config.json is damaged"),
    ],
)
def test_damaged_files_are_one_clear_line(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_json_whose_unknown_token_is_missing_is_refused(tmp_path: Path) -> None:
    definition = json.loads(learned("wordpiece").files()["tokenizer.json"])
    definition["model"]["unk_token"] = "[NIX]"
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(CheckpointError, match=r"unknown token '\[NIX\]', but the vocabulary lacks it"):
        Tokenizer.load(tmp_path)


def test_a_cut_tokenizer_json_never_loads(tmp_path: Path) -> None:
    whole = learned("bpe").files()["tokenizer.json"]
    for cut in range(1, len(whole) - 2, len(whole) // 25):
        (tmp_path / "tokenizer.json").write_bytes(whole[:cut])
        with pytest.raises(CheckpointError):
            Tokenizer.load(tmp_path)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no tokenizer at .*nowhere"):
        Tokenizer.load(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_half_a_character_is_refused(kind: str) -> None:
    with pytest.raises(DataError, match=r"lone surrogate \(U\+D83D\) at character 2.*--errors replace"):
        learned(kind).encode("文字\ud83d")


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not here")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("bert/google_zh_vocab.txt", 21128),
        ("bert/google_uncased_en_vocab.txt", 30522),
        ("bert/google_cased_en_vocab.txt", 28996),
        ("gpt2", 50265),
    ],
)
def test_published_vocabularies_load_and_go_to_transformers(name: str, size: int, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = Tokenizer.load(SHARED / name)
    assert tokenizer.vocab_size == size
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text).ids.tolist()
