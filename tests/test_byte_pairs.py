"""GPT's and GPT-2's vocabularies, from the files that their users have, cut as transformers cuts."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyseme.errors import CheckpointError
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.tokenizer import Tokenizer

DATA = Path(__file__).parents[2] / "shared" / "data" / "vocab" / "gpt2"
MERGES = [
    "t h",
    "th e</w>",
    "l o",
    "lo w",
    "low e",
    "lowe r</w>",
    "low </w>",
    "n e",
    "ne w</w>",
    "a n",
    "an d</w>",
]
CHARACTERS = "abcdefghijklmnopqrstuvwxyz,.!?0123456789学习éß"
NAMES = [
    ("encoder_bpe_40000.json", "vocab_40000.bpe"),
    ("vocab.json", "merges.txt"),
    ("openai-gpt-vocab.json", "openai-gpt-merges.txt"),
]


def gpt_files(folder: Path, vocabulary_name: str, merges_name: str) -> Path:
    """A small vocabulary in GPT's form: characters inside and at the end of a word, then merges."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = [line.replace("low </w>", "lo w</w>") for line in MERGES]
    tokens = ["<unk>", *CHARACTERS, *(f"{c}</w>" for c in CHARACTERS)]
    tokens += [line.replace(" ", "") for line in merges]
    vocabulary = {token: n for n, token in enumerate(dict.fromkeys(tokens))}
    (folder / vocabulary_name).write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / merges_name).write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return folder


def reference(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    gpt_files(folder, "vocab.json", "merges.txt")
    return transformers.OpenAIGPTTokenizer.from_pretrained(folder)


TEXTS = [
    "The lower, the newer and LOW!",
    "  low\tand  high\nnew 42",
    "学习 lower学习the",
    "Écoute ß 漢 the",
    "",
    "lowerlower and",
]


@pytest.mark.parametrize(("vocabulary_name", "merges_name"), NAMES)
def test_gpt_cuts_as_its_reference_from_files_of_any_name(
    vocabulary_name: str, merges_name: str, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.load(gpt_files(tmp_path / "ours", vocabulary_name, merges_name))
    theirs = reference(tmp_path / "theirs")
    assert tokenizer.kind == "bpe"
    assert tokenizer.frame.size == 0
    for text in TEXTS:
        ids = tokenizer.encode(text).ids.tolist()
        assert ids == theirs(text)["input_ids"]
        assert tokenizer.tokens(ids) == theirs.convert_ids_to_tokens(ids)
        assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert tokenizer.tokens(tokenizer.encode("The lower").ids) == ["the</w>", "lower</w>"]
    assert tokenizer.decode(tokenizer.encode("The lower").ids) == "the lower"


def test_gpt_random_texts_are_cut_as_its_reference_cuts_them(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(gpt_files(tmp_path / "ours", *NAMES[0]))
    theirs = reference(tmp_path / "theirs")
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice("thelownewand  ,.\n学É漢0") for _ in range(rng.randrange(40)))
        assert tokenizer.encode(text).ids.tolist() == theirs(text)["input_ids"], text


def test_a_saved_gpt_tokenizer_is_read_back_here_and_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.load(gpt_files(tmp_path / "ours", *NAMES[0]))
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in TEXTS:
        ids = tokenizer.encode(text).ids.tolist()
        assert again.encode(text).ids.tolist() == ids == theirs(text)["input_ids"]
        assert again.decode(ids) == tokenizer.decode(ids)


def test_offsets_of_gpt_lie_in_the_raw_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(gpt_files(tmp_path, *NAMES[0]))
    text = "  The LOWER 学习"
    encoded = tokenizer.encode(text)
    pieces = [text[begin:end] for begin, end in encoded.offsets.tolist()]
    assert pieces == ["The", "LOWER", "学", "习"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published vocabulary, under the names of the first release: bytes, merges and the end of text."""
    if not DATA.exists():
        pytest.skip(f"{DATA} is not here")
    folder = tmp_path_factory.mktemp("gpt2")
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [n for n in range(256) if n not in shown]
    lines = (DATA / "huggingface_gpt2_merges.txt").read_text("utf-8").split("\n")
    merged = [line.replace(" ", "") for line in lines if line and not line.startswith("#version")]
    tokens = [*map(chr, shown), *(chr(256 + n) for n in range(len(hidden))), *merged, "<|endoftext|>"]
    vocabulary = {token: n for n, token in enumerate(tokens)}
    assert len(vocabulary) == 50257
    (folder / "encoder.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    shutil.copy(DATA / "huggingface_gpt2_merges.txt", folder / "vocab.bpe")
    return folder


def random_texts(count: int) -> list[str]:
    """Any bytes, read as UTF-8 with replacements; and any characters."""
    rng = np.random.default_rng(0)
    rough = [rng.bytes(int(rng.integers(1, 60))).decode("utf-8", "replace") for _ in range(count)]
    planes = [(0x20, 0x250), (0x4E00, 0x9FFF), (0x1F300, 0x1F9FF), (0x0, 0x20), (0x600, 0x6FF)]
    mixed = []
    for _ in range(count):
        low, high = planes[int(rng.integers(len(planes)))]
        mixed.append("".join(map(chr, rng.integers(low, high, int(rng.integers(1, 40))).tolist())))
    return [*rough, *mixed]


def test_gpt2_under_its_first_names_cuts_as_its_reference(gpt2: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shutil.copy(gpt2 / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(gpt2 / "vocab.bpe", tmp_path / "merges.txt")
    theirs = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    for tokenizer in (Tokenizer.load(gpt2), Tokenizer.load(gpt2 / "vocab.bpe"), Tokenizer.load(tmp_path)):
        assert tokenizer.kind == "byte-bpe"
        assert tokenizer.special_tokens["separator"] == "<|endoftext|>"
        assert tokenizer.frame.size == 0
    tokenizer = Tokenizer.load(gpt2)
    for text in [*TEXTS, *random_texts(100), "don't DON'T 'll x² 一二三"]:
        assert tokenizer.encode(text).ids.tolist() == theirs(text)["input_ids"], text


def test_what_gpt2_reads_comes_back_whatever_the_bytes(gpt2: Path) -> None:
    tokenizer = Tokenizer.load(gpt2)
    for text in random_texts(300):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_learned_byte_vocabulary_gives_every_text_back_too() -> None:
    absent = dict.fromkeys(("padding_token", "unknown_token", "first_token", "mask_token"), "")
    settings = LearningSettings(
        kind="byte-bpe",
        vocab_size=300,
        lowercase=False,
        frame="none",
        separator_token="<|endoftext|>",
        **absent,
    )
    tokenizer = learn(["深度学习 deep learning", "学习语言"] * 3, settings)
    for text in random_texts(200):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_one_token_for_begin_and_end_is_put_around_nothing(gpt2: Path, tmp_path: Path) -> None:
    shutil.copytree(gpt2, tmp_path / "named")
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    (tmp_path / "named" / "tokenizer_config.json").write_text(json.dumps(names))
    tokenizer = Tokenizer.load(tmp_path / "named")
    assert tokenizer.first_id == tokenizer.separator_id == 50256
    assert tokenizer.frame.size == tokenizer.frame.pair_size == 0


def test_merges_without_their_vocabulary_are_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b\n")
    with pytest.raises(CheckpointError, match=r"vocab.bpe has no encoder.json beside it"):
        Tokenizer.load(tmp_path)
