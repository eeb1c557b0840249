"""`prepare`: ids and marks are right, and the same on any number of processes."""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyseme import progress
from polyseme.errors import SettingsError
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.preparing import prepare
from polyseme.text.reading import TextSettings
from polyseme.text.sentences import sentences
from polyseme.text.store import Mark, Store
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.tokenizer_learning import learn_tokenizer
from polyseme.text.words import word_cutter

TEXT = (
    "我们在北京理解上下文，模型BERT-wwm有1024个维度。「真的吗？」她问道：“是的！”\n"
    "The café served 3.14 cups of naïve espresso in 2024; iPhone15手机卖完了……\n"
    "程序员编写程序，法院执行判决。\t缩进 和 空格  都在这里 \n"
    "ひらがなカタカナ 한국어 русский язык 😀👩‍👩‍👧 é x\u0301y\n"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordPiece vocabulary that knows the characters of TEXT but four, and some pieces of words."""
    folder = tmp_path_factory.mktemp("tokenizer")
    characters = sorted({c for c in TEXT.lower() if not c.isspace()} - set("员户é😀"))
    pieces = ["##" + c for c in characters if c.isascii() and c.isalnum()]
    words = ["bert", "##wm", "cafe", "iphone", "##15", "102", "es", "##press", "рус", "##ский"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = list(dict.fromkeys(special + characters + pieces + words))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return folder


def some_text(seed: int, characters: int) -> str:
    """Documents of random pieces of TEXT; no line twice, as each ends in its number."""
    rng = random.Random(seed)
    lines: list[str] = []
    size = 0
    while size < characters:
        start = rng.randrange(len(TEXT))
        line = TEXT[start : start + rng.randrange(200)].replace("\n", " ") + f" {len(lines)}"
        lines.append("\n" + line if rng.random() < 0.1 else line)
        size += len(line)
    return "\n".join(lines) + "\n"


def tokens_and_marks(store: Store) -> list[tuple[str, Mark]]:
    ids, marks = store.gather(np.array([0]), np.array([store.num_tokens]))
    return list(zip(store.tokenizer.tokens(ids), map(Mark, marks.tolist()), strict=True))


def starting(store: Store, mark: Mark) -> list[str]:
    """The tokens from one start to the next, joined by blanks."""
    units: list[list[str]] = []
    for token, marks in tokens_and_marks(store):
        if mark in marks:
            units.append([])
        units[-1].append(token)
    return [" ".join(unit) for unit in units]


def slowly_marked(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """Ids and marks by the definition, one character and one token at a time."""
    cutter = word_cutter("rjieba")
    found = []
    for document in text.split("\n\n"):
        first_of_document = True
        for line in document.split("\n"):
            starts, at = [], 0
            for word in cutter(line):
                starts.append(at)
                at += len(word)
            encoded = tokenizer.encode(line, starts=np.array(starts, dtype=np.int64))
            sentence_starts = [start for start, _ in sentences(line)]
            seen = 0
            for index, (token, (_, end)) in enumerate(zip(encoded.ids, encoded.offsets, strict=True)):
                mark = 0
                if index == 0 or any(seen <= start < end for start in sentence_starts):
                    mark |= Mark.SENTENCE | Mark.WORD
                if any(seen <= start < end for start in starts):
                    mark |= Mark.WORD
                if first_of_document:
                    mark |= Mark.DOCUMENT | Mark.TURN
                    first_of_document = False
                found.append((int(token), int(mark)))
                seen = max(seen, end)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", ["wordpiece", "characters", "words", "bpe", "byte-bpe", "unigram"])
def test_marks_agree_with_their_definition_for_every_kind_of_tokenizer(tmp_path: Path, kind: str) -> None:
    text = some_text(1, 6000).strip()
    settings = LearningSettings(kind=kind, vocab_size=400)  # type: ignore[arg-type]
    learn((TEXT * 3).split("\n"), settings).save(tmp_path / "tokenizer")
    (tmp_path / "text").write_text(text, encoding="utf-8")
    store = prepare(
        [tmp_path / "text"], tokenizer=tmp_path / "tokenizer", out=tmp_path / "store", control=False
    )
    ids, marks = store.gather(np.array([0]), np.array([store.num_tokens]))
    assert list(zip(ids.tolist(), marks.tolist(), strict=True)) == slowly_marked(store.tokenizer, text)


def test_words_are_whole_with_latin_digits_unknown_and_mixed_text(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("程序员用iPhone15 理解 BERT。\n", encoding="utf-8")
    store = prepare([tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "store")
    assert starting(store, Mark.WORD) == ["程 序 [UNK]", "[UNK]", "iphone ##15", "理 解", "bert", "。"]


def test_sentences_turns_and_documents_are_marked(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("程序。判决！\n我们\n\n\n\n北京\n", encoding="utf-8")
    store = prepare([tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "a")
    assert starting(store, Mark.SENTENCE) == ["程 序 。", "判 决 ！", "我 们", "北 京"]
    assert starting(store, Mark.DOCUMENT) == ["程 序 。 判 决 ！ 我 们", "北 京"]
    assert store.marks_present == Mark.WORD | Mark.SENTENCE | Mark.DOCUMENT
    lines = prepare(
        [tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "b", sentences=False, words="none"
    )
    assert starting(lines, Mark.SENTENCE) == ["程 序 。 判 决 ！", "我 们", "北 京"]
    assert lines.marks_present == Mark.SENTENCE | Mark.DOCUMENT
    (tmp_path / "pairs").write_text("程序\t判决\n我们。北京\t\n", encoding="utf-8")
    pairs = prepare([tmp_path / "pairs"], tokenizer=tokenizer, out=tmp_path / "c", format="pairs")
    assert starting(pairs, Mark.DOCUMENT) == ["程 序 判 决", "我 们 。 北 京"]
    assert starting(pairs, Mark.TURN) == ["程 序", "判 决", "我 们 。 北 京"]
    assert Mark.TURN in pairs.marks_present


def test_what_starts_a_document_starts_everything(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(some_text(2, 20_000), encoding="utf-8")
    store = prepare([tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "store")
    everything = Mark.WORD | Mark.SENTENCE | Mark.TURN | Mark.DOCUMENT
    assert all(mark == everything for _, mark in tokens_and_marks(store) if Mark.DOCUMENT in mark)
    assert all(Mark.WORD in mark for _, mark in tokens_and_marks(store) if Mark.SENTENCE in mark)


def test_the_bytes_are_the_same_for_any_number_of_workers(tokenizer: Path, tmp_path: Path) -> None:
    text = some_text(3, 600_000)
    (tmp_path / "text").write_text(text + text[:100_000], encoding="utf-8")
    options = {"shard_tokens": 100_000, "drop_repeated_lines": True, "drop_repeated_documents": True}
    stores = []
    for workers in (1, 2, 3):
        out = tmp_path / str(workers)
        prepare([tmp_path / "text"], tokenizer=tokenizer, out=out, workers=workers, **options)
        stores.append(contents(out))
    assert stores[0] == stores[1] == stores[2]
    assert len([name for name in stores[0] if name.startswith("ids")]) > 3
    assert Store.open(tmp_path / "1", check=True).manifest.num_characters < len(text)


def test_the_place_of_text_and_tokenizer_leaves_no_trace(tokenizer: Path, tmp_path: Path) -> None:
    fingerprints = set()
    for name in ("a", "b"):
        (tmp_path / name).write_text("我们在北京\n", encoding="utf-8")
        Tokenizer.load(tokenizer).save(tmp_path / f"tokenizer-{name}")
        store = prepare(
            [tmp_path / name], tokenizer=tmp_path / f"tokenizer-{name}", out=tmp_path / f"store-{name}"
        )
        fingerprints.add(store.fingerprint)
    assert len(fingerprints) == 1


def test_documents_and_lines_longer_than_a_block_stay_one_document(tokenizer: Path, tmp_path: Path) -> None:
    line = "我们在北京理解上下文，" * 100_000  # 1.1 million characters without an end of a sentence
    (tmp_path / "text").write_text(line + "\n" + "程序。\n" * 50_000 + "\n判决", encoding="utf-8")
    store = prepare([tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "store")
    assert store.num_tokens == len(line) + 150_000 + 2
    assert store.document_starts.tolist() == [0, store.num_tokens - 2, store.num_tokens]
    cuts = store.sentence_starts[store.sentence_starts < len(line)]
    assert np.diff(cuts).max() <= 1 << 15
    assert (cuts % 11 == 0).all()  # after the commas


def test_empty_documents_and_documents_without_tokens_vanish(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\n\n \n\u200b\n\n我们\n\n\u200b\n北京\n\n\u200b\n", encoding="utf-8")
    for control in (True, False):
        out = tmp_path / f"store-{control}"
        store = prepare([tmp_path / "text"], tokenizer=tokenizer, out=out, control=control)
        assert starting(store, Mark.DOCUMENT) == ["我 们", "北 京"]


def test_a_corpus_of_one_word_is_a_store(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("京", encoding="utf-8")
    store = prepare([tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "store", workers=2)
    assert (store.num_documents, store.num_sentences, store.num_words, store.num_tokens) == (1, 1, 1, 1)


def test_repeated_lines_and_documents_are_dropped_exactly(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("我们\n北京\n\n程序\n我们\n\n我们\n北京\n", encoding="utf-8")
    sources = [tmp_path / "text"]
    lines = prepare(sources, tokenizer=tokenizer, out=tmp_path / "a", drop_repeated_lines=True)
    assert starting(lines, Mark.DOCUMENT) == ["我 们 北 京", "程 序"]
    documents = prepare(sources, tokenizer=tokenizer, out=tmp_path / "b", drop_repeated_documents=True)
    assert starting(documents, Mark.DOCUMENT) == ["我 们 北 京", "程 序 我 们"]


def test_text_is_normalised_before_it_is_cut(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("ＢＥＲＴ\u200b-wwm", encoding="utf-8")
    plain = prepare([tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "a")
    folded = prepare([tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "b", nfkc=True)
    assert starting(plain, Mark.DOCUMENT) == ["[UNK] - w ##wm"]
    assert starting(folded, Mark.DOCUMENT) == ["bert - w ##wm"]


def test_options_belong_to_the_record_that_has_them_or_are_refused(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("我们".encode("gb18030"))
    store = prepare([tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "a", encoding="gb18030")
    assert store.manifest.settings["text"]["encoding"] == "gb18030"
    nested = prepare(
        [tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "b", text=TextSettings(encoding="gb18030")
    )
    assert nested.fingerprint == store.fingerprint
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"encodign": "gb18030"}, r"encodign is not a setting here .did you mean 'encoding'"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"shard_tokens": 0}, "shard_tokens must be at least 1, got 0"),
        ({"words": "none", "dictionary": "words.txt"}, 'words="none" takes no dictionary'),
        ({"words": "rjeiba"}, "words='rjeiba' is not known"),
    ]
    for options, message in wrong:
        with pytest.raises(SettingsError, match=message):
            prepare([tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "c", **options)


def test_the_bar_ends_with_all_bytes_and_unknown_tokens_are_told(tokenizer: Path, tmp_path: Path) -> None:
    said: list[str] = []
    done: list[float] = []

    class Heard:
        @contextlib.contextmanager
        def bar(self, label: str, *, total: float | None, unit: str) -> Iterator["Heard"]:
            assert (label, total, unit) == ("prepare", size, "B")
            yield self

        def advance(self, amount: float = 1, *, total: float | None = None, **_: float | str) -> None:
            done.append(amount)

        def say(self, line: str) -> None:
            said.append(line)

        note = say

    (tmp_path / "text").write_text("我们在北京程序员\n" * 40_000, encoding="utf-8")
    size = (tmp_path / "text").stat().st_size
    with progress.reporting(Heard()):
        prepare([tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "a", workers=2)
        (tmp_path / "text").write_text("我们\n", encoding="utf-8")
        size = 7
        prepare([tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "b")
    assert sum(done) == 25 * 40_000 + 7
    assert said == [
        "320,000 tokens, 160,000 words, 40,000 sentences, 1 documents; 12.50% of the tokens are unknown",
        "12.5% of the tokens are unknown to this tokenizer; learn one from this text with "
        "`polyseme tokenizer learn`, or check --encoding",
        "2 tokens, 1 words, 1 sentences, 1 documents; 0.00% of the tokens are unknown",
    ]


def test_one_file_need_not_stand_in_a_list(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("程序。判决！\n", encoding="utf-8")
    alone = prepare(str(tmp_path / "text"), tokenizer=tokenizer, out=tmp_path / "a")
    assert (
        alone.fingerprint == prepare([tmp_path / "text"], tokenizer=tokenizer, out=tmp_path / "b").fingerprint
    )
    learned = learn_tokenizer(str(tmp_path / "text"), out=tmp_path / "vocab", min_count=1)
    assert "程" in learned.vocabulary
