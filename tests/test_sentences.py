import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyseme.text.sentences import sentence_starts, sentences


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "parts",
    [
        ["今天下雨。", "他没来！", "真的？！", "嗯……", "好吧"],
        ["“走吧！”", "他说。", "「好。」", "他走了。”』"],
        ["“好！”，他说。", "他问：“去吗？”"],
        ["他说（真的吗？）然后走了。", "看《你好吗？》了。", "（他走了。）"],
        ["圆周率是3.14，版本2.0.1。", "见http://a.b/?c=d这页。", "iPhone好！"],
        ["他走了。", '"你好吗？"', "她问。", '"好。"', "他说"],
    ],
)
def test_chinese_sentences_end_at_their_marks_and_keep_what_closes(parts: list[str]) -> None:
    assert cut("".join(parts)) == parts


@pytest.mark.parametrize(
    "parts",
    [
        ["It rained.", "He stayed!", "Why?", "Nobody knows... or cares.", "Well..."],
        ["Dr. Li and J. R. Smith met at 3.5 p.m. today.", "It was No. 5, e.g. the last.", "See Fig. 3."],
        ["He lives in the U.S.", "It is large.", "Is it No.", "Yes."],
        ['"He left."', "She came.", '"Why?" he asked.', "(Really.)", "(No!)", "Yes."],
        ["1. Introduction", "2. Methods"],
        ["Ask www.example.com.", "中文在后。", "Then English."],
    ],
)
def test_english_sentences_end_at_full_stops_but_not_at_abbreviations(parts: list[str]) -> None:
    separator = "\n" if parts[0].startswith("1.") else " "
    assert cut(separator.join(parts)) == parts


def test_a_line_end_always_ends_a_sentence_and_blanks_lie_outside() -> None:
    assert cut("  第一行 \r\n\n\u3000第二行\nMr.\nX  \n") == ["第一行", "第二行", "Mr.", "X"]
    assert cut(" \n\t\n") == cut("") == []


def test_straight_quotes_open_and_close_by_turns_in_each_line() -> None:
    assert cut('他说"好。"我走。\n"不行。"他说。') == ['他说"好。"', "我走。", '"不行。"', "他说。"]


def test_the_starts_are_those_of_the_ranges() -> None:
    assert sentence_starts("一。 二！\n三").tolist() == [0, 3, 6]
    assert sentence_starts("").dtype == "int64"


def test_a_million_characters_without_an_end_are_one_sentence() -> None:
    for text in ("长" * 1_000_000, "a" * 1_000_000, "." * 1_000_000, '"' * 1_000_000):
        assert sentences(text) == [(0, 1_000_000)]
    assert len(sentences('好。"好' * 100_000)) == 100_001


wild = st.text(st.sampled_from("。！？…!?.\"'”“（）()《》,， \n\r\t\u3000aZ文5·Mr") | st.characters())


@given(wild)
def test_only_blanks_lie_outside_sentences_and_none_at_their_ends(text: str) -> None:
    end = 0
    for start, next_end in sentences(text):
        assert not text[end:start].strip()
        assert text[start:next_end].strip() == text[start:next_end] != ""
        assert "\n" not in text[start:next_end]
        end = next_end
    assert not text[end:].strip()


@given(st.lists(wild, max_size=5))
def test_lines_are_cut_alike_alone_and_together(texts: list[str]) -> None:
    lines = [line for text in texts for line in text.split("\n")]
    assert cut("\n".join(lines)) == [sentence for line in lines for sentence in cut(line)]
