"""Labelled files as data sets and annotation tools publish them, and the baselines that read them."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_models import CHARACTERS, characters

from polyseme.errors import DataError, SettingsError
from polyseme.evaluation.baselines import tfidf
from polyseme.records import from_plain
from polyseme.tasks.classification import Classification, Labelling
from polyseme.tasks.labelled_texts import LabelledText
from polyseme.tasks.settings import ClassificationSettings
from polyseme.tasks.skipping import leaving_out

DATA = Path(__file__).parents[2] / "shared" / "data"


def task(**options: object) -> Classification:
    return Classification(from_plain(options, ClassificationSettings, where="test"))


def read(path: Path, *, labelled: bool = True, **options: object) -> list[LabelledText]:
    return list(task(**options).read(path, labelled=labelled))


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_lines_may_begin_with_their_label(tmp_path: Path) -> None:
    path = write(tmp_path / "TREC", "DESC:manner How did it end ?\nNUM:date When ?\n")
    (first, second) = read(path, label_first=True)
    assert (first.text, first.labels) == ("How did it end ?", ("DESC:manner",))
    assert read(path, label_first=True, label_until=":")[1].labels == ("NUM",)
    assert second.where == f"{path}, line 2"
    assert read(path, label_first=True, labelled=False)[0].labels is None
    with pytest.raises(DataError, match=r"say --label-first where every line begins with its label"):
        read(path)
    bad = write(tmp_path / "bad", "1 good\n0\n")
    with pytest.raises(DataError, match=r"bad, line 2: '0' is not a label, a blank and a text"):
        read(bad, label_first=True)
    with leaving_out(True) as left:
        assert len(read(bad, label_first=True)) == 1
    assert len(left.errors) == 1


def test_colas_columns_are_named_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "cola.tsv", "gj04\t1\t\tThe sailors rode.\nks08\t0\t*\tHim slept.\n")
    examples = read(path, text_column="3", label_column="1")
    assert [(e.text, e.labels) for e in examples] == [("The sailors rode.", ("1",)), ("Him slept.", ("0",))]


def test_the_names_of_mrpc_and_sick_are_known(tmp_path: Path) -> None:
    mrpc = write(tmp_path / "a.tsv", 'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA "x\tB\n')
    sick = write(
        tmp_path / "b.txt",
        "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n1\tA\tB\t4.5\tNEUTRAL\n",
    )
    assert [(e.text, e.pair, e.labels) for e in read(mrpc) + read(sick)] == [
        ('A "x', "B", ("1",)),
        ("A", "B", ("NEUTRAL",)),
    ]


def test_exports_of_annotation_tools_are_read(tmp_path: Path) -> None:
    doccano = write(tmp_path / "d.jsonl", '{"id": 1, "text": "好书", "label": ["正"]}\n')
    studio = [
        {"id": 1, "data": {"text": "好书"}, "annotations": [
            {"was_cancelled": True, "result": []},
            {"result": [{"type": "choices", "value": {"choices": ["正"]}}]},
        ]},
        {"id": 2, "data": {"text": "坏书"}, "annotations": [
            {"result": [{"type": "choices", "value": {"choices": ["负", "短"]}}]},
        ]},
    ]  # fmt: skip
    path = write(tmp_path / "s.json", json.dumps(studio, ensure_ascii=False, indent=1))
    assert read(doccano)[0].labels == ("正",)
    assert [e.labels for e in read(path, several=True)] == [("正",), ("负", "短")]
    with pytest.raises(DataError, match=r"s\.json, object 2: label is \['负', '短'\]; every text here needs"):
        read(path)
    studio[0]["annotations"] = []
    write(path, json.dumps(studio))
    with pytest.raises(DataError, match="object 1: no annotation that was not cancelled"):
        read(path, several=True)


def test_words_in_context_are_marked_and_their_tags_lie_beside(tmp_path: Path) -> None:
    objects = [
        {"id": "a.0", "sentence1": "the bank fell", "sentence2": "a bank", "start1": "4", "end1": "8"}
        | {"start2": "2", "end2": "6"},
        {
            "id": "a.1",
            "sentence1": "pick it up",
            "sentence2": "上升了",
            "ranges1": "0-4,8-10",
            "ranges2": "0-2",
        },
    ]
    path = write(tmp_path / "a.data", json.dumps(objects, indent=4))
    assert [e.labels for e in read(path, labelled=False)] == [None, None]
    with pytest.raises(DataError, match=r"has its labels in a\.gold, which is missing beside it"):
        read(path)
    write(tmp_path / "a.gold", json.dumps([{"id": "a.0", "tag": "T"}, {"id": "a.1", "tag": "F"}]))
    assert [(e.text, e.pair, e.labels) for e in read(path)] == [
        ('the "bank" fell', 'a "bank"', ("T",)),
        ('"pick" it "up"', '"上升"了', ("F",)),
    ]
    objects[1]["ranges2"] = "0-9"
    write(path, json.dumps(objects, indent=4))
    with pytest.raises(DataError, match=r"object 2: the characters 0-9 do not lie in sentence2"):
        read(path)


def test_an_empty_text_to_learn_from_names_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\n好\t1\n \t0\n")
    with pytest.raises(DataError, match=r"line 3: text is empty; an example to learn from needs a text"):
        read(path)
    assert read(path, labelled=False)[1].text == " "


def test_a_list_that_is_broken_names_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[\n{"text": "a", "label": 1},\n')
    with pytest.raises(DataError, match=r"a\.json: not a list of JSON objects"):
        read(path)


def test_single_labels_are_scored_by_matthews_too() -> None:
    examples = [LabelledText("x", None, (label,), "") for label in "0011"]
    answers = [Labelling((label,), {}) for label in "0111"]
    scores = task().score(answers, examples)
    assert scores["matthews"] == pytest.approx((1 * 2 - 0 * 1) / (1 * 2 * 2 * 3) ** 0.5)
    assert "matthews" not in task(several=True).score(answers, examples)


def test_long_documents_are_read_by_windows_that_cover_them(tmp_path: Path) -> None:
    tokenizer = characters(tmp_path / "t")
    text = CHARACTERS[:100]
    own = task(long_texts="windows")
    example = LabelledText(text, None, ("0",), "")
    inventory = own.fit([example, LabelledText("x", None, ("1",), "")])
    rows = own.encode(example, tokenizer, inventory, max_length=32)
    seen = {token for row in rows for token in row.input_ids.tolist()}
    assert {tokenizer.encode(c).ids[0] for c in text} <= seen
    assert all(len(row.input_ids) <= 32 and row.cut == 0 for row in rows)
    (cut,) = task().encode(example, tokenizer, inventory, max_length=32)
    assert cut.cut == 70
    scores = [np.array([[4.0, 0.0], [0.0, 1.0], [0.0, 1.0]], np.float32)]
    assert own.decode(scores, [example], inventory)[0].labels == ("0",)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(SettingsError, match="label_until must not be empty"):
        task(label_until="")


def test_baselines_read_pairs_and_several_labels() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)

    def text() -> str:
        return "".join(rng.choice(list(CHARACTERS[:60]), 8))

    pairs = []
    for number in range(120):
        one = text()
        pairs.append(LabelledText(one, one[::-1] if number % 2 else text(), (str(number % 2),), ""))
    joined = tfidf(pairs[:80], pairs[80:], longest=1)
    compared = tfidf(pairs[:80], pairs[80:], longest=1, pairs="compared")
    assert compared.dev["accuracy"] > 0.9 > joined.dev["accuracy"]
    several = []
    for number in range(260):
        names = tuple(name for name, bit in (("甲", 1), ("乙", 2)) if number & bit)
        several.append(LabelledText(text() + "".join(names), None, names, ""))
    scores = tfidf(several[:200], several[200:], several[200:], several=True)
    assert scores.dev["micro_f1"] > 0.9
    assert scores.test == scores.dev


@pytest.mark.skipif(not DATA.exists(), reason="shared/data is not here")
@pytest.mark.parametrize(
    ("file", "options", "count", "pair", "labels"),
    [
        ("tasks_en/sst2/stsa.binary.dev", {"label_first": True}, 872, False, 2),
        (
            "tasks_en/trec/TREC.train",
            {"label_first": True, "label_until": ":", "encoding": "latin-1"},
            5452,
            False,
            6,
        ),
        ("tasks_en/cola/in_domain_dev.tsv", {"text_column": "3", "label_column": "1"}, 527, False, 2),
        ("tasks_en/mrpc/msr-para-val.tsv", {}, 500, True, 2),
        ("tasks_en/mcl_wic/dev.zh-zh.data", {}, 1000, True, 2),
        ("tasks_en/mcl_wic/test.en-zh.data", {}, 1000, True, 2),
        ("tasks_en/mcl_wic/training.en-en.data.xz", {}, 8000, True, 2),
        ("tasks_zh/afqmc/dev.txt", {}, 4316, True, 2),
        ("tasks_zh/snli_zh/dev.txt.xz", {}, 9314, True, 3),
        ("tasks_zh/pawsx_zh/dev_2k.tsv", {}, 2000, True, 2),
        ("tasks_zh/smp2020_ewect/virus/dev.tsv", {}, 2000, False, 6),
    ],
)
def test_the_published_files_are_read_with_few_options(
    file: str, options: dict[str, object], count: int, pair: bool, labels: int
) -> None:
    examples = read(DATA / file, **options)
    assert len(examples) == count
    assert all((example.pair is not None) == pair for example in examples)
    assert len(Counter(example.labels for example in examples)) == labels
