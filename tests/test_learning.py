import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from polyseme import progress
from polyseme.errors import DataError
from polyseme.text.counting import WordCounter, count_words
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.merges import learn_merges, tokens_of
from polyseme.text.unigram import Cuts, learn_pieces

KINDS = ["wordpiece", "bpe", "byte-bpe", "unigram", "characters", "words"]
TEXTS = [
    "深度学习是机器学习的分支，机器学习是人工智能的分支。",
    "The lower the slower, the lowest the slowest; newer and wider, newest and widest!",
    "自然语言处理 (NLP) 让机器理解自然语言：BERT、ELMo 与 GPT-2。",
    "résumé café naïve 2018 2019 2020",
] * 3
SCRIPT = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_learning import TEXTS
from polyseme.text.learning import LearningSettings, learn
for kind in sys.argv[2:]:
    files = learn(TEXTS, LearningSettings(kind=kind, vocab_size=400)).files()
    print(hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest())
"""


def test_learning_twice_in_fresh_processes_gives_the_same_bytes() -> None:
    here = str(Path(__file__).parent)
    answers = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, here, *KINDS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert answers[0] == answers[1]
    assert len(set(answers[0])) == len(KINDS)
    own = learn(TEXTS, LearningSettings(kind="wordpiece", vocab_size=400)).files()
    assert hashlib.sha256(repr(sorted(own.items())).encode()).hexdigest() == answers[0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_texts_does_not_matter(kind: str) -> None:
    settings = LearningSettings(kind=kind, vocab_size=300)  # type: ignore[arg-type]
    forwards = learn(TEXTS, settings).vocabulary
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(TEXTS).tolist()
        assert learn(shuffled, settings).vocabulary == forwards


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_come_first_and_the_size_is_kept(kind: str) -> None:
    tokenizer = learn(TEXTS, LearningSettings(kind=kind, vocab_size=290))  # type: ignore[arg-type]
    assert tokenizer.vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.kind == kind
    assert tokenizer.vocab_size <= 290
    assert len(set(tokenizer.vocabulary)) == tokenizer.vocab_size


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "characters"])
def test_every_frequent_character_is_kept(kind: str) -> None:
    rare = [chr(0x4E00 + 7 * i) for i in range(1500)]
    texts = ["".join(rare), "".join(reversed(rare)), "q", *TEXTS]
    tokenizer = learn(texts, LearningSettings(kind=kind, vocab_size=3000, words="characters"))  # type: ignore[arg-type]
    assert {*rare} <= {*tokenizer.vocabulary}
    assert tokenizer.unknown_id not in tokenizer.encode("".join(rare)).ids
    assert "q" not in tokenizer.vocabulary


def test_characters_are_ordered_by_count_and_then_by_code_point() -> None:
    tokenizer = learn(["丙丙丙乙乙甲甲一"], LearningSettings(min_count=1, vocab_size=100))
    assert tokenizer.vocabulary[5:] == ["丙", "乙", "甲", "一"]


def test_a_character_counts_with_all_of_its_places() -> None:
    tokenizer = learn(["ax xa"], LearningSettings(vocab_size=100))
    assert tokenizer.vocabulary[5:] == ["##a", "##x", "a", "x"]


def test_the_rarest_characters_give_way_and_the_user_is_told() -> None:
    said: list[str] = []

    class Listener(progress._Silent):
        def say(self, line: str) -> None:
            said.append(line)

    with progress.reporting(Listener()):
        tokenizer = learn(["一一一二二三三四"], LearningSettings(vocab_size=7))
    assert tokenizer.vocabulary[5:] == ["一", "三"]
    assert said == ["1 of 3 tokens that occur 2 times do not fit into vocab_size=7; the rarest were left out"]


def test_merges_are_those_of_the_paper() -> None:
    # Sennrich, Haddow and Birch 2016, algorithm 1.
    words = {("l", "o", "w", "_"): 5, ("l", "o", "w", "e", "r", "_"): 2}
    words |= {("n", "e", "w", "e", "s", "t", "_"): 6, ("w", "i", "d", "e", "s", "t", "_"): 3}
    merges = list(learn_merges(words, num_tokens=4, min_count=1))
    assert merges == [("e", "s"), ("es", "t"), ("est", "_"), ("l", "o")]


@pytest.mark.parametrize("prefix", ["", "##"])
def test_incremental_merging_equals_counting_anew_each_time(prefix: str) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        words: Counter[tuple[str, ...]] = Counter()
        for _ in range(40):
            letters = ["abc"[i] for i in rng.integers(3, size=rng.integers(1, 9))]
            words[(letters[0], *(prefix + letter for letter in letters[1:]))] += int(rng.integers(1, 5))
        learned = list(learn_merges(words, num_tokens=15, min_count=2, prefix=prefix))
        assert learned == plain_merges(words, len(learned), prefix)
        assert len(tokens_of(learned, prefix)) <= 15


def plain_merges(words: Counter[tuple[str, ...]], count: int, prefix: str) -> list[tuple[str, str]]:
    merges = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        changed: Counter[tuple[str, ...]] = Counter()
        for word, times in words.items():
            symbols = list(word)
            index = 0
            while index < len(symbols) - 1:
                if (symbols[index], symbols[index + 1]) == best:
                    symbols[index : index + 2] = [best[0] + best[1].removeprefix(prefix)]
                index += 1
            changed[tuple(symbols)] += times
        words = changed
    return merges


def test_counting_by_the_table_equals_counting_with_the_pipeline_alone() -> None:
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    texts = [*TEXTS, "a\u0301b 中\u0301 \u200bx\u0000y ＡＢ", ""]
    expected: Counter[str] = Counter()
    for text in texts:
        pieces = BertPreTokenizer().pre_tokenize_str(BertNormalizer().normalize_str(text))
        expected.update(piece for piece, _ in pieces)
    counted = count_words(texts, BertNormalizer(), BertPreTokenizer(), cutter=None, most=1000)
    assert counted == expected


def test_counting_forgets_the_rarest_strings_when_there_are_too_many() -> None:
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    counter = WordCounter(BertNormalizer(), BertPreTokenizer(), cutter=None, most=50)
    for first in range(0, 1000, 20):
        counter.add([f"frequent w{first + i}" for i in range(20)])
    words = counter.words()
    assert words["frequent"] == 1000
    assert len(words) <= 51


def test_expected_uses_equal_those_of_all_cuts_written_out() -> None:
    ids = {piece: index for index, piece in enumerate(["a", "b", "ab", "ba", "aba"])}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        scores = np.log(rng.dirichlet(np.ones(len(ids))))
        times = rng.integers(1, 9, size=3).astype(float)
        strings = ["aba", "ab", "babab"]
        expected, best = np.zeros(len(ids)), []
        for string, count in zip(strings, times, strict=True):
            cuts = list(all_cuts(string, ids))
            weights = np.exp([scores[cut].sum() for cut in cuts])
            for cut, weight in zip(cuts, weights / weights.sum(), strict=True):
                np.add.at(expected, cut, weight * count)
            best.append(max(scores[cut].sum() for cut in cuts if len(cut) > 1))
        lattice = Cuts(strings, ids)
        np.testing.assert_allclose(lattice.expected(scores, times), expected)
        np.testing.assert_allclose(lattice.best(scores, without_itself=True), best)


def all_cuts(string: str, ids: dict[str, int]) -> list[list[int]]:
    if not string:
        return [[]]
    return [
        [ids[string[:size]], *rest]
        for size in range(1, len(string) + 1)
        if string[:size] in ids
        for rest in all_cuts(string[size:], ids)
    ]


def test_unigram_keeps_the_pieces_that_words_are_made_of() -> None:
    words = {"机器学习": 50, "深度学习": 40, "机器": 30, "深度": 20}
    pieces = learn_pieces(words, sorted("机器学习深度"), num_pieces=3, min_count=2)
    assert {"机器", "学习", "深度"} <= pieces.keys() or {"机器学习", "深度学习"} <= pieces.keys()
    assert len(pieces) == 9


@pytest.mark.parametrize("kind", ["bpe", "byte-bpe", "unigram"])
def test_learned_tokens_bring_the_text_back(kind: str) -> None:
    tokenizer = learn(TEXTS, LearningSettings(kind=kind, vocab_size=350, lowercase=False))  # type: ignore[arg-type]
    text = "机器学习 is newer, the lowest"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_whole_words_are_those_of_the_cutter() -> None:
    tokenizer = learn(TEXTS, LearningSettings(kind="words", vocab_size=300))
    assert {"自然语言", "机器", "学习", "lower"} <= {*tokenizer.vocabulary}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vocab_size": 5}, "vocab_size must be at least 6 for wordpiece (5 special tokens"),
        ({"vocab_size": 100, "kind": "byte-bpe"}, "vocab_size must be at least 261 for byte-bpe"),
        ({"min_count": 0}, "min_count must be at least 1, got 0"),
        ({"mask_token": "[PAD]"}, "the special tokens must differ"),
        ({"mask_token": " "}, "the special tokens must differ and have no blanks around"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match="^" + words.replace("(", r"\(").replace("[", r"\[")):
        LearningSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("texts", [[], [""], [" \n\t", "\u200b"]])
def test_texts_without_characters_are_refused(texts: list[str]) -> None:
    with pytest.raises(DataError, match="nothing to learn from"):
        learn(texts)


def test_texts_in_which_nothing_repeats_are_refused() -> None:
    with pytest.raises(DataError, match="nothing in the texts occurs 2 times; give more text, or a lower"):
        learn(["一二三"])


def test_special_tokens_may_have_other_names() -> None:
    tokenizer = learn(["一一"], LearningSettings(mask_token="<mask>", vocab_size=10))
    assert tokenizer.vocabulary[tokenizer.mask_id] == "<mask>"
    assert json.loads(tokenizer.files()["tokenizer_config.json"])["mask_token"] == "<mask>"
