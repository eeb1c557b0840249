import importlib.util
import json
import pickle
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from polyseme.text import memo
from polyseme.text.codepoints import plain_word_starts
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.table import suits
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.tokenizer_files import read_tokenizer


def load_bench() -> ModuleType:
    path = Path(__file__).parents[1] / "bench" / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("bench_tokenizer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench = load_bench()


@cache
def learned(**settings: object) -> Tokenizer:
    """A vocabulary with tokens of every kind of character that the random texts are made of."""
    texts = bench.random_texts(np.random.default_rng(99), 2000)
    return learn(texts, LearningSettings(vocab_size=6000, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "wordpiece"},
        {"kind": "wordpiece", "lowercase": False},
        {"kind": "wordpiece", "lowercase": False, "strip_accents": True},
        {"kind": "wordpiece", "lowercase": True, "strip_accents": False},
        {"kind": "characters"},
        {"kind": "characters", "lowercase": False},
        {"kind": "words", "words": "characters"},
    ],
    ids=str,
)
def test_the_table_agrees_with_the_library_on_random_strings(settings: dict[str, object]) -> None:
    tokenizer = learned(**settings)
    assert suits(read_definition(tokenizer))
    texts = bench.random_texts(np.random.default_rng(5), 2500)
    assert bench.disagreements(tokenizer, texts) == []


@pytest.mark.parametrize(
    "switches",
    [
        '{"do_lower_case": false}',
        '{"tokenize_chinese_chars": false}',
        '{"strip_accents": false, "do_lower_case": true}',
    ],
)
def test_the_table_agrees_whatever_the_switches_beside_a_vocabulary(tmp_path: Path, switches: str) -> None:
    (tmp_path / "vocab.txt").write_bytes(learned().files()["vocab.txt"])
    (tmp_path / "tokenizer_config.json").write_text(switches)
    texts = bench.random_texts(np.random.default_rng(6), 1000)
    assert bench.disagreements(Tokenizer.load(tmp_path), texts) == []


def read_definition(tokenizer: Tokenizer) -> dict[str, object]:
    content: dict[str, object] = json.loads(tokenizer.files()["tokenizer.json"])
    return content


def test_every_character_of_unicode_is_tokenized_as_the_library_does() -> None:
    tokenizer = learned()
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    # Every 41st, between letters: what parts them, what joins them, what vanishes.
    texts = [f"b{chr(point)}c" for point in points[::41]]
    pipeline = bench.library(tokenizer)
    ids, _, counts = tokenizer.encode_joined(texts)
    expected = [pipeline.encode(text, add_special_tokens=False).ids for text in texts]
    assert counts.tolist() == [len(one) for one in expected]
    assert ids.tolist() == [index for one in expected for index in one]


def test_texts_encoded_together_are_encoded_as_alone() -> None:
    tokenizer = learned()
    texts = ["", "深度", "deep", " ", "学习", "", "deep learning\n学", "\u0301", ""]
    ids, begins, counts = tokenizer.encode_joined(texts)
    alone = [tokenizer.encode(text) for text in texts]
    assert counts.tolist() == [len(one) for one in alone]
    assert ids.tolist() == [index for one in alone for index in one.ids.tolist()]
    assert begins.tolist() == [begin for one in alone for begin in one.offsets[:, 0].tolist()]
    assert [one.tolist() for one in tokenizer.encode_batch(texts)] == [one.ids.tolist() for one in alone]


def test_no_texts_give_no_tokens() -> None:
    tokenizer = learned()
    ids, begins, counts = tokenizer.encode_joined([])
    assert (len(ids), len(begins), len(counts)) == (0, 0, 0)
    assert tokenizer.encode_batch([]) == []


def test_a_line_of_a_million_characters_is_encoded() -> None:
    tokenizer = learned()
    ids, begins, counts = tokenizer.encode_joined(["一a" * 500_000, "x" * 1_000_000])
    assert counts.tolist() == [1_000_000, 1]
    assert begins[:3].tolist() == [0, 1, 2]
    assert ids[-1] == tokenizer.unknown_id


def test_a_full_memo_forgets_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = bench.random_texts(np.random.default_rng(8), 500)
    roomy = learned().encode_batch(texts)
    monkeypatch.setattr(memo, "_MOST_ENTRIES", 3)
    tight = pickle.loads(pickle.dumps(learned()))
    assert [tight.encode(text).ids.tolist() for text in texts] == [ids.tolist() for ids in roomy]


def test_a_tokenizer_with_tokens_added_by_a_user_does_without_the_table(tmp_path: Path) -> None:
    learned().save(tmp_path)
    definition, roles, _ = read_tokenizer(tmp_path)
    added = dict(definition["added_tokens"][0])
    added |= {"id": len(definition["model"]["vocab"]), "content": "深度学习", "special": False}
    definition["added_tokens"].append(added)
    assert not suits(definition)
    tokenizer = Tokenizer(definition, roles)
    assert tokenizer.tokens(tokenizer.encode("深度学习x").ids)[0] == "深度学习"


def test_words_start_at_ideographs_signs_and_runs_of_letters() -> None:
    text = "BERT模型，3.14 ok\u0301!"
    starts = [*plain_word_starts(text), len(text)]
    words = [text[a:b] for a, b in pairwise(starts)]
    assert words == ["BERT", "模", "型", "，", "3", ".", "14", " ", "ok\u0301", "!"]
    assert plain_word_starts("").tolist() == []
