"""What stands around texts is the tokenizer's own affair, and everyone lays rows out by it."""

from pathlib import Path

import numpy as np
import pytest

from polyseme.text.frames import FRAMES, FrameName
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.tokenizer import Tokenizer

TEXTS = ["深度学习 deep learning", "学习语言 language"]
SPELT: dict[FrameName, tuple[str, str, list[int]]] = {
    "around": ("[CLS] 学 习 [SEP]", "[CLS] 学 习 [SEP] 深 度 [SEP]", [0, 0, 0, 0, 1, 1, 1]),
    "doubled": ("[CLS] 学 习 [SEP]", "[CLS] 学 习 [SEP] [SEP] 深 度 [SEP]", [0] * 8),
    "behind": ("学 习 [SEP] [CLS]", "学 习 [SEP] 深 度 [SEP] [CLS]", [0, 0, 0, 1, 1, 1, 2]),
    "end": ("学 习 [SEP]", "学 习 [SEP] 深 度 [SEP]", [0] * 6),
    "none": ("学 习", "学 习 深 度", [0, 0, 1, 1]),
}


@pytest.mark.parametrize("name", FRAMES)
def test_every_frame_stands_where_its_family_has_it(name: FrameName) -> None:
    tokenizer = learn(TEXTS, LearningSettings(kind="characters", min_count=1, frame=name))
    one, two = (tokenizer.encode(text).ids for text in ("学习", "深度"))
    single, pair, types = SPELT[name]
    assert " ".join(tokenizer.tokens(tokenizer.frame.single(one))) == single
    ids, segments = tokenizer.frame.pair(one, two)
    assert " ".join(tokenizer.tokens(ids)) == pair
    assert segments.tolist() == types
    assert len(ids) - len(one) - len(two) == tokenizer.frame.pair_size


@pytest.mark.parametrize("name", FRAMES)
def test_transformers_frames_a_learned_tokenizer_alike(name: FrameName, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = learn(TEXTS, LearningSettings(kind="characters", min_count=1, frame=name))
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids, types = tokenizer.frame.pair(tokenizer.encode("学习").ids, tokenizer.encode("深度").ids)
    encoded = theirs("学习", "深度")
    assert encoded["input_ids"] == ids.tolist()
    assert encoded["token_type_ids"] == types.tolist()
    assert Tokenizer.load(tmp_path).frame == tokenizer.frame


def test_a_vocabulary_may_do_without_special_tokens(tmp_path: Path) -> None:
    absent = dict.fromkeys(("padding_token", "unknown_token", "first_token", "mask_token"), "")
    settings = LearningSettings(
        kind="byte-bpe", vocab_size=260, separator_token="<|endoftext|>", frame="none", **absent
    )
    tokenizer = learn(TEXTS, settings)
    assert tokenizer.special_tokens == {"separator": "<|endoftext|>"}
    assert tokenizer.frame.size == 0
    ids = tokenizer.encode("学习 deep").ids
    assert tokenizer.decode(ids) == "学习 deep"
    np.testing.assert_array_equal(tokenizer.frame.single(ids), ids)


def test_a_frame_whose_token_is_absent_is_refused() -> None:
    with pytest.raises(ValueError, match="frame 'around' needs a first_token"):
        LearningSettings(first_token="")
    with pytest.raises(ValueError, match="wordpiece needs an unknown_token"):
        LearningSettings(unknown_token="")
