import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.errors import DataError, SettingsError
from polyseme.text.words import read_dictionary, word_cutter, word_starts

SENTENCE = "我爱老北京炸酱面馆，唐·吉诃德也爱 GPT-4！"


def without_blanks(text: str) -> Iterator[str]:
    """A cutter as users have them: blanks are lost."""
    yield from text.split()


def reversing(text: str) -> list[str]:
    return [text[::-1]]


wild = st.text(
    st.sampled_from("我爱北京天安门一二的了\r\n\t\u2028\u3000\x00 .,!?。，aBz09%+#_-·é\u0301\u200dאกกำ𠮷🙂👩")
    | st.characters(exclude_categories=["Cs"])
)


@pytest.mark.parametrize("name", ["rjieba", "jieba", "blanks", "characters", f"{__name__}:without_blanks"])
def test_the_pieces_join_to_exactly_the_text(name: str) -> None:
    cutter = word_cutter(name)

    @settings(deadline=None)
    @given(wild)
    def check(text: str) -> None:
        pieces = cutter(text)
        assert "".join(pieces) == text
        assert all(pieces)
        starts = word_starts(cutter, text)
        assert starts.dtype == np.int64
        assert starts.tolist() == [sum(map(len, pieces[:i])) for i in range(len(pieces))]

    check()


def test_words_blanks_and_characters() -> None:
    text = "我爱北京 天安门\n"
    assert word_cutter()(text) == ["我", "爱", "北京", " ", "天安门", "\n"]
    assert word_cutter("jieba")(text) == ["我", "爱", "北京", " ", "天安门", "\n"]
    assert word_cutter("blanks")("a  bc\t") == ["a", "  ", "bc", "\t"]
    assert word_cutter("characters")("a 文") == ["a", " ", "文"]
    assert word_cutter(f"{__name__}:without_blanks")(" a  b ") == [" ", "a", "  ", "b", " "]
    assert word_starts(word_cutter(), "").tolist() == []


@pytest.mark.parametrize("name", ["rjieba", "jieba"])
def test_words_of_a_dictionary_stay_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeff老北京炸酱面馆\n\n唐·吉诃德\n也爱 100000 v\n", encoding="utf-8")
    assert {"老北京炸酱面馆", "唐·吉诃德"}.isdisjoint(word_cutter(name)(SENTENCE))
    cutter = word_cutter(name, dictionary=path)
    assert "".join(cutter(SENTENCE)) == SENTENCE
    assert {"老北京炸酱面馆", "唐·吉诃德", "也爱"} <= set(cutter(SENTENCE))
    assert pickle.loads(pickle.dumps(cutter))(SENTENCE) == cutter(SENTENCE)


def test_a_wrong_dictionary_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("好词 3 n\n坏 词 n 3\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"words\.txt, line 2: '坏 词 n 3' is no dictionary entry; write the word"
    ):
        word_cutter("rjieba", dictionary=path)
    with pytest.raises(DataError, match=r"there is no dictionary .*missing"):
        read_dictionary(tmp_path / "missing")
    path.write_bytes("词".encode("gb18030"))
    with pytest.raises(DataError, match=r"the dictionary .*words\.txt cannot be read: .*utf-8"):
        read_dictionary(path)
    with pytest.raises(SettingsError, match="words='blanks' takes no dictionary; rjieba and jieba do"):
        word_cutter("blanks", dictionary=path)


def test_cutters_reach_worker_processes() -> None:
    names = ["rjieba", "jieba", "blanks", "characters"]
    cutters = [word_cutter(name) for name in names]
    cutters[0](SENTENCE)  # One that was used before goes too.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for cutter in cutters:
            assert pool.submit(cutter, SENTENCE).result() == cutter(SENTENCE)
    own = word_cutter(f"{__name__}:without_blanks")
    assert pickle.loads(pickle.dumps(own))(SENTENCE) == own(SENTENCE)


def test_unknown_cutters_are_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"words='rjeiba' is not known \(did you mean 'rjieba'\?\); choose rji"
    ):
        word_cutter("rjeiba")
    with pytest.raises(SettingsError, match="words='nowhere:cut' cannot be imported: No module"):
        word_cutter("nowhere:cut")
    with pytest.raises(SettingsError, match=":SENTENCE' is a str; it must be callable"):
        word_cutter(f"{__name__}:SENTENCE")


def test_a_cutter_that_changes_the_text_is_refused() -> None:
    with pytest.raises(DataError, match="reversing returned '好你', which does not follow in the text"):
        word_cutter(f"{__name__}:reversing")("你好")
    with pytest.raises(DataError, match="returned 1 characters for a text of 2; its pieces must join"):
        word_starts(lambda text: [text[:1]], "你好")


def test_a_text_of_a_million_characters_is_cut() -> None:
    for text in ("我" * 1_000_000, "a" * 1_000_000, "人民" * 500_000):
        assert word_starts(word_cutter(), text)[-1] < 1_000_000
