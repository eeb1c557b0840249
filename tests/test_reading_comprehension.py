"""Reading comprehension: questions are read, answered by windows, scored, and kept in folders of others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounding import ONE_IN_SIX_DIGITS
from small_models import CHARACTERS, characters, small_model

from polyseme.checkpoints.formats import format_of
from polyseme.cli import main
from polyseme.errors import CheckpointError, DataError, SettingsError
from polyseme.models.transformer.config import TransformerConfig
from polyseme.tasks.answer_settings import ReadingSettings
from polyseme.tasks.finetuning import Outcome, finetune
from polyseme.tasks.predicting import evaluate, predict
from polyseme.tasks.questions import Question, Span
from polyseme.tasks.reading_comprehension import ReadingComprehension
from polyseme.tasks.spans import best_spans, null_score
from polyseme.tasks.task import ByToken, Inventory
from polyseme.text.tokenizer import Tokenizer

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FAST = {"threads": 1, "precision": "fp32", "learning_rate": 5e-3, "batch_size": 16, "epochs": 1}


def write(path: Path, articles: list[Any]) -> Path:
    path.write_text(json.dumps({"version": "x", "data": articles}, ensure_ascii=False), encoding="utf-8")
    return path


def article(context: str, *questions: dict[str, Any]) -> dict[str, Any]:
    return {"title": "题", "paragraphs": [{"context": context, "qas": list(questions)}]}


def question(id: str, text: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    given = [{"text": answer, "answer_start": start} for answer, start in answers]
    return {"id": id, "question": text, "answers": given, **more}


def made_up(path: Path, count: int, *, seed: int, longest: int = 60) -> Path:
    """The answer is the passage's digits, or none without them; 是 is answered by yes for 好, no for 差."""
    rng = np.random.default_rng(seed)
    rest = [character for character in CHARACTERS if character not in "好差是"]
    articles = []
    for number in range(count):
        passage = list(rng.choice(rest, int(rng.integers(8, longest))))
        place = int(rng.integers(0, len(passage)))
        kind = number % 4
        id = f"{seed}-{number}"
        if kind == 0:
            asked = question(id, "多少", ("", -1), is_impossible="true")
        elif kind == 1:
            passage[0] = "好差"[number % 8 // 4]
            asked = question(id, "是", (("YES", "NO")[number % 8 // 4], -1))
        else:
            digits = str(rng.integers(10, 1000))
            passage[place:place] = list(digits)
            asked = question(id, "多少", (digits, place), (digits, place))
        articles.append(article("".join(passage), asked))
    return write(path, articles)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return characters(tmp_path_factory.mktemp("characters"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("reading")
    made_up(target / "train.json", 480, seed=0, longest=24)
    made_up(target / "dev.json", 80, seed=1)
    small_model(target, "bert")
    return target


def tuned(folder: Path, out: Path | None, **options: Any) -> Outcome:
    return finetune(
        "reading-comprehension",
        train=folder / "train.json",
        dev=folder / "dev.json",
        model=folder / "bert",
        out=out,
        **{**FAST, **options},
    )


@pytest.fixture(scope="module")
def reader(folder: Path) -> Path:
    out = folder / "tuned"
    outcome = tuned(folder, out, epochs=8)
    assert outcome.dev["exact_match"].mean > 0.6
    return out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_fine_tuned_folder_scores_as_it_did_in_training(reader: Path, folder: Path) -> None:
    report = evaluate("reading-comprehension", folder / "dev.json", model=reader, threads=1)
    best = max(line["dev"]["f1"] for line in lines(reader / "journal.jsonl"))
    assert report["f1"] == pytest.approx(best, abs=1e-9)
    assert report["rule"] == "cjrc"
    assert {kind: table["support"] for kind, table in report["labels"].items()} == {
        "none": 20,
        "YES": 10,
        "NO": 10,
        "span": 40,
    }
    assert report["labels"]["span"]["f1"] > 0.5


def test_answers_are_characters_of_the_passage_and_share_the_probability(reader: Path, folder: Path) -> None:
    assert predict(folder / "dev.json", model=reader, out=folder / "a.jsonl", threads=1, n_best=5) == 80
    articles = json.loads((folder / "dev.json").read_text("utf-8"))["data"]
    passages = [one["paragraphs"][0]["context"] for one in articles]
    kinds = set()
    for number, (answer, passage) in enumerate(zip(lines(folder / "a.jsonl"), passages, strict=True)):
        assert answer["id"] == f"1-{number}"
        assert len(answer["n_best"]) == 5
        assert sum(one["probability"] for one in answer["n_best"]) == pytest.approx(1)
        scores = [one["score"] for one in answer["n_best"]]
        assert scores == sorted(scores, reverse=True)
        assert answer["n_best"][0] == {key: answer[key] for key in answer["n_best"][0]}
        for one in answer["n_best"]:
            kinds.add(one["answer"] if one["start"] is None else "span")
            if one["start"] is not None:
                assert passage[one["start"] : one["end"]] == one["answer"] != ""
        places = [(one["answer"], one["start"], one["end"]) for one in answer["n_best"]]
        assert len(set(places)) == 5
    assert kinds == {"span", "", "YES", "NO"}


def test_a_question_gets_the_same_answer_alone_and_among_others(reader: Path, folder: Path) -> None:
    for name, tokens in (("alone", 1), ("together", 20_000)):
        predict(folder / "dev.json", model=reader, out=folder / name, batch_tokens=tokens, threads=1)
    for alone, together in zip(lines(folder / "alone"), lines(folder / "together"), strict=True):
        assert (alone["id"], alone["answer"]) == (together["id"], together["answer"])
        assert alone["score"] == pytest.approx(together["score"], rel=ONE_IN_SIX_DIGITS)


def test_transformers_finds_the_same_spans_in_the_folder(reader: Path, folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(reader).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(reader)
    text, passage = "多少", "房间好远在12很大的山上是不"
    (folder / "one.jsonl").write_text(json.dumps({"question": text, "context": passage}), encoding="utf-8")
    predict(folder / "one.jsonl", model=reader, out=folder / "one.predicted.jsonl", threads=1, no_answer="no")
    spans = [one for one in lines(folder / "one.predicted.jsonl")[0]["n_best"] if one["start"] is not None]
    encoded = tokenizer(text, passage, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        said = theirs(**encoded)
    first = encoded["input_ids"][0].tolist().index(tokenizer.sep_token_id) + 1
    for one in spans[:5]:
        begin = next(n for n in range(first, len(offsets)) if offsets[n][0] == one["start"])
        end = next(n for n in range(begin, len(offsets)) if offsets[n][1] == one["end"])
        score = float(said.start_logits[0, begin] + said.end_logits[0, end])
        assert one["score"] == pytest.approx(score, abs=1e-4)


def test_the_threshold_of_dev_goes_with_the_folder_and_another_may_be_given(
    reader: Path, folder: Path
) -> None:
    counts = {}
    for name, chosen in (("of-dev", None), ("never", 1e6), ("always", -1e6)):
        predict(folder / "dev.json", model=reader, out=folder / name, threads=1, null_threshold=chosen)
        counts[name] = sum(answer["answer"] == "" for answer in lines(folder / name))
    assert counts["never"] == 0 < counts["of-dev"] < counts["always"] == 80


def brute_spans(output: ByToken, passage: str, max_length: int) -> dict[tuple[int, int], float]:
    """Every span of every window whose beginning the window owns."""
    best: dict[tuple[int, int], float] = {}
    rows = list(zip(output.tokens.tolist(), output.places.tolist(), strict=True))
    for i, ((begins, _), (window, start, _, owned)) in enumerate(rows):
        for (_, ends), (other, from_, stop, _) in rows[i : i + max_length]:
            if window == other and owned and start >= 0 and from_ >= 0:
                key = (start, stop)
                best[key] = max(best.get(key, -np.inf), begins + ends)
    return best


def test_the_best_spans_are_those_of_all_spans(tokenizer: Tokenizer) -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        passage = "".join(rng.choice(list(CHARACTERS), int(rng.integers(1, 40))))
        task = ReadingComprehension(ReadingSettings(overlap=int(rng.integers(0, 9))))
        asked = Question("", "多少", passage, None, None, "", "")
        rows = task.encode(
            asked, tokenizer, Inventory(labels=("span",)), max_length=int(rng.integers(20, 30))
        )
        assert all(row.asked is not None and row.places is not None for row in rows)
        places = np.concatenate([row.places for row in rows if row.places is not None])
        output = ByToken(rng.normal(size=(len(places), 2)).astype(np.float32), None, places)
        longest = int(rng.integers(1, 12))
        expected = brute_spans(output, passage, longest)
        found = best_spans(output, passage, count=7, max_length=longest)
        assert [round(one.score, 5) for one in found] == [
            round(score, 5) for score in sorted(expected.values(), reverse=True)[:7]
        ]
        assert all(expected[one.start, one.stop] == pytest.approx(one.score, abs=1e-5) for one in found)
        null = places[:, 1] < 0
        assert null.sum() == len(rows)
        assert null_score(output) == pytest.approx(float(output.tokens[null].sum(axis=1).min()), abs=1e-6)
        # Every token begins a span of exactly one window.
        owned = [(start, stop) for _, start, stop, own in places[~null].tolist() if own]
        assert sorted(owned) == sorted(set(owned))
        assert len(owned) == len(passage)


def test_a_window_with_the_answer_learns_its_place_and_one_without_learns_that_there_is_none(
    tokenizer: Tokenizer,
) -> None:
    passage = "的" * 30 + "12" + "了" * 10
    task = ReadingComprehension(ReadingSettings(overlap=4))
    asked = Question("", "多少", passage, ("12",), Span(30, 32), "", "")
    rows = task.encode(asked, tokenizer, Inventory(labels=("span", "none", "NO", "YES")), max_length=26)
    assert len(rows) > 1
    for row in rows:
        assert row.label is not None
        held = "".join(tokenizer.tokens(row.input_ids)).replace("##", "")
        begin, end = (row.label - 2).tolist()
        if "12" in held:
            assert tokenizer.tokens(row.input_ids[begin : end + 1]) in (["1", "##2"], ["12"])
        else:
            assert (begin, end) == (0, 0)
    yes = Question("", "是", passage, ("YES",), "YES", "", "")
    for row in task.encode(yes, tokenizer, Inventory(labels=("span", "NO", "YES")), max_length=26):
        assert row.label is not None
        assert row.label.tolist() == [1, 1]


BROKEN: dict[str, tuple[Any, str]] = {
    "place": (question("q", "谁", ("李", 0)), r"question q: the answer '李' is not in the passage at char"),
    "nowhere": (question("q", "谁", ("李", -1)), r"question q: the answer '李' is not in the passage"),
    "no answers": ({"id": "q", "question": "谁"}, "question q: there are no answers"),
    "answers": ({"id": "q", "question": "谁", "answers": "张"}, "question q: answers is '张'; it must be a"),
    "start": (question("q", "谁", ("张", 1.5)), "question q: .* is no answer; it needs a text and a whole"),  # type: ignore[arg-type]
    "blank": (question("q", " ", ("张", 0)), "question q: question is ' '; it must be a text, and not empty"),
    "kind": ("谁", "'谁' stands where an object with a question must"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_questions_are_named_and_left_out_on_demand(name: str, folder: Path, tmp_path: Path) -> None:
    broken, message = BROKEN[name]
    good = json.loads((folder / "train.json").read_text("utf-8"))["data"][:40]
    train = write(tmp_path / "train.json", [*good, article("张三在此", broken)])

    def tune(**options: Any) -> Outcome:
        return finetune(
            "reading-comprehension",
            train=train,
            dev=folder / "dev.json",
            model=folder / "bert",
            out=None,
            **{**FAST, **options},
        )

    with pytest.raises(DataError, match=f"train.json, .*{message}"):
        tune()
    outcome = tune(skip_bad=True)
    assert outcome.examples == 40
    assert len(outcome.left_out) == 1


def test_places_have_no_class_weights(folder: Path) -> None:
    with pytest.raises(SettingsError, match="class_weights are for tasks whose labels are classes"):
        tuned(folder, None, class_weights=("balanced",))


def test_answers_out_of_place_may_be_scored(reader: Path, folder: Path) -> None:
    dev = write(folder / "odd.json", [article("张三在此", question("q", "谁", ("王", -1)))])
    report = evaluate("reading-comprehension", dev, model=reader, threads=1)
    assert report["examples"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ('"text"', "must be a list"),
        ('{"data": 3}', "data is '3'; it must be a list"),
        ('{"data": [3]}', "item 1: '3' stands where an object must"),
        ('{"data": [{"paragraphs": 3}]}', "item 1: paragraphs is '3'; it must be a list"),
    ],
)
def test_broken_files_are_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=f"f.json.*{message}"):
        list(ReadingComprehension().read(path, labelled=True))


def test_every_form_of_file_gives_the_same_questions(tmp_path: Path) -> None:
    squad = write(tmp_path / "a.json", [article("张三在此", question("q1", "谁", ("张三", 0)))])
    flat = tmp_path / "b.jsonl"
    row = {"id": "q1", "context": "张三在此", "question": "谁"}
    answers = {"text": ["张三"], "answer_start": [0]}
    flat.write_text(json.dumps(row | {"answers": answers}) + "\n\n", encoding="utf-8")
    own = tmp_path / "c.json"
    asked = {"query_text": "谁", "query_id": "q1", "answers": ["张三"]}
    own.write_text(json.dumps([{"context_text": "张三在此", "qas": [asked]}]), encoding="utf-8")
    task = ReadingComprehension()
    found = [next(iter(task.read(path, labelled=True))) for path in (squad, flat, own)]
    for one in found:
        assert (one.id, one.text, one.passage, one.gold) == ("q1", "谁", "张三在此", ("张三",))
        assert one.lesson == Span(0, 2)
    assert next(iter(task.read(squad, labelled=False))).gold is None


def test_families_without_a_reader_and_too_short_rows_are_refused(tokenizer: Tokenizer) -> None:
    config = TransformerConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8)
    with pytest.raises(CheckpointError, match="a gpt2 folder cannot hold a reader of passages"):
        ReadingComprehension().reading(config, format_of("gpt2"))
    asked = Question("", "多少" * 20, "张三在此", None, None, "", "")
    with pytest.raises(SettingsError, match="max_length 40 leaves 0 tokens of the passage beside a question"):
        ReadingComprehension().encode(asked, tokenizer, Inventory(labels=("span",)), max_length=40)


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_the_published_files_are_read_whole() -> None:
    task = ReadingComprehension()
    dev = list(task.read(DATA / "tasks_zh/cmrc2018/cmrc2018_dev.json.xz", labelled=True))
    assert len(dev) == 3219
    assert sum(example.lesson is None for example in dev) == 3
    cjrc = list(task.read(DATA / "tasks_zh/cjrc/dev_ground_truth.json.xz", labelled=True))
    assert task.fit(cjrc).labels == ("span", "none", "NO", "YES")


def test_commands_take_the_options_of_the_models_task(
    reader: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(folder / "dev.json"), "--model", str(reader), "--threads", "1"]
    assert main(["predict", *words, "--out", str(folder / "three"), "--n-best", "3"]) == 0
    assert {len(answer["n_best"]) for answer in lines(folder / "three")} == {3}
    assert main(["evaluate", "reading-comprehension", *words, "--rule", "squad2"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("f1", "exact_match", "none", "span", "support"))
    assert main(["evaluate", "classification", *words]) == 2
    assert "was fine-tuned for reading-comprehension, not for classification" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["predict", *words, "--help"])
    assert "--null-threshold" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["finetune", "reading-comprehension", "--help"])
    assert "--max-answer-length" in capsys.readouterr().out


def test_a_reader_of_another_library_answers_with_its_spans(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = characters(tmp_path / "theirs")
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=48,
    )
    # Always the same weights: some would answer with a mark of punctuation, which counts as no answer.
    torch.manual_seed(0)
    transformers.BertForQuestionAnswering(config).save_pretrained(tmp_path / "theirs")
    report = evaluate("reading-comprehension", folder / "dev.json", model=tmp_path / "theirs", threads=1)
    assert report["examples"] == 80
    assert report["labels"]["none"]["f1"] == 0
    report = evaluate(
        "reading-comprehension",
        folder / "dev.json",
        model=tmp_path / "theirs",
        threads=1,
        no_answer="yes",
        null_threshold=-1e6,
    )
    assert report["labels"]["none"]["f1"] == 1
