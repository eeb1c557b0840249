import pickle
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyseme.errors import MissingExtra
from polyseme.text import normalising
from polyseme.text.normalising import NormalisingSettings, Repeats, normaliser


def test_each_step_happens_by_choice() -> None:
    text = "Ａ１，ﬁ\u200b漢字\u3000ok"
    unchanged = normaliser(NormalisingSettings(control=False))
    assert unchanged(text) == text
    assert normaliser(NormalisingSettings())(text) == "Ａ１，ﬁ漢字\u3000ok"
    assert normaliser(NormalisingSettings(full_width=True))(text) == "A1，ﬁ漢字 ok"
    assert normaliser(NormalisingSettings(nfkc=True))(text) == "A1,fi漢字 ok"
    assert normaliser(NormalisingSettings(simplified=True))(text) == "Ａ１，ﬁ汉字\u3000ok"


def test_control_characters_go_but_tabs_newlines_and_joiners_stay() -> None:
    text = "a\x00\x1b\ufeff\xad\u202e\tb\n👩\u200d💻\x0b\u2028c\x85d\u3000"
    assert normaliser(NormalisingSettings())(text) == "a\tb\n👩\u200d💻 c d\u3000"


def test_no_other_control_or_separator_is_left() -> None:
    clean = normaliser(NormalisingSettings())
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Zl", "Zp") and character not in "\t\n":
            assert clean(f"a{character}b") in ("ab", "a b")
        elif character.isalpha():
            assert clean(character) == character


def test_chinese_punctuation_keeps_its_width_beside_letters_and_digits() -> None:
    assert normaliser(NormalisingSettings(full_width=True))("（Ｗｉ－Ｆｉ，５０％！）") == "（Wi-Fi，50%！）"


@given(
    st.text(
        st.sampled_from("，：；！？（）～％…\u3000\u0338\u0301e＝＜각ﬁ㍿")
        | st.characters(exclude_categories=["Cs"])
    )
)
def test_nfkc_is_unicodes(text: str) -> None:
    assert normaliser(NormalisingSettings(nfkc=True, control=False))(text) == unicodedata.normalize(
        "NFKC", text
    )


def test_traditional_characters_become_simplified_by_their_words() -> None:
    assert normaliser(NormalisingSettings(simplified=True))("乾坤之間，頭髮乾了。") == "乾坤之间，头发干了。"


def test_simplifying_without_opencc_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opencc", None)
    normalising._converter.cache_clear()
    with pytest.raises(MissingExtra, match=r"opencc; .*pip install opencc .*'\.\[chinese\]'"):
        normaliser(NormalisingSettings(simplified=True))("漢")


def test_a_normaliser_can_be_pickled() -> None:
    clean = normaliser(NormalisingSettings(nfkc=True, full_width=True, simplified=True))
    assert clean("漢１") == "汉1"
    assert pickle.loads(pickle.dumps(clean))("漢１") == "汉1"


def test_a_text_repeats_when_it_was_asked_for_before() -> None:
    repeats = Repeats()
    texts = [f"第{n}行" for n in range(150_000)]
    assert not any(map(repeats.seen, texts))
    assert all(map(repeats.seen, texts))
    assert not repeats.seen("")
    assert repeats.seen("")
