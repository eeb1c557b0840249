"""Taggers on every family, and on tokenizers whose tokens could cross words."""

from pathlib import Path

import numpy as np
import pytest
from causal_models import causal_model
from corpora import SENTENCES
from small_models import SHAPES, small_model

from polyseme.checkpoints.loading import load
from polyseme.records import from_plain
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.predicting import Answerer
from polyseme.tasks.tagged_texts import from_text, from_words
from polyseme.tasks.tagging import tokens_of
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.tokenizer import Tokenizer

COLUMNS = "王 B-人\n和 O\n李 B-人\n四 I-人\n\n在 O\n北 B-地\n京 I-地\nok O\n\n" * 4


@pytest.fixture(scope="module", params=["byte-bpe", "bpe", "unigram"])
def crossing(request: pytest.FixtureRequest) -> Tokenizer:
    settings = from_plain({"kind": request.param, "vocab_size": 400}, LearningSettings, where="test")
    return learn(SENTENCES * 3, settings)


def test_no_token_holds_letters_of_two_words(crossing: Tokenizer) -> None:
    assert crossing.crosses_words
    rng = np.random.default_rng(0)
    for _ in range(60):
        text = str(rng.choice(SENTENCES))
        place = int(rng.integers(0, len(text)))
        text = text[:place] + str(rng.choice(['"', " ", "２０", " 2", "\u200b", "ab"])) + text[place:]
        example = from_text(text, None, where="")
        ids, word_of_token = tokens_of(example, crossing)
        encoded = crossing.encode(text, starts=example.words[:, 0])
        assert ids.tolist() == encoded.ids.tolist()
        inside = [set(range(start, end)) for start, end in example.words.tolist()]
        for word, (begin, end) in zip(word_of_token.tolist(), encoded.offsets.tolist(), strict=True):
            others = {n for n, of_word in enumerate(inside) if of_word & set(range(begin, end))} - {word}
            assert not others


def test_given_words_keep_their_own_tokens(crossing: Tokenizer) -> None:
    words = ["ab", "ab", "。", "法", "院", "判", "决", "x"]
    example = from_words(words, None, where="")
    _, word_of_token = tokens_of(example, crossing)
    assert set(word_of_token.tolist()) - {-1} == set(range(len(words)))


def tuned(folder: Path, model: Path) -> Path:
    (folder / "train.txt").write_text(COLUMNS, encoding="utf-8")
    outcome = finetune(
        "tagging",
        train=folder / "train.txt",
        dev=folder / "train.txt",
        model=model,
        out=folder / "tuned",
        epochs=1,
        batch_size=4,
        threads=1,
        tagger="crf",
    )
    assert outcome.examples == 8
    return folder / "tuned"


@pytest.mark.parametrize("family", [*SHAPES, "causal"])
def test_every_family_is_tuned_saved_and_answers_every_word(family: str, tmp_path: Path) -> None:
    model = causal_model(tmp_path) if family == "causal" else small_model(tmp_path, family)
    folder = tuned(tmp_path, model)
    saved = load(folder, heads=["token-classification"])
    assert not saved.backbone.config.pooler
    assert set(saved.task_tensors) == {f"chooser.crf.{name}" for name in ("transitions", "start", "end")}
    answerer = Answerer(folder, threads=1)
    texts = ["王和李四", "在北京 ok。" * 20, ""]
    answers = answerer.answers([from_text(text, None, where="") for text in texts])
    for text, answer in zip(texts, answers, strict=True):
        assert answer.text == text
        assert "".join(answer.words) == text.replace(" ", "")
        assert len(answer.tags) == len(answer.words)
        assert set(answer.tags) <= {"O", "B-人", "I-人", "B-地", "I-地"}
