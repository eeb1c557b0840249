"""Predictions of fine-tuned models: of texts in memory, and as files that hold the rows of the input."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from small_models import small_model

import polyseme
from polyseme.errors import DataError, SettingsError
from polyseme.tasks import TASKS
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.predicting import evaluate, predict
from polyseme.tasks.predictions import (
    ClassificationPrediction,
    IntentPrediction,
    MultipleChoicePrediction,
    MultitaskPrediction,
    QAPrediction,
    RankingPrediction,
    RegressionPrediction,
    TaggingPrediction,
)
from polyseme.tasks.predictor import Predictor
from polyseme.tasks.together import finetune_together

FAST = {"threads": 1, "precision": "fp32", "epochs": 1, "batch_size": 4}
UTTERANCES = "好 B-x\n书 O\n要\n\n差 O\n书 O\n不\n"
QUESTION = {"question": "好吗", "context": "天气好不好", "answers": [{"text": "好", "answer_start": 2}]}
CHOICE = {"passage": "天气", "question": "好吗", "choices": ["好", "差"], "answer": 0}
TRAIN: dict[str, tuple[str, str]] = {
    "classification": ("a.csv", "id,内容,标签\n1,好书,正\n2,差书,负\n3,很好,正\n4,很差,负\n"),
    "regression": ("a.csv", "text_a,text_b,score\n好书,书,1\n差书,书,0\n"),
    "tagging": ("a.txt", "好 B-x\n书 I-x\n\n差 O\n书 B-x\n"),
    "intents": ("a.txt", UTTERANCES),
    "fused-intents": ("a.txt", UTTERANCES),
    "reading-comprehension": ("a.jsonl", json.dumps(QUESTION) + "\n"),
    "multiple-choice": ("a.jsonl", json.dumps(CHOICE) + "\n"),
    "ranking": ("a.csv", "query,document,label\n甲,好书,1\n乙,差书,0\n甲,差书,0\n乙,好书,1\n"),
}
INPUTS: dict[str, tuple[type[Any], list[Any]]] = {
    "classification": (ClassificationPrediction, ["好书", "", ("好", "差"), {"text": "很差"}]),
    "regression": (RegressionPrediction, [("好书", "书"), ["差书", "书"], {"text": "好", "pair": "书"}]),
    "tagging": (TaggingPrediction, ["好书", ["好", "书"], {"tokens": ["差"]}]),
    "intents": (IntentPrediction, ["好书", ["差", "书"], {"text": "好"}]),
    "fused-intents": (IntentPrediction, ["好书", {"tokens": ["好", "书"], "slots": ["B-x", "O"]}]),
    "reading-comprehension": (QAPrediction, [("好吗", "天气好不好"), {"question": "好吗", "context": "好"}]),
    "multiple-choice": (
        MultipleChoicePrediction,
        [
            ("好吗", ["好", "差"]),
            ("天气", "好吗", ["好", "差", "大"]),
            {"question": "q", "choices": ["a", "b"]},
        ],
    ),
    "ranking": (RankingPrediction, [("甲", ["好书", "差书"]), {"query": "乙", "candidates": ["书"]}]),
}


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A model of every task."""
    target = tmp_path_factory.mktemp("tasks")
    base = small_model(target, "bert", num_layers=1)
    made = {}
    for name, (file, content) in TRAIN.items():
        path = write(target / f"{name}.{file}", content)
        finetune(name, train=path, dev=path, model=base, out=target / name, **FAST)
        made[name] = target / name
    return made


def rows_of(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter, strict=True))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_answers_objects_in_memory(folders: Mapping[str, Path], name: str) -> None:
    kind, inputs = INPUTS[name]
    predictor = polyseme.Predictor.load(folders[name], threads=1)
    assert predictor.tasks == {name: name}
    together = predictor.predict(inputs)
    assert [type(one) for one in together] == [kind] * len(inputs)
    alone = [predictor.predict([one])[0] for one in inputs]
    assert [words(one) for one in alone] == [words(one) for one in together]
    assert predictor.predict([]) == []
    for wrong in ("好书", {"text": "好书"}):
        with pytest.raises(
            DataError, match=r"predict takes a list of inputs, got .*; write predict\(\[…\]\)"
        ):
            predictor.predict(wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"inputs\[1\] is nan; it must be"):
        predictor.predict([inputs[0], float("nan")])


def words(prediction: Any) -> Any:
    """What a prediction says in words and choices, without its numbers."""
    names = ("label", "labels", "entities", "tags", "intents", "answer", "choice", "order")
    found = {name: getattr(prediction, name, None) for name in names}
    return found | {"answer": getattr(found["answer"], "text", found["answer"]), "entities": None}


def test_a_prediction_is_that_of_the_file(folders: Mapping[str, Path], tmp_path: Path) -> None:
    texts = ["好书", "很差", "书"]
    predict(
        write(tmp_path / "a.txt", "\n".join(texts) + "\n"),
        model=folders["classification"],
        out=tmp_path / "a.jsonl",
        threads=1,
    )
    of_file = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    in_memory = Predictor.load(folders["classification"], threads=1).predict(texts)
    for plain, prediction in zip(of_file, in_memory, strict=True):
        assert isinstance(prediction, ClassificationPrediction)
        assert plain["label"] == prediction.label == prediction.labels[0]
        assert plain["probabilities"] == pytest.approx(prediction.probabilities, rel=1e-5)
        assert all(len(f"{share:g}".lstrip("0.")) <= 6 for share in plain["probabilities"].values())


def test_settings_of_the_task_are_given_by_name(folders: Mapping[str, Path]) -> None:
    predictor = Predictor.load(
        folders["reading-comprehension"], threads=1, task_settings={"n_best": 2}, batch_tokens=100
    )
    (answer,) = predictor.predict([("好吗", "天气好不好")])
    assert isinstance(answer, QAPrediction)
    assert len(answer.n_best) == 2
    with pytest.raises(SettingsError, match="n_worst is not a setting here"):
        Predictor.load(folders["reading-comprehension"], task_settings={"n_worst": 2})


def test_a_model_of_several_tasks_answers_all(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", TRAIN["classification"][1])
    scores = write(tmp_path / "b.csv", "text,score\n好书,1\n差书,0\n")
    tasks = {
        "mood": {"task": "classification", "train": str(path), "dev": str(path)},
        "stars": {"task": "regression", "train": str(scores), "dev": str(scores)},
    }
    base = small_model(tmp_path, "bert", num_layers=1)
    finetune_together(tasks, model=base, out=tmp_path / "both", **FAST)
    predictor = Predictor.load(tmp_path / "both", threads=1)
    assert predictor.tasks == {"mood": "classification", "stars": "regression"}
    first, second = predictor.predict(["好书", "差书"])
    assert isinstance(first, MultitaskPrediction)
    assert isinstance(first.predictions["mood"], ClassificationPrediction)
    assert isinstance(second.predictions["stars"], RegressionPrediction)
    count = predict(
        write(tmp_path / "new.csv", "id,text\n7,好书\n8,差书\n"),
        model=tmp_path / "both",
        out=tmp_path / "out.csv",
        threads=1,
    )
    found = rows_of(tmp_path / "out.csv")
    assert count == 2
    assert [row["id"] for row in found] == ["7", "8"]
    assert {"predicted_mood_label", "predicted_stars_score", "probability_mood_正"} <= found[0].keys()


NEW = 'id,内容,备注\n7,"大,""好""\n书",a\n8,差书,\n9,"",c\n'


@pytest.mark.parametrize(("name", "delimiter"), [("out.csv", ","), ("out.tsv", "\t")])
def test_a_table_has_the_rows_and_columns_of_the_input(
    folders: Mapping[str, Path], tmp_path: Path, name: str, delimiter: str
) -> None:
    path = write(tmp_path / "new.csv", NEW)
    assert predict(path, model=folders["classification"], out=tmp_path / name, threads=1) == 3
    found, given = rows_of(tmp_path / name, delimiter), rows_of(path)
    assert [{key: row[key] for key in given[0]} for row in found] == given
    assert list(found[0]) == ["id", "内容", "备注", "predicted_label", "probability_正", "probability_负"]
    assert all(row["predicted_label"] in ("正", "负") for row in found)
    assert all(len(row["probability_正"]) <= 9 for row in found)
    again = tmp_path / f"again.{name}"
    with pytest.raises(DataError, match="has a column 'predicted_label' already; choose the columns to keep"):
        predict(tmp_path / name, model=folders["classification"], out=again, threads=1)
    predict(tmp_path / name, model=folders["classification"], out=again, keep="id", threads=1)
    assert [row["id"] for row in rows_of(again, delimiter)] == ["7", "8", "9"]


@pytest.mark.parametrize(
    ("keep", "columns"),
    [("id, 内容", ["id", "内容"]), ("none", []), ("all", ["id", "内容", "备注"]), ("备注", ["备注"])],
)
def test_columns_to_keep_are_named(
    folders: Mapping[str, Path], tmp_path: Path, keep: str, columns: list[str]
) -> None:
    path = write(tmp_path / "new.csv", NEW)
    predict(path, model=folders["classification"], out=tmp_path / "a.csv", keep=keep, threads=1)
    assert [name for name in rows_of(tmp_path / "a.csv")[0] if "_" not in name] == columns
    predict(path, model=folders["classification"], out=tmp_path / "a.jsonl", keep=keep, threads=1)
    first = json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8").partition("\n")[0])
    assert list(first) == [*columns, "label", "probabilities"]


def test_columns_that_are_not_there_and_unknown_suffixes_are_refused(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "new.csv", NEW)
    with pytest.raises(DataError, match="no column 'text'; it has id, 内容, 备注"):
        predict(path, model=folders["classification"], out=tmp_path / "a.csv", keep="text", threads=1)
    for name in ("a.xlsx", "a.parquet", "a.txt"):
        with pytest.raises(SettingsError, match=r"predictions are written as \.jsonl, \.csv or \.tsv"):
            predict(path, model=folders["classification"], out=tmp_path / name, threads=1)
    assert [found.name for found in tmp_path.iterdir()] == ["new.csv"]
    with pytest.raises(SettingsError, match=r"a \.conll file has words and tags only"):
        predict(path, model=folders["tagging"], out=tmp_path / "a.conll", keep="id", threads=1)


def test_predictions_do_not_replace_the_file_that_they_are_of(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "new.csv", NEW)
    with pytest.raises(DataError, match="is the file that is read; name another for the predictions"):
        predict(path, model=folders["classification"], out=path, threads=1)
    assert path.read_text(encoding="utf-8") == NEW


def test_pairs_of_a_query_keep_the_order_of_the_file(folders: Mapping[str, Path], tmp_path: Path) -> None:
    path = write(tmp_path / "new.csv", "id,query,document\n1,甲,好书\n2,乙,差书\n3,甲,差书\n4,乙,好\n")
    predict(path, model=folders["ranking"], out=tmp_path / "a.csv", threads=1)
    found = rows_of(tmp_path / "a.csv")
    assert [row["id"] for row in found] == ["1", "2", "3", "4"]
    assert sorted(row["predicted_rank"] for row in found) == ["1", "1", "2", "2"]
    (first,) = Predictor.load(folders["ranking"], threads=1).predict([("甲", ["好书", "差书"])])
    assert isinstance(first, RankingPrediction)
    scores = [float(found[number]["predicted_score"]) for number in (0, 2)]
    assert scores == pytest.approx(first.scores, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "file", "content", "columns"),
    [
        (
            "tagging",
            "a.txt",
            "好书\n差书\n",
            ["text", "predicted_entities", "predicted_words", "predicted_tags"],
        ),
        ("tagging", "a.jsonl", '{"id": 3, "text": "好书"}\n', ["id", "text", "predicted_entities"]),
        ("intents", "a.txt", "好书\n", ["text", "predicted_intent", "predicted_slots", "probability_不"]),
        (
            "reading-comprehension",
            "a.jsonl",
            json.dumps(QUESTION) + "\n",
            ["id", "question", "context", "predicted_answer", "predicted_start"],
        ),
        (
            "multiple-choice",
            "a.jsonl",
            json.dumps(CHOICE) + "\n",
            ["id", "passage", "question", "predicted_choice", "predicted_answer"],
        ),
        (
            "regression",
            "a.csv",
            "编号,text_a,text_b\n5,好,书\n",
            ["编号", "text_a", "text_b", "predicted_score"],
        ),
    ],
)
def test_other_tasks_write_tables_too(
    folders: Mapping[str, Path], tmp_path: Path, name: str, file: str, content: str, columns: Sequence[str]
) -> None:
    path = write(tmp_path / file, content)
    count = predict(path, model=folders[name], out=tmp_path / "out.csv", threads=1)
    found = rows_of(tmp_path / "out.csv")
    assert len(found) == count == content.count("\n") - (file == "a.csv")
    assert list(found[0])[: len(columns)] == list(columns)


def test_what_was_true_of_the_training_files_does_not_stick_to_the_model(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("编号,评论内容,情感\n1,好书,正\n2,差书,负\n".encode("gb18030"))
    base = small_model(tmp_path, "bert", num_layers=1)
    own = {"text_column": "评论内容", "label_column": "情感", "encoding": "gb18030"}
    finetune("classification", train=path, dev=path, model=base, out=tmp_path / "tuned", **own, **FAST)
    lines = write(tmp_path / "new.txt", "好书\n差书\n")
    assert predict(lines, model=tmp_path / "tuned", out=tmp_path / "out.csv", threads=1) == 2
    assert [row["text"] for row in rows_of(tmp_path / "out.csv")] == ["好书", "差书"]
    with pytest.raises(DataError, match="is not utf-8"):
        evaluate("classification", path, model=tmp_path / "tuned", threads=1)
    report = evaluate("classification", path, model=tmp_path / "tuned", threads=1, encoding="gb18030")
    assert report["examples"] == 2
