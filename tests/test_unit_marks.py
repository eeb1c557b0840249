"""Phrases and entities in the store: from markup, lists and statistics, and always the same bytes."""

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from corpora import SENTENCES, small_store, write_text

from polyseme.cli import main
from polyseme.errors import DataError, PolysemeError, SettingsError
from polyseme.inspection.store import show_store
from polyseme.inspection.tokens import show_tokens
from polyseme.text.annotation import without_markup
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.phrases import BlockCounts, Counts, PhraseSettings, PhraseTable, count
from polyseme.text.preparing import prepare
from polyseme.text.store import Mark, Store
from polyseme.text.unit_lists import UnitList
from polyseme.text.words import word_cutter


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marks")
    return small_store(folder).folder / "tokenizer"


def units(store: Store, mark: Mark) -> list[str]:
    """The tokens from one start to the next, joined."""
    ids, marks = store.gather(np.array([0]), np.array([store.num_tokens]))
    found: list[str] = []
    for token, bits in zip(store.tokenizer.tokens(ids), marks.tolist(), strict=True):
        if bits & mark:
            found.append("")
        found[-1] += token.removeprefix("##")
    return found


def prepared(folder: Path, text: str, tokenizer: Path, **options: object) -> Store:
    (folder / "text.txt").write_text(text, encoding="utf-8")
    return prepare([folder / "text.txt"], tokenizer=tokenizer, out=folder / "store", **options)


def test_markup_is_left_out_of_the_text_and_marks_what_it_holds(tokenizer: Path, tmp_path: Path) -> None:
    plain = "人民法院依法独立行使审判权。\n我们使用 Python 3.11 编写程序。\n"
    marked = "[[人民法院]]{{依法独立}}行使{{[[审判]]权}}。\n我们{{使用 [[Python]] 3.11 编写}}程序。\n"
    store = prepared(tmp_path, marked, tokenizer, phrases="markup", entities="markup")
    (tmp_path / "plain").mkdir()
    unmarked = prepared(tmp_path / "plain", plain, tokenizer)
    assert units(store, Mark.ENTITY) == [
        *("人民法院", "依法", "独立", "行使", "审判", "权", "。", "我们", "使用", "python"),
        *("3.11", "编写", "程序", "。"),
    ]
    assert units(store, Mark.PHRASE) == [
        *("人民法院", "依法独立", "行使", "审判权", "。", "我们", "使用python3.11编写", "程序", "。"),
    ]
    ids, _ = store.gather(np.array([0]), np.array([store.num_tokens]))
    same, _ = unmarked.gather(np.array([0]), np.array([unmarked.num_tokens]))
    assert ids.tolist() == same.tolist()
    assert store.manifest.num_characters == unmarked.manifest.num_characters
    assert store.marks_present & (Mark.PHRASE | Mark.ENTITY) == Mark.PHRASE | Mark.ENTITY
    assert not unmarked.marks_present & (Mark.PHRASE | Mark.ENTITY)


def test_an_annotation_that_cuts_a_word_begins_and_ends_words(tokenizer: Path, tmp_path: Path) -> None:
    store = prepared(tmp_path, "人民[[法院依]]法独立。\n", tokenizer, entities="markup")
    assert units(store, Mark.WORD)[:4] == ["人民", "法院", "依", "法"]
    assert units(store, Mark.ENTITY)[:3] == ["人民", "法院依", "法"]


@pytest.mark.parametrize("seed", range(20))
def test_offsets_of_annotations_are_exact(seed: int) -> None:
    rng = random.Random(seed)
    line, text, phrases, entities = "", "", [], []
    begun: dict[str, int] = {}
    for _ in range(60):
        piece = "".join(rng.choices("法院a b[{]}", weights=[9, 9, 9, 3, 1, 1, 1, 1, 1], k=rng.randrange(4)))
        if any(sign in line[-1:] + piece for sign in ("[[", "]]", "{{", "}}")) or piece[-1:] in set("[]{}"):
            piece = "院"
        if piece[:1] in set("[]{}"):
            piece = "法" + piece
        line, text = line + piece, text + piece
        opening, closing, found = rng.choice([("[[", "]]", entities), ("{{", "}}", phrases)])
        if opening in begun:
            line += closing
            if begun[opening] < len(text):
                found.append((begun[opening], len(text)))
            del begun[opening]
        else:
            line, begun[opening] = line + opening, len(text)
        line, text = line + "程", text + "程"
    for opening, begin in list(begun.items()):
        line += {"[[": "]]", "{{": "}}"}[opening]
        (entities if opening == "[[" else phrases).append((begin, len(text)))
    assert without_markup(line) == (text, phrases, entities)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("在[[北京", r"\[\[ is not closed on its line in '在\[\[北京'"),
        ("北京]]大学", r"\]\] closes nothing"),
        ("[[北京[[大学]]", r"\[\[ stands inside another \[\["),
    ],
)
def test_markup_that_does_not_match_is_quoted(
    line: str, message: str, tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, line + "\n", tokenizer, entities="markup")
    assert not (tmp_path / "store").exists()


def slowly_found(entries: set[str], pieces: list[str]) -> list[tuple[int, int]]:
    found, start = [], 0
    while start < len(pieces):
        ends = [end for end in range(start + 1, len(pieces) + 1) if "".join(pieces[start:end]) in entries]
        if ends:
            found.append((start, max(ends)))
        start = max(ends, default=start + 1)
    return found


def test_a_list_gives_the_longest_entry_from_each_word_on() -> None:
    rng = random.Random(0)
    for _ in range(300):
        pieces = ["".join(rng.choices("甲乙丙", k=rng.randrange(1, 3))) for _ in range(30)]
        entries = {"".join(rng.choices("甲乙丙", k=rng.randrange(1, 6))) for _ in range(12)}
        assert UnitList(entries)(pieces) == slowly_found(entries, pieces)


def test_lists_are_made_alike_as_the_text_is(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("ＰＹＴＨＯＮ 3.11\n\n审判权\n人民法院依法\n", encoding="utf-8")
    store = prepared(
        tmp_path,
        "人民法院依法独立行使审判权，PYTHON 3.11 程序。\n",
        tokenizer,
        entities=str(tmp_path / "list"),
        full_width=True,
    )
    assert units(store, Mark.ENTITY) == [
        *("人民法院依法", "独立行使", "审判权", "，", "python3.11", "程序", "。"),
    ]


def repeated_text(seed: int) -> str:
    """Lines of words by chance, among which some pairs and one triple come again and again."""
    rng = random.Random(seed)
    words = ["程序", "法院", "软件", "合同", "网络", "当事人", "标的", "安装", "公民", "机关"]
    fixed = ["开源软件", "行政机关", "machine learning", "机器 学习"]
    lines = []
    for _ in range(400):
        parts = [rng.choice(words if rng.random() < 0.8 else fixed) for _ in range(rng.randrange(3, 12))]
        lines.append(" ".join(parts) if rng.random() < 0.5 else "，".join(parts))
    return "\n".join(lines) + "\n"


def slow_phrases(lines: list[list[list[str]]], min_count: int, threshold: float) -> set[tuple[str, str]]:
    words = Counter(word for line in lines for part in line for word in part)
    pairs = Counter((a, b) for line in lines for part in line for a, b in pairwise(part))
    total = sum(words.values())
    return {
        (a, b) for (a, b), n in pairs.items() if (n - min_count) / (words[a] * words[b]) * total > threshold
    }


def stretches_of(line: str) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for piece in word_cutter("rjieba")(line):
        if any(c.isalnum() for c in piece):
            found[-1].append(piece)
        elif not piece.isspace():
            found.append([])
    return found


def test_phrases_by_statistics_are_those_of_the_definition(tmp_path: Path) -> None:
    text = repeated_text(0)
    tokenizer = tmp_path / "tokenizer"
    learn(text.splitlines(), LearningSettings(vocab_size=300)).save(tokenizer)
    store = prepared(
        tmp_path, text, tokenizer, phrases="statistics", phrase_min_count=5, phrase_threshold=3.0
    )
    lines = [stretches_of(line) for line in text.splitlines()]
    expected = slow_phrases(lines, 5, 3.0)
    assert ("machine", "learning") in expected
    assert 3 <= len(expected) < 60
    joined = []
    for line in text.splitlines():
        for piece in line.replace("，", "，\n").split("\n"):
            held: list[str] = []
            fresh = True
            for word in (word for part in stretches_of(piece) for word in part):
                if not fresh and (held[-1], word) in expected:
                    held[-1] += word
                    fresh = True
                else:
                    held.append(word)
                    fresh = False
            joined += held
    assert [unit for unit in units(store, Mark.PHRASE) if unit != "，"] == joined


def test_a_second_pass_joins_phrases_to_longer_ones() -> None:
    pieces = ["甲", "乙", "丙", "丁"]
    first, second = frozenset({"甲\t乙", "乙\t丙"}), frozenset({"甲 乙\t丙"})
    assert PhraseTable([first])(pieces) == [(0, 2)], "what was just joined is not joined again"
    assert PhraseTable([first, second])(pieces) == [(0, 3)]
    assert PhraseTable([first])(["甲", " ", "乙"]) == [(0, 3)]
    assert PhraseTable([first])(["甲", "\n", "乙"]) == []
    assert PhraseTable([first])(["甲", "，", "乙"]) == []


def test_counting_stays_bounded_and_does_not_depend_on_how_blocks_were_shared_out() -> None:
    rng = random.Random(1)
    parts = []
    for _ in range(200):
        words = [str(int(rng.paretovariate(0.6)))[:6] for _ in range(60)]
        parts.append(count(PhraseTable().runs([piece for word in words for piece in (word, " ")])))
    bounded = Counts(most=300)
    for part in parts:
        bounded.add(part)
        assert max(len(bounded._words), len(bounded._pairs)) <= 300
    again = Counts(most=300)
    for part in parts:
        again.add(BlockCounts(dict(reversed(part.words.items())), dict(reversed(part.pairs.items()))))
    settings = PhraseSettings(phrase_min_count=3, phrase_threshold=1.0)
    assert bounded.phrases(settings) == again.phrases(settings)
    everything = Counts()
    for part in parts:
        everything.add(part)
    assert bounded.phrases(settings)
    assert bounded.total == everything.total == 200 * 60


@pytest.mark.parametrize("source", ["statistics", "list", "markup"])
def test_the_store_is_the_same_for_any_number_of_workers(
    source: str, tokenizer: Path, tmp_path: Path
) -> None:
    text = repeated_text(2) * 24
    (tmp_path / "list").write_text("行政机关\n法院\nmachine learning\n", encoding="utf-8")
    if source == "markup":
        text = text.replace("合同", "{{合同}}").replace("机器 学习", "[[机器 学习]]")
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    assert len(text) > 2 << 17, "several blocks"
    options = {
        "statistics": {"phrases": "statistics", "phrase_threshold": 3.0, "phrase_passes": 2},
        "list": {"phrases": str(tmp_path / "list"), "entities": str(tmp_path / "list")},
        "markup": {"phrases": "markup", "entities": "markup"},
    }[source]
    stores = [
        prepare(
            [tmp_path / "text.txt"],
            tokenizer=tokenizer,
            out=tmp_path / str(workers),
            workers=workers,
            **options,
        )
        for workers in (1, 2)
    ]
    assert stores[0].fingerprint == stores[1].fingerprint
    assert Mark.PHRASE in stores[0].marks_present


@pytest.mark.parametrize("kind", ["wordpiece", "byte-bpe", "unigram"])
def test_units_nest_for_every_kind_of_tokenizer(kind: str, tmp_path: Path) -> None:
    learn(list(SENTENCES) * 3, LearningSettings(kind=kind, vocab_size=500)).save(tmp_path / "tokenizer")  # type: ignore[arg-type]
    write_text(tmp_path / "text.txt")
    (tmp_path / "list").write_text("人民法院\n提起诉讼\n合法权益\nPython 3.11\n配置文件\n", encoding="utf-8")
    store = prepare(
        [tmp_path / "text.txt"],
        tokenizer=tmp_path / "tokenizer",
        out=tmp_path / "store",
        phrases="statistics",
        phrase_threshold=20.0,
        entities=str(tmp_path / "list"),
    )
    _, marks = store.gather(np.array([0]), np.array([store.num_tokens]))
    for mark in (Mark.PHRASE, Mark.ENTITY):
        starts = (marks & mark) > 0
        assert ((marks & Mark.WORD) > 0)[starts].all(), "every unit is made of whole words"
        assert starts[(marks & Mark.SENTENCE) > 0].all(), "no unit reaches over the end of a sentence"
        assert starts.sum() < store.num_words, "some units have several words"
    if kind != "byte-bpe":  # whose tokens are bytes
        found = [unit.strip("▁") for unit in units(store, Mark.ENTITY)]
        assert found.count("人民法院") == "".join(found).count("人民法院") > 0


def test_turns_are_lines_where_that_is_asked(tokenizer: Path, tmp_path: Path) -> None:
    store = prepared(tmp_path, "程序。\n法院。\n\n合同。\n网络。\n", tokenizer, turns=True)
    assert units(store, Mark.TURN) == ["程序。", "法院。", "合同。", "网络。"]
    assert Mark.TURN in store.marks_present
    lines = tmp_path / "text.jsonl"
    lines.write_text(
        '{"text": ["程序。安装。", "法院。"]}\n{"text": ["合同。", "网络。", "公民。"]}\n', "utf-8"
    )
    same = prepare([lines], tokenizer=tokenizer, out=tmp_path / "json", turns=True)
    assert units(same, Mark.TURN) == ["程序。安装。", "法院。", "合同。", "网络。", "公民。"]
    assert same.num_documents == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"phrases": "statistics", "words": "none"}, SettingsError, "phrases are made of words"),
        ({"entities": "statistics"}, SettingsError, "entities cannot be told by statistics"),
        ({"entities": "/nowhere"}, DataError, "there is no list of phrases or entities /nowhere"),
        (
            {"phrases": "statistics", "phrase_threshold": 0.0},
            SettingsError,
            "phrase_threshold must be above 0",
        ),
        ({"phrases": "statistics", "phrase_passes": 0}, SettingsError, "phrase_passes must be at least 1"),
    ],
)
def test_what_cannot_be_marked_is_refused(
    options: dict[str, object], error: type[PolysemeError], message: str, tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        prepared(tmp_path, "程序。\n", tokenizer, **options)


def test_statistics_refuse_standard_input(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="standard input can be read only once"):
        prepare(["-"], tokenizer=tokenizer, out=tmp_path / "store", phrases="statistics")


def test_show_says_what_is_marked(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[[人民法院]]{{依法独立}}行使。"
    cut = show_tokens(text, tokenizer=tokenizer, phrases="markup", entities="markup")[0]
    assert cut.text == "人民法院依法独立行使。"
    assert [token.entity for token in cut.tokens[:4]] == [0, 0, 0, 0]
    assert len({token.phrase for token in cut.tokens if token.begin in (4, 5, 6, 7)}) == 1
    arguments = ["show", "tokens", text, "--tokenizer", str(tokenizer), "--entities", "markup"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "entity" in shown
    assert "[[" not in shown
    assert "{{" not in shown
    store = prepared(tmp_path, text + "\n", tokenizer, phrases="markup", entities="markup")
    assert show_store(store.folder).samples == ["人民法院 依法·独立 行使 。"]
    assert main(["show", "store", str(store.folder)]) == 0
    assert "word phrase entity sentence document" in capsys.readouterr().out
