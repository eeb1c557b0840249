"""Scores of answers on passages: by hand, and against formulations of their own."""

import random
import re
import string
from itertools import pairwise

import numpy as np
import pytest

from polyseme.tasks.reading_scores import (
    RULES,
    best_threshold,
    cjrc,
    cmrc,
    cmrc_units,
    squad1,
    squad2,
    squad_normal,
    suited_rule,
)
from polyseme.tasks.treebank_words import treebank_words


@pytest.mark.parametrize(
    ("given", "gold", "exact", "f1"),
    [
        ("The  Eiffel tower!", ["eiffel Tower"], 1, 1),
        ("in Paris, France", ["Paris"], 0, 0.5),
        ("Paris Paris", ["Paris"], 0, 2 / 3),
        ("Paris", ["London", "in Paris"], 0, 2 / 3),
        ("another thing", ["a thing"], 0, 2 / 3),  # "a" is an article, "another" is none
        ("the", ["a"], 1, 0),
    ],
)
def test_squad_1_counts_words(given: str, gold: list[str], exact: float, f1: float) -> None:
    assert squad1(given, gold) == (exact, pytest.approx(f1))


@pytest.mark.parametrize(
    ("given", "gold", "exact", "f1"),
    [
        ("", [], 1, 1),
        ("", [""], 1, 1),
        ("Paris", [], 0, 0),
        ("", ["Paris"], 0, 0),
        ("the", [], 1, 1),
        ("Paris", ["the", "Paris"], 1, 1),
        ("in Paris", ["Paris"], 0, 2 / 3),
    ],
)
def test_squad_2_counts_no_answer_as_a_whole(given: str, gold: list[str], exact: float, f1: float) -> None:
    assert squad2(given, gold) == (exact, pytest.approx(f1))


@pytest.mark.parametrize(
    ("given", "gold", "exact", "f1"),
    [
        ("光荣和ω-force", ["光荣和ω-force"], 1, 1),
        ("光荣和ω-force", ["光荣"], 0, 2 * 2 / 6),  # 光 荣 和 ωforce
        ("《战国无双》。", ["战国无双"], 1, 1),
        ("村雨城", ["任天堂游戏谜之村雨城", "村"], 0, 0.5),
        ("北京上海", ["北海"], 0, 2 * 1 / 6),  # a stretch, not a subsequence
        ("北京 2008年", ["北京2008年"], 0, 1),  # a blank counts for exact match only
        ("，", ["。"], 1, 0),
        ("", [], 1, 1),
        ("", ["北"], 0, 0),
        ("It's $3.50", ["it 's $ 3.50"], 0, 1),
    ],
)
def test_cmrc_counts_the_longest_stretch(given: str, gold: list[str], exact: float, f1: float) -> None:
    assert cmrc(given, gold) == (exact, pytest.approx(f1))


@pytest.mark.parametrize(
    ("given", "gold", "exact", "f1"),
    [
        ("800元", ["800元", "生活费800元", "800元"], 1, 1),
        ("生活费800元", ["800元", "生活费800元", "800元"], 2 / 3, (1 + 1 + 8 / 11) / 3),
        ("YES", ["YES", "YES", "NO"], 1, 1),
        ("YES", ["YES", "NO", "NO"], 2 / 3, 2 / 3),
        ("", ["", "", ""], 1, 1),
        ("", ["甲", "", ""], 1, 1),
        ("甲，乙", ["甲乙"], 1, 1),
        ("甲", [], 0, 0),
    ],
)
def test_cjrc_leaves_each_answer_out_once(given: str, gold: list[str], exact: float, f1: float) -> None:
    assert cjrc(given, gold) == (pytest.approx(exact), pytest.approx(f1))


def brute_words(text: str) -> list[str]:
    """SQuAD's words, character by character."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return [word for word in re.split(r"\s+", kept) if word and word not in ("a", "an", "the")]


def brute_f1(given: list[str], gold: list[str]) -> float:
    """F1 by crossing out one after the other."""
    left, same = list(gold), 0
    for word in given:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(given), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def brute_stretch(given: list[str], gold: list[str]) -> int:
    """The longest of all stretches of one that stand in the other."""
    stretches = {tuple(gold[i:j]) for i in range(len(gold)) for j in range(i + 1, len(gold) + 1)}
    return max(
        (
            j - i
            for i in range(len(given))
            for j in range(i + 1, len(given) + 1)
            if tuple(given[i:j]) in stretches
        ),
        default=0,
    )


def some_text(rng: random.Random, alphabet: list[str]) -> str:
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 9)))


def test_random_english_answers_agree_with_a_formulation_word_by_word() -> None:
    rng = random.Random(0)
    alphabet = ["a ", "the ", "An ", "cat ", "Dog", " ", ".", "s", "(", "cat", " 3", "-"]
    for _ in range(4000):
        given, *gold = (some_text(rng, alphabet) for _ in range(rng.randint(2, 4)))
        words = brute_words(given)
        assert squad_normal(given).split() == words
        exact = float(any(brute_words(one) == words for one in gold))
        assert squad1(given, gold) == (
            exact,
            pytest.approx(max(brute_f1(words, brute_words(one)) for one in gold)),
        )
        with_words = [brute_words(one) for one in gold if brute_words(one)] or [[]]
        expected = max(
            float(words == one) if not words or not one else brute_f1(words, one) for one in with_words
        )
        assert squad2(given, gold) == (float(words in with_words), pytest.approx(expected))


def test_random_chinese_answers_agree_with_a_formulation_by_all_stretches() -> None:
    rng = random.Random(1)
    alphabet = ["甲", "乙", "丙", "丁", "，", "《", "-", "a", "B", " ", "1", ".", "5"]
    signs = set("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
    for _ in range(4000):
        given, *gold = (some_text(rng, alphabet) for _ in range(rng.randint(2, 4)))
        stripped = ["".join(c for c in one.lower().strip() if c not in signs) for one in (given, *gold)]
        exact = float(stripped[0] in stripped[1:])
        units = [cmrc_units(one) for one in (given, *gold)]
        best = 0.0
        for text, one in zip(gold, units[1:], strict=True):
            same = brute_stretch(units[0], one)
            precision, recall = same / max(len(units[0]), 1), same / max(len(one), 1)
            f1 = 2 * precision * recall / (precision + recall) if same else float(given == text == "")
            best = max(best, f1)
        assert cmrc(given, gold) == (exact, pytest.approx(best))
        for one, text in zip(units, stripped, strict=True):
            assert "".join(one) == text.replace(" ", "")
            assert all(len(unit) == 1 or not set(unit) & set("甲乙丙丁") for unit in one)


def test_words_are_cut_as_the_treebank_cuts_them() -> None:
    # What NLTK 3.10's NLTKWordTokenizer gives.
    for text, words in {
        "don't cannot gonna u.s. 3.5% (abc) a.b.": "do n't can not gon na u.s. 3.5 % ( abc ) a.b .",
        '"hello," he\'s': "`` hello , '' he 's",
        "1,234.5 a,b": "1,234.5 a , b",
        "it's 5:30.": "it 's 5:30 .",
        "'tis": "' tis",
        "wait... what?!": "wait ... what ? !",
        "a--b @c #d $e": "a -- b @ c # d $ e",
        "the boys' [sic] they'll": "the boys ' [ sic ] they 'll",
        ",,s:": ", ,s :",
    }.items():
        assert treebank_words(text) == words.split()


def test_the_threshold_is_the_best_of_all_that_could_be_chosen() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(1, 12))
        lead = rng.integers(-4, 5, count) / 2.0
        answered, unanswered = rng.random(count), rng.integers(0, 2, count).astype(float)

        def worth(
            threshold: float,
            lead: np.ndarray = lead,
            answered: np.ndarray = answered,
            unanswered: np.ndarray = unanswered,
        ) -> float:
            return float(np.where(lead > threshold, unanswered, answered).sum())

        places = sorted({*lead.tolist()})
        possible = [places[0] - 1, *((a + b) / 2 for a, b in pairwise(places)), places[-1] + 1]
        chosen = best_threshold(lead, answered, unanswered)
        assert worth(chosen) == pytest.approx(max(map(worth, possible)))


def test_the_rule_goes_by_script_and_by_what_answers_there_are() -> None:
    assert suited_rule(iter(["It rains in 北京."]), [["It"]]) == "squad1"
    assert suited_rule(iter(["It rains."]), [["It"], []]) == "squad2"
    assert suited_rule(iter(["BERT理解上下文"]), [["上"]]) == "cmrc"
    assert suited_rule(iter(["BERT理解上下文"]), [["上"], ["YES"]]) == "cjrc"
    assert set(RULES) == {"squad1", "squad2", "cmrc", "cjrc"}
