"""Multiple choice: questions are read, their choices compared, and kept in folders of transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounding import ONE_IN_SIX_DIGITS
from small_models import CHARACTERS, characters, small_model

from polyseme.checkpoints.formats import format_of
from polyseme.errors import CheckpointError, DataError, SettingsError
from polyseme.models.transformer.config import TransformerConfig
from polyseme.tasks.answer_settings import ChoiceSettings
from polyseme.tasks.choices import ChoiceQuestion
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.multiple_choice import MultipleChoice
from polyseme.tasks.predicting import evaluate, predict
from polyseme.tasks.side_by_side import side_by_side_scores
from polyseme.tasks.task import Inventory, Row

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FAST = {"threads": 1, "precision": "fp32", "learning_rate": 5e-3, "batch_size": 16, "epochs": 1}
NOTHING = Inventory(labels=())


def made_up(path: Path, count: int, *, seed: int, longest: int = 20) -> Path:
    """The right choice, among two to four, is the one with 好."""
    rng = np.random.default_rng(seed)
    rest = [character for character in CHARACTERS if character != "好"]
    items = []
    for number in range(count):
        passage = "".join(rng.choice(rest, int(rng.integers(3, longest))))
        choices = ["".join(rng.choice(rest, 3)) for _ in range(int(rng.integers(2, 5)))]
        place = int(rng.integers(0, len(choices)))
        choices[place] = f"{choices[place][:2]}好"
        asked = {"question": "几", "choice": choices, "answer": choices[place]}
        items.append([[passage], [asked], f"{number}"])
    path.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("choices")
    made_up(target / "train.json", 320, seed=0)
    made_up(target / "dev.json", 60, seed=1)
    small_model(target, "electra")
    return target


@pytest.fixture(scope="module")
def chooser(folder: Path) -> Path:
    out = folder / "tuned"
    outcome = finetune(
        "multiple-choice",
        train=folder / "train.json",
        dev=folder / "dev.json",
        model=folder / "electra",
        out=out,
        **{**FAST, "epochs": 5},
    )
    assert outcome.dev["accuracy"].mean > 0.6  # Guessing gives a third.
    return out


def test_a_fine_tuned_folder_scores_as_it_did_in_training(chooser: Path, folder: Path) -> None:
    report = evaluate("multiple-choice", folder / "dev.json", model=chooser, threads=1)
    assert report["accuracy"] == max(line["dev"]["accuracy"] for line in lines(chooser / "journal.jsonl"))
    assert sum(table["support"] for table in report["labels"].values()) == report["examples"] == 60


def test_transformers_gives_the_same_probabilities(chooser: Path, folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    predict(folder / "dev.json", model=chooser, out=folder / "a", threads=1)
    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(chooser).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(chooser)
    items = json.loads((folder / "dev.json").read_text("utf-8"))
    for (texts, (asked,), _), answer in list(zip(items, lines(folder / "a"), strict=True))[:12]:
        seconds = [f"{asked['question']} {choice}" for choice in asked["choice"]]
        encoded = tokenizer(texts * len(seconds), seconds, return_tensors="pt", padding=True)
        with torch.no_grad():
            logits = theirs(**{name: tensor[None] for name, tensor in encoded.items()}).logits[0]
        assert answer["probabilities"] == pytest.approx(logits.double().softmax(0).tolist(), abs=1e-5)
        assert answer["answer"] == asked["choice"][answer["choice"]]
        assert answer["choice"] == int(logits.argmax())


def test_a_question_gets_the_same_answer_alone_and_among_others(chooser: Path, folder: Path) -> None:
    long = made_up(folder / "long.json", 20, seed=2, longest=150)
    for settings in ({}, {"long_texts": "windows"}):
        for name, tokens in (("alone", 1), ("together", 20_000)):
            options = {"batch_tokens": tokens, "threads": 1, **settings}
            assert predict(long, model=chooser, out=folder / name, **options) == 20
        for alone, together in zip(lines(folder / "alone"), lines(folder / "together"), strict=True):
            assert alone["id"] == together["id"]
            assert alone["probabilities"] == pytest.approx(together["probabilities"], rel=ONE_IN_SIX_DIGITS)


def flattened(rows: list[Row]) -> list[Row]:
    return [one for row in rows for one in (row, *row.beside)]


def test_only_the_passage_is_cut_and_windows_show_every_choice_all_of_it(tmp_path: Path) -> None:
    tokenizer = characters(tmp_path)
    passage = "".join(np.random.default_rng(0).choice(list(CHARACTERS), 70))
    asked = ChoiceQuestion("", passage, "多少", ("一", "二十", "三四日"), 1, "")
    (row,) = MultipleChoice().encode(asked, tokenizer, NOTHING, max_length=32)
    assert len(row.beside) == 2
    assert row.cut == 70 - (32 - 3 - 2 - 3)
    for one, choice in zip(flattened([row]), asked.choices, strict=True):
        assert len(one.input_ids) == 32
        assert "".join(tokenizer.tokens(one.input_ids)).endswith(f"[SEP]多少{choice}[SEP]")
    task = MultipleChoice(ChoiceSettings(long_texts="windows", overlap=5))
    rows = flattened(task.encode(asked, tokenizer, NOTHING, max_length=32))
    assert len(rows) % 3 == 0
    assert all(row.cut == 0 for row in rows)
    each = len(rows) // 3
    shown = ["".join(tokenizer.tokens(row.input_ids)).split("[SEP]")[0].removeprefix("[CLS]") for row in rows]
    for choice in range(3):
        parts = shown[choice * each : (choice + 1) * each]
        assert all(part in passage for part in parts)
        assert passage.startswith(parts[0])
        assert passage.endswith(parts[-1])
    with pytest.raises(SettingsError, match="max_length 10 leaves 2 tokens of the passage"):
        task.encode(asked, tokenizer, NOTHING, max_length=10)


def test_scores_side_by_side_are_the_best_of_each_choice() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        labels, logits, expected, answers = [], [], [], []
        for _ in range(int(rng.integers(1, 5))):
            choices, each = int(rng.integers(2, 6)), int(rng.integers(1, 4))
            answer = int(rng.integers(0, choices))
            scores = rng.normal(size=(choices, each))
            labels += [
                [float(c == w == 0), c, float(c == answer)] for c in range(choices) for w in range(each)
            ]
            logits += scores.flatten().tolist()
            expected.append(scores.max(axis=1))
            answers.append(answer)
        given = torch.tensor(logits, requires_grad=True)
        found, right = side_by_side_scores(given, torch.tensor(labels))
        assert right.argmax(dim=1).tolist() == answers
        for line, best in zip(found.tolist(), expected, strict=True):
            assert line[: len(best)] == pytest.approx(best, abs=1e-6)
            assert all(score == float("-inf") for score in line[len(best) :])
        torch.nn.functional.cross_entropy(found, right.argmax(dim=1)).backward()
        assert given.grad is not None
        assert torch.isfinite(given.grad).all()


@pytest.mark.parametrize("answer", ["二", "B", "b", 1, "1", " 二 "])
def test_an_answer_is_a_text_a_letter_or_a_number(answer: Any, tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    row = {"article": "这里", "question": "几", "options": ["一", "二"], "answer": answer}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row), encoding="utf-8")
    found = list(MultipleChoice().read(path, labelled=True))
    assert [one.answer for one in found] == [1, 1]
    assert found[0].passage == "这里"
    assert [one.answer for one in MultipleChoice().read(path, labelled=False)] == [None, None]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"question": "几", "choices": ["一"], "answer": 0},
            "item 1: choices is .*; a question needs a list",
        ),
        ({"question": "几", "choices": "一二", "answer": 0}, "choices is '一二'"),
        (
            {"question": "几", "choices": ["一", "二"], "answer": "三"},
            "answer is '三'; it must be one of the 2",
        ),
        ({"question": "几", "choices": ["一", "二"], "answer": 2}, "answer is '2'"),
        ({"question": "几", "choices": ["一", "二"]}, "answer is 'None'"),
        ({"question": 3, "choices": ["一", "二"], "answer": 0}, "question is '3'; it must be text"),
        ({"question": "", "choices": ["一", "二"], "answer": 0}, "neither a question nor a passage"),
        (
            [["这里"], [{"question": "几", "choice": ["一", "二"], "answer": "三"}], "x"],
            "passage x, question 1: ans",
        ),
        ([["这里"], ["几"], "x"], "passage x, question 1: '几' stands where"),
        (["这里"], "item 1: no passage of C3"),
        ("这里", "item 1: '这里' stands where an object must"),
    ],
)
def test_broken_questions_are_named(item: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps([item]), encoding="utf-8")
    with pytest.raises(DataError, match=f"f.json, .*{message}"):
        list(MultipleChoice().read(path, labelled=True))


def test_families_without_a_chooser_are_refused() -> None:
    config = TransformerConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8)
    with pytest.raises(CheckpointError, match="a t5 folder cannot hold a model for multiple choice"):
        MultipleChoice().reading(config, format_of("t5"))


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_c3_is_read_whole() -> None:
    for name, count in (("dev", 3816), ("test", 3892)):  # The test file has no answers.
        path = DATA / f"tasks_zh/c3/{name}.json.xz"
        questions = list(MultipleChoice().read(path, labelled=name == "dev"))
        assert len(questions) == count
        assert {len(question.choices) for question in questions} == {2, 3, 4}
