"""What readers of tables take for header, text and label, and what they ask for instead of guessing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reporters import Said

from polyseme.errors import DataError, PolysemeError, SettingsError
from polyseme.progress import reporting
from polyseme.records import from_plain
from polyseme.tasks.classification import Classification, Labelling
from polyseme.tasks.labelled_texts import LabelledText
from polyseme.tasks.settings import ClassificationSettings
from polyseme.tasks.task import make_task
from polyseme.text.column_names import NAMES, known_as


def task(**options: object) -> Classification:
    return Classification(from_plain(options, ClassificationSettings, where="test"))


def read(path: Path, *, labelled: bool = True, **options: object) -> list[LabelledText]:
    return list(task(**options).read(path, labelled=labelled))


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def said(action: Callable[[], Any]) -> list[str]:
    reporter = Said()
    with reporting(reporter):
        action()
    return reporter.lines


@pytest.mark.parametrize(
    ("header", "row", "text", "pair", "label"),
    [
        ("内容,标签", "好评,正面", "好评", None, "正面"),
        ("标签,评论", "正面,好评", "好评", None, "正面"),
        ("编号,评论内容,情感", "1,好评,正面", "好评", None, "正面"),
        ("id,comment,sentiment", "1,好评,正面", "好评", None, "正面"),
        ("标题,正文,类别", "新闻,好评,正面", "好评", None, "正面"),
        ("句子1,句子2,标签", "好评,差评,0", "好评", "差评", "0"),
        ("ID,Title,Class", "1,好评,正面", "好评", None, "正面"),
    ],
)
def test_a_header_in_chinese_or_english_is_no_example(
    tmp_path: Path, header: str, row: str, text: str, pair: str | None, label: str
) -> None:
    (example,) = read(write(tmp_path / "a.csv", f"{header}\n{row}\n"))
    assert (example.text, example.pair, example.labels) == (text, pair, (label,))


@pytest.mark.parametrize(
    ("name", "header", "row", "read_as"),
    [
        ("regression", "文本,得分", "好评,3", ("好评", 3.0)),
        ("ranking", "问题,答案,相关性", "甲,乙,1", ("甲", (1.0,))),
    ],
)
def test_other_readers_of_tables_know_the_same_names(
    tmp_path: Path, name: str, header: str, row: str, read_as: tuple[object, ...]
) -> None:
    (example,) = make_task(name, {}).read(write(tmp_path / "a.csv", f"{header}\n{row}\n"), labelled=True)
    assert (example.text, getattr(example, "score", None) or getattr(example, "grades", None)) == read_as


@pytest.mark.parametrize(
    ("name", "plain", "first"),
    [
        ("multiple-choice", {"文章": "天气", "问题": "怎样", "选项": ["好", "坏"], "答案": "坏"}, "天气"),
        ("reading-comprehension", {"段落": "天气好", "问题": "怎样", "答案": ["好"]}, "怎样"),
        ("intents", {"句子": "开灯", "槽位": {}, "意图": "开"}, "开灯"),
        ("tagging", {"文本": "他在北京", "实体": [[2, 4, "LOC"]]}, "他在北京"),
    ],
)
def test_keys_in_chinese_are_known_in_objects(
    tmp_path: Path, name: str, plain: dict[str, object], first: str
) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps(plain, ensure_ascii=False) + "\n")
    (example,) = make_task(name, {}).read(path, labelled=True)
    texts = [getattr(one, "text", None) for one in (example, getattr(example, "tagged", None))]
    assert first in (*texts, getattr(example, "passage", None))


def test_no_name_is_known_twice_and_case_does_not_matter() -> None:
    for role, names in NAMES.items():
        assert len({name.casefold() for name in names}) == len(names), role
    assert known_as("text", ["ID", " CONTENT "]) is not None


def test_the_column_of_the_texts_to_answer_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "new.csv", 'id,内容\n7,"大,好"\n8,差\n')
    assert [example.text for example in read(path, labelled=False)] == ["大,好", "差"]


DOUBTFUL = {
    "a label of no other row": "评语栏,等级\n房间很大服务好,优\n早餐差,良\n楼道太吵,优\n",
    "a number below": "货号,说明\n1,房间很大\n2,早餐差\n",
    "a score below": "话,值\n好,3\n坏,1\n",
}


@pytest.mark.parametrize("why", DOUBTFUL)
@pytest.mark.parametrize("name", ["classification", "regression", "ranking"])
def test_a_first_row_that_may_be_a_header_is_asked_for(tmp_path: Path, why: str, name: str) -> None:
    path = write(tmp_path / "a.csv", DOUBTFUL[why])
    with pytest.raises(
        DataError, match=r"line 1: .* may be an example or the names .*--header no, or --header"
    ):
        list(make_task(name, {}).read(path, labelled=True))


def test_the_options_decide_a_doubtful_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", DOUBTFUL["a label of no other row"])
    assert len(read(path, header="no")) == 4
    named = read(path, header="yes", text_column="评语栏", label_column="等级")
    assert [example.labels for example in named] == [("优",), ("良",), ("优",)]
    assert len(read(path, text_column="评语栏", label_column="等级")) == 3
    numbers = write(tmp_path / "b.csv", DOUBTFUL["a number below"])
    with pytest.raises(DataError, match="all rows below have a number in the place of '货号'"):
        read(numbers, labelled=False)


def test_examples_without_a_header_are_no_doubt(tmp_path: Path) -> None:
    for content in (
        "很好\t正\n不好\t负\n好\t正\n坏\t负\n",
        "问题\t投诉\n很好\t表扬\n慢\t投诉\n问题\t投诉\n",
        "好\t1\n坏\t0\n",
    ):
        assert len(read(write(tmp_path / "a.tsv", content))) == content.count("\n")


def test_two_columns_that_may_be_the_label_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,category,sentiment\n好,a,b\n")
    with pytest.raises(
        DataError, match="may be the label: category, sentiment; name one with --label-column"
    ):
        read(path)
    assert read(path, label_column="sentiment")[0].labels == ("b",)


READINGS = {
    "classification": ("a.csv", "id,内容,标签\n1,好评,正面\n", ["text 内容", "label 标签", "'好评' → 正面"]),
    "regression": ("a.tsv", "好评\t差评\t3\n", ["no header", "pair column 1", "'好评' and '差评' → 3"]),
    "ranking": ("a.csv", "query,document,label\n甲,乙,1\n", ["query query", "candidate document", "'甲'"]),
    "tagging": ("a.txt", "张 B-PER\n三 I-PER\n", ["words in column 0", "张/B-PER 三/I-PER"]),
    "intents": ("a.txt", "灯 B-x\n开\n", ["slots in column 1", "'灯' → 开"]),
    "multiple-choice": ("a.jsonl", '{"question": "q", "choices": ["a", "b"], "answer": 1}\n', ["→ 'b'"]),
    "reading-comprehension": (
        "a.jsonl",
        '{"question": "q", "context": "好", "answers": ["好"]}\n',
        ["question 'q'", "→ '好'"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READINGS)
def test_every_reader_says_what_it_took_for_what(tmp_path: Path, name: str) -> None:
    file, content, parts = READINGS[name]
    path = write(tmp_path / file, content)
    (line,) = said(lambda: list(make_task(name, {}).read(path, labelled=True)))
    assert line.startswith(f"{path}: ")
    assert [part for part in parts if part not in line] == []


def labels_of(*labels: str) -> list[LabelledText]:
    return [LabelledText("x", None, (label,), "") for label in labels]


@pytest.mark.parametrize(
    ("labels", "doubtful"),
    [
        (["-", "neutral", "entailment"], "-"),
        (["-1", "0", "1"], "-1"),
        (["-1.0", "0.0", "1.0"], "-1.0"),
        (["-1", "1"], None),
        (["-2", "-1", "0", "1"], None),
    ],
)
def test_a_label_that_stands_for_none_is_no_class(labels: list[str], doubtful: str | None) -> None:
    if doubtful is None:
        assert len(task().fit(labels_of(*labels)).labels) == len(labels)
        return
    with pytest.raises(DataError, match=f"label '{doubtful}' of 1 examples.*--skip-label {doubtful}"):
        task().fit(labels_of(*labels))
    assert len(task(skip_label="none").fit(labels_of(*labels)).labels) == len(labels)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classification", "text\tlabel\n好\t-\n坏\t1\n一般\t0\n"),
        ("regression", "text\tscore\n好\t-\n坏\t1\n一般\t0\n"),
        ("ranking", "query\tdocument\tlabel\n甲\t好\t-\n甲\t坏\t1\n乙\t一般\t0\n"),
        ("intents", "灯 O\n-\n\n灯 O\n开\n\n灯 O\n关\n"),
    ],
)
def test_examples_with_the_label_to_skip_are_left_out_and_counted(
    tmp_path: Path, name: str, content: str
) -> None:
    path = write(tmp_path / ("a.txt" if name == "intents" else "a.tsv"), content)
    own = make_task(name, {"skip_label": "-"})
    lines = said(lambda: own.fit(list(own.read(path, labelled=True))))
    assert f"{path}: 1 examples with the label '-' were left out" in lines
    other = make_task(name, {})
    with pytest.raises(DataError):
        other.fit(list(other.read(path, labelled=True)))


def test_scores_and_intents_that_stand_for_none_are_asked_for(tmp_path: Path) -> None:
    scores = write(tmp_path / "a.tsv", "text\tscore\n好\t-1\n坏\t1\n一般\t0.5\n")
    own = make_task("regression", {})
    with pytest.raises(DataError, match="--skip-label -1"):
        own.fit(list(own.read(scores, labelled=True)))


def test_a_label_to_skip_in_other_files_is_named(tmp_path: Path) -> None:
    inventory = task().fit(labels_of("a", "b"))
    (example,) = read(write(tmp_path / "dev.tsv", "text\tlabel\nx\t-\n"))
    with pytest.raises(DataError, match=r"the label '-' is unknown.*--skip-label - leaves such examples out"):
        task().encode(example, None, inventory, max_length=8)  # type: ignore[arg-type]


def test_whole_numbers_that_became_floats_are_one_label(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\n好,1.0\n坏,0.0\n好的,1\n")
    own, found = task(), {}

    def fit() -> None:
        found["labels"] = own.fit(list(own.read(path, labelled=True))).labels

    lines = said(fit)
    assert found["labels"] == ("0", "1")
    assert "labels that are whole numbers are read without decimals: 0.0, 1.0" in lines
    scores = own.score([Labelling(("1",), {"0": 0.1, "1": 0.9})], labels_of("1.0"))
    assert scores["accuracy"] == 1.0
    assert own.fit(labels_of("1.0", "1.5")).labels == ("1.0", "1.5")


def test_lists_of_choices_are_several_labels(tmp_path: Path) -> None:
    objects = [
        {"text": "好", "topic": {"choices": ["服务", "物流"]}},
        {"text": "差", "topic": "服务"},
        {"text": "无"},
    ]
    listed = write(tmp_path / "a.json", json.dumps(objects, ensure_ascii=False))
    table = write(
        tmp_path / "a.csv",
        'text,topic\n好,"{""choices"":[""服务"",""物流""]}"\n差,服务\n无,\n',
    )
    of_pandas = write(tmp_path / "b.csv", "text,topic\n好,\"['服务', '物流']\"\n差,服务\n无,\n")
    for path in (listed, table, of_pandas):
        found = [example.labels for example in read(path, several=True, label_column="topic")]
        assert found == [("服务", "物流"), ("服务",), ()]
    with pytest.raises(DataError, match="every text here needs exactly one label, or say --several"):
        read(listed, label_column="topic")
    other = write(tmp_path / "c.jsonl", '{"text": "好", "label": {"x": 1}}\n')
    with pytest.raises(DataError, match="is no label"):
        read(other, several=True)


def test_the_choices_of_several_controls_are_not_mixed(tmp_path: Path) -> None:
    result = [
        {"from_name": name, "type": "choices", "value": {"choices": [value]}}
        for name, value in (("topic", "服务"), ("mood", "正"))
    ]
    path = write(
        tmp_path / "a.json",
        json.dumps([{"data": {"text": "好"}, "annotations": [{"result": result}]}], ensure_ascii=False),
    )
    with pytest.raises(DataError, match="no column known as a label; it has text, topic, mood"):
        read(path)
    assert read(path, label_column="mood")[0].labels == ("正",)


def test_the_regions_of_a_rating_are_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "好", "score": {"rating": 4}}\n')
    (example,) = make_task("regression", {}).read(path, labelled=True)
    assert example.score == 4.0


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('text\tlabel\n"他说""好"""\t1\n差\t0\n', ['他说"好"', "差"]),
        ('text\tlabel\n"第一行\n第二行"\t1\n差\t0\n', ["第一行\n第二行", "差"]),
        ('label\ttext\n1\t"第一行\n第二行"\n0\t差\n', ["第一行\n第二行", "差"]),
        ('text\tlabel\n"左\t右"\t1\n差\t0\n', ["左\t右", "差"]),
        ('text\tlabel\n"好"他说\t1\n"差"\t0\n', ['"好"他说', '"差"']),
        ('text\tlabel\n"好，他说\t1\n差"\t0\n', ['"好，他说', '差"']),
    ],
)
def test_quoted_cells_between_tabs_are_read_where_they_can_be_nothing_else(
    tmp_path: Path, content: str, texts: list[str]
) -> None:
    assert [example.text for example in read(write(tmp_path / "a.tsv", content))] == texts


def test_quoting_is_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"好"\t1\n"他说""好"""\t0\n')
    assert [example.text for example in read(path, quoting="csv")] == ["好", '他说"好"']
    assert [example.text for example in read(path, quoting="none")] == ['"好"', '"他说""好"""']


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ('text,label\n"好评,1\n差评,0\n', r"a\.csv: the quotation mark that opens a cell in line 2 is not"),
        ('text,label\n"a\nb",1\n"好评,1\n差评,0\n', "opens a cell in line 4 is not closed"),
        ('text,label\n"好评,1\n"差评",0\n好,1\n', "line 3: text follows the end of .* that opens in line 2"),
    ],
)  # fmt: skip
def test_a_quotation_mark_that_is_not_closed_is_named_by_its_line(
    tmp_path: Path, content: str, rule: str
) -> None:
    with pytest.raises(DataError, match=rule):
        read(write(tmp_path / "a.csv", content))


def test_lines_of_fasttext_have_all_their_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "__label__服务 __label__物流 好 评\n__label__服务 差评\n")
    for options in ({}, {"label_first": True}):
        first, second = read(path, several=True, **options)
        assert (first.text, first.labels, second.labels) == ("好 评", ("服务", "物流"), ("服务",))
    with pytest.raises(DataError, match=r"line 1: label is .*exactly one label, or say --several"):
        read(path)
    assert [example.text for example in read(path, labelled=False)] == ["好 评", "差评"]
    late = write(tmp_path / "b.txt", "__label__a 好 __label__b\n")
    with pytest.raises(DataError, match="write all labels before the text"):
        read(late, several=True)


def test_doccanos_table_is_read_with_its_sign_between_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,data,label\n1,好评,正面#推荐\n2,差评,负面\n")
    assert [example.labels for example in read(path, several=True)] == [("正面", "推荐"), ("负面",)]
    with pytest.raises(
        DataError, match="line 2: label is '正面#推荐', several labels as doccano writes them"
    ):
        read(path)
    assert read(path, several=True, separator="|")[0].labels == ("正面#推荐",)


def test_plain_lines_are_read_whatever_the_columns_of_the_training_file_are_called(tmp_path: Path) -> None:
    path = write(tmp_path / "new.txt", "好评\n差评\n")
    options = {"text_column": "评论内容", "label_column": "情感"}
    assert [example.text for example in read(path, labelled=False, **options)] == ["好评", "差评"]
    with pytest.raises(DataError, match="has no column '评论内容'; it has 0; no header was seen"):
        read(path, **options)


@pytest.mark.parametrize("labelled", [True, False])
def test_another_delimiter_is_named_and_chosen(tmp_path: Path, labelled: bool) -> None:
    path = write(tmp_path / "a.csv", "text;label\n好,很好;1\n差;0\n")
    with pytest.raises(
        DataError, match="a semicolon would split its first line into 2 columns: say --delimiter ';'"
    ):
        read(path, labelled=labelled)
    assert [example.text for example in read(path, labelled=labelled, delimiter=";")] == ["好,很好", "差"]
    tabs = write(tmp_path / "b.csv", "text\tlabel\n好\t1\n")
    with pytest.raises(DataError, match="say --delimiter tab"):
        read(tabs, labelled=labelled)
    assert read(tabs, labelled=labelled, delimiter="tab")[0].text == "好"
    with pytest.raises(SettingsError, match="delimiter must be one character"):
        task(delimiter="::")


@pytest.mark.parametrize(
    ("name", "head"), [("a.xlsx", b"PK\x03\x04"), ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")]
)
def test_a_workbook_is_called_one(tmp_path: Path, name: str, head: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(head + bytes(40))
    with pytest.raises(PolysemeError, match="is an Excel workbook; save it as CSV UTF-8"):
        read(path)


def test_a_file_whose_labels_all_differ_has_its_label_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("".join(f"{n % 2}\t法院第{n}个文本\n" for n in range(12)), encoding="utf-8")
    task = Classification(ClassificationSettings())
    with pytest.raises(
        DataError, match=r"12 different labels, such as .*; name the right column with --label"
    ):
        task.fit(list(task.read(path, labelled=True)))
