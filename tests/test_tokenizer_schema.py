"""A foreign tokenizer.json is run within bounds: one clear line instead of a panic or a hang."""

import base64
import copy
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from polyseme.errors import CheckpointError, PolysemeError
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.panics import refusal
from polyseme.text.patterns import PUBLISHED, Unbounded, check_pattern
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.tokenizer_schema import MAX_ID

TEXTS = ["深度学习是机器学习的分支", "The lower the slower, newest and widest!", "a b"]
KINDS = ["wordpiece", "bpe", "byte-bpe", "unigram", "characters", "words"]
BIG = "1" + "0" * 5000


@pytest.fixture(scope="module")
def definitions() -> dict[str, dict[str, Any]]:
    return {
        kind: json.loads(
            learn(TEXTS * 2, LearningSettings(kind=kind, vocab_size=300)).files()["tokenizer.json"]  # type: ignore[arg-type]
        )
        for kind in KINDS
    }


def write(path: Path, definition: dict[str, Any]) -> Path:
    text = json.dumps(definition, ensure_ascii=False).replace('"BIG"', BIG)
    (path / "tokenizer.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


def trie(units: list[int], texts: bytes) -> str:
    return base64.b64encode(struct.pack(f"<{len(units) + 1}I", 4 * len(units), *units) + texts).decode()


GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 50}
TABLE = {"type": "Precompiled"}
CLS = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
FIRST, SECOND = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
KNOWN = {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}}


def replace(pattern: dict[str, str]) -> dict[str, Any]:
    return {"normalizer": {"type": "Replace", "pattern": pattern, "content": "x"}}


def split(pattern: str) -> dict[str, Any]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": cut}


def steps(*normalizers: dict[str, Any]) -> dict[str, Any]:
    return {"normalizer": {"type": "Sequence", "normalizers": list(normalizers)}}


def template(single: list[Any], pair: list[Any], special: dict[str, Any] = KNOWN) -> dict[str, Any]:
    parts = {"single": single, "pair": pair, "special_tokens": special}
    return {"post_processor": {"type": "TemplateProcessing", **parts}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (steps(GROWING, GROWING, GROWING), "a text 125000 times as long, more"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 1000}}, "a text 1001 times as long"),
        ({"normalizer": {"type": "Prepend", "prepend": ""}}, "normalizer.prepend"),
        (steps(*[{"type": "NFC"}] * 40), "has 42 steps, more than 32"),
        (replace({"String": ""}), "normalizer.pattern.String"),
        (replace({"Regex": "(a|a)*b"}), "'(a|a)*b' of its Replace"),
        ({"normalizer": TABLE | {"precompiled_charsmap": "@"}}, "precompiled_charsmap is not base64"),
        ({"normalizer": TABLE | {"precompiled_charsmap": trie([1 << 20, 7], b"x\0")}}, "table of characters"),
        ({"normalizer": {"type": "Lowercase", "strength": 1}}, "unknown field `strength`"),
        ({"normalizer": {"type": "Magic"}}, "Invalid value 'Magic'"),
        (split("(a+)+$"), "the pattern '(a+)+$' of its Split may take time without bound"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "pre_tokenizer.length"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": ""}}, "pre_tokenizer.replacement"),
        (template([CLS, FIRST], [FIRST]), "pair must hold the text A and then B once"),
        (template([FIRST, FIRST], [FIRST, SECOND]), "single must hold the text A once"),
        (template([CLS] * 99 + [FIRST], [FIRST, SECOND]), "puts 99 special tokens"),
        (template([CLS, FIRST], [FIRST, SECOND], {}), "'[CLS]', which special_tokens lacks"),
        ({"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 1500]}},
         "with the id 1500, which is not its id"),
        ({"added_tokens": [{"id": 0}]}, "added_tokens[0]: Object missing required field"),
        ({"added_tokens": "BIG"}, "Integer value out of range"),
        ({"decoder": {"type": "Strip", "content": " ", "start": 10**9, "stop": 0}}, "decoder.start"),
        ({"truncation": {"max_length": "BIG"}}, "Integer value out of range"),
    ],
)  # fmt: skip
def test_what_a_tokenizer_json_may_not_bring_is_named_in_one_line(
    tmp_path: Path, definitions: dict[str, dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.load(write(tmp_path, definitions["wordpiece"] | changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("wordpiece", {"type": {"a": 1}}, "model of the unknown kind"),
        ("wordpiece", {"max_input_chars_per_word": 10**12}, "model.max_input_chars_per_word"),
        ("wordpiece", {"vocab": {"[UNK]": MAX_ID + 1}}, "model.vocab"),
        ("wordpiece", {"vocab": {"x" * 2000: 1, "[UNK]": 0}}, "has a token of 2000 characters"),
        ("bpe", {"dropout": 0.5}, "model.dropout"),
        ("bpe", {"continuing_subword_prefix": "的"}, "continues a word without the prefix '的'"),
        ("unigram", {"unk_id": 1 << 20}, "unk_id is 1048576, and the vocabulary has"),
        ("unigram", {"vocab": [["a", 1e300]], "unk_id": 0}, "the token 'a' has the score 1e+300"),
        ("unigram", {"vocab": []}, "model.vocab"),
    ],
)
def test_what_a_model_may_not_be_is_named_in_one_line(
    tmp_path: Path, definitions: dict[str, dict[str, Any]], kind: str, changes: dict[str, Any], message: str
) -> None:
    definition = definitions[kind]
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.load(write(tmp_path, definition | {"model": definition["model"] | changes}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_files_pass(tmp_path: Path, definitions: dict[str, dict[str, Any]], kind: str) -> None:
    assert Tokenizer.load(write(tmp_path, definitions[kind])).encode(TEXTS[0]).ids.tolist()


def test_an_added_token_of_which_nothing_is_left_is_refused(
    tmp_path: Path, definitions: dict[str, dict[str, Any]]
) -> None:
    definition = copy.deepcopy(definitions["unigram"])
    definition["normalizer"] = {"type": "Replace", "pattern": {"String": "é"}, "content": ""}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    index = len(definition["model"]["vocab"])
    definition["added_tokens"].append({"id": index, "content": "é", "normalized": True, **flags})
    with pytest.raises(CheckpointError, match="its normalizer leaves nothing of the added token 'é'"):
        Tokenizer.load(write(tmp_path, definition))


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|a)*b", "a+b", "a*a*", " +▁", r"(a)\1", "(?<=a)b+", "(ab){2,}", "a{1,9}a{1,99}a{1,9}b",
     "a{9999}", "(?R)", "[a", "(a", "a)", "", "a**", "x" * 2000, r"\X", "(?x)a", "(a?b?c?d?e?f?g?h?i?j?k?)"],
)  # fmt: skip
def test_patterns_of_unknown_time_are_refused(pattern: str) -> None:
    with pytest.raises(Unbounded):
        check_pattern(pattern)


LINEAR = [" {2,}", r"\s{2,}|[\n\r\t]", r"\s+", "[0-9][0-9][0-9]", r"(?i:'ll|'d)?[a-z]+", "[]a]+", r"(?!\S)a",
          r"'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", "a{1,100}"]  # fmt: skip


@pytest.mark.parametrize("pattern", [*LINEAR, *sorted(PUBLISHED)])
def test_accepted_patterns_work_on_what_is_hard_for_backtracking(pattern: str) -> None:
    check_pattern(pattern)
    cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    # A quadratic pattern would need minutes for these, and an exponential one for ever.
    for text in (" " * 50_000, "a" * 50_000, "A" * 50_000, " \n" * 25_000, "'" * 50_000, "Aé" * 50_000):
        pieces = cut.pre_tokenize_str(text)
        assert "".join(piece for piece, _ in pieces) == text


def test_random_tables_of_characters_are_refused_or_harmless(
    tmp_path: Path, definitions: dict[str, dict[str, Any]]
) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        units = rng.integers(0, 1 << 32, rng.integers(1, 300)) & rng.choice([0xFFFFFFFF, 0xFFF, 0x3FDFF])
        texts = bytes(rng.choice([0, 97, 98], rng.integers(1, 20)).tolist()) + b"\0"
        table = {"type": "Precompiled", "precompiled_charsmap": trie(units.tolist(), texts)}
        try:
            Tokenizer.load(write(tmp_path, definitions["unigram"] | {"normalizer": table})).encode(TEXTS[1])
        except CheckpointError:
            continue


def test_a_panic_is_an_error_of_ours_and_an_interrupt_stays_one() -> None:
    class PanicException(BaseException):
        """As the library's binding names it."""

    error = refusal(PanicException("no entry\nfound"), where="x.json", text="a" * 100)
    assert isinstance(error, CheckpointError)
    assert str(error).endswith("library fails on the text 'aaaaaaaaaaaaaaaaaaaa': no entry")
    interrupt = KeyboardInterrupt()
    assert refusal(interrupt, where="x.json") is interrupt


def test_what_panics_in_the_library_is_caught_where_it_is_called(
    definitions: dict[str, dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    broken = template([CLS, FIRST], [FIRST, SECOND], {})
    with pytest.raises(CheckpointError, match="tokenizers library fails: no entry found for key"):
        Tokenizer(definitions["wordpiece"] | broken, {})
    assert "panicked" in capfd.readouterr().err


VALUES = [None, True, 0, 1, -1, 7, 255, 1500, 2**31, 2**32, 2**64, 1e308, 0.5, "", "x", "x" * 5000, "[SEP]",
          "\0", [], [1, 2], {}, {"a": 1}, ["[CLS]", 2], "BIG", "/etc/passwd", "\ud800"]  # fmt: skip


def attempt(folder: Path) -> str:
    """The one line that a tokenizer is refused with; empty where it reads texts."""
    try:
        tokenizer = Tokenizer.load(folder)
        tokenizer.encode_batch(TEXTS)
        tokenizer.decode(tokenizer.encode(TEXTS[1]).ids)
    except PolysemeError as error:
        return str(error)
    return ""


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_ids_or_one_line(
    tmp_path: Path, definitions: dict[str, dict[str, Any]], kind: str
) -> None:
    rng = random.Random(kind)
    read = 0
    small = [place for place in places(definitions[kind]) if place and len(place) < 6]
    outer = [place for place in small if place[:1] != ("model",) or len(place) < 3]
    for _ in range(150):
        definition = copy.deepcopy(definitions[kind])
        *path, last = rng.choice(outer if rng.random() < 0.8 else small)
        inside: Any = definition
        for key in path:
            inside = inside[key]
        if rng.random() < 0.2:
            del inside[last]
        else:
            inside[last] = rng.choice(VALUES)
        line = attempt(write(tmp_path, definition))
        assert "\n" not in line
        assert len(line) < 700
        read += not line
    assert read > 5
