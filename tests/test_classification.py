"""Labelled texts from every form of file, and the classifier's rows, loss and answers."""

import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import characters

from polyseme.errors import DataError, SettingsError
from polyseme.records import from_plain
from polyseme.tasks.classification import Classification, Labelling
from polyseme.tasks.labelled_texts import LabelledText
from polyseme.tasks.settings import ClassificationSettings
from polyseme.tasks.task import Inventory, make_task
from polyseme.text.tokenizer import Tokenizer

DATA = Path(__file__).parents[2] / "shared" / "data" / "tasks_zh"
REVIEWS = [("1", "房间很好"), ("0", '脏，"差"'), ("1", "值得再来")]


def task(**options: object) -> Classification:
    return Classification(from_plain(options, ClassificationSettings, where="test"))


def read(path: Path, *, labelled: bool = True, **options: object) -> list[LabelledText]:
    return list(task(**options).read(path, labelled=labelled))


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return characters(tmp_path_factory.mktemp("characters"))


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.tsv", ["label\ttext_a", *(f"{label}\t{text}" for label, text in REVIEWS)]),
        ("b.tsv", ["id\tText\tLabel", *(f"7\t{text}\t{label}" for label, text in REVIEWS)]),
        ("c.txt", [f"{text}\t{label}" for label, text in REVIEWS]),
        ("d.csv", ["label,sentence", "1,房间很好", '0,"脏，""差"""', "1,值得再来"]),
        (
            "e.json",
            [
                '{"label": 1, "sentence": "房间很好"}',
                '{"sentence": "脏，\\"差\\"", "label": 0}',
                "",
                '{"label": "1", "sentence": "值得再来"}',
            ],
        ),
    ],
)
def test_every_form_of_file_gives_the_same_examples(tmp_path: Path, name: str, lines: list[str]) -> None:
    examples = read(write(tmp_path / name, *lines))
    assert [(example.labels, example.text) for example in examples] == [
        ((label,), text) for label, text in REVIEWS
    ]
    assert examples[0].where.startswith(f"{tmp_path / name}, line ")


def test_compressed_files_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv.xz"
    path.write_bytes(lzma.compress("\ufefflabel\ttext\r\n1\t房间很好\r\n".encode()))
    assert [(e.labels, e.text) for e in read(path)] == [(("1",), "房间很好")]


def test_columns_are_chosen_by_name_or_number(tmp_path: Path) -> None:
    named = write(tmp_path / "a.tsv", "stars\tbody\tsource", "5\t很好\tweb")
    (example,) = read(named, text_column="body", label_column="stars")
    assert (example.text, example.labels) == ("很好", ("5",))
    numbered = write(tmp_path / "b.tsv", "web\t很好\t5\tx", "app\t差\t1\ty")
    assert [e.labels for e in read(numbered, text_column="1", label_column="2")] == [("5",), ("1",)]
    turned = write(tmp_path / "c.tsv", "5\t很好", "1\t差")
    assert [e.text for e in read(turned, label_column="0")] == ["很好", "差"]


def test_pairs_are_read_by_name_and_by_order(tmp_path: Path) -> None:
    named = write(tmp_path / "a.jsonl", '{"sentence1": "甲", "sentence2": "乙", "label": "1"}')
    plain = write(tmp_path / "b.txt", "甲\t乙\t1")
    for path in (named, plain):
        (example,) = read(path)
        assert (example.text, example.pair, example.labels) == ("甲", "乙", ("1",))


def test_half_a_character_in_json_is_named_or_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", r'{"text": "好\ud83d", "label": "1"}')
    with pytest.raises(
        DataError, match=r"line 1: not a JSON object \(it has half of a surrogate pair; put �"
    ):
        read(path)
    assert [e.text for e in read(path, errors="replace")] == ["好�"]


def test_several_labels_come_from_a_separator_or_a_list(tmp_path: Path) -> None:
    table = write(tmp_path / "a.tsv", "labels\ttext", "体育|财经\t甲", "\t乙", "科技\t丙")
    lines = write(
        tmp_path / "a.jsonl",
        '{"labels": ["体育", "财经"], "text": "甲"}',
        '{"labels": [], "text": "乙"}',
        '{"labels": "科技", "text": "丙"}',
    )
    for path in (table, lines):
        labels = [example.labels for example in read(path, several=True)]
        assert labels == [("体育", "财经"), (), ("科技",)]


def test_plain_lines_are_texts_to_answer_and_blank_ones_keep_their_place(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "", "很好", "", "差")
    assert [e.text for e in read(path, labelled=False)] == ["", "很好", "", "差"]


def test_labels_are_not_asked_for_where_answers_are_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tid", "很好\t7")
    assert [(e.text, e.labels) for e in read(path, labelled=False)] == [("很好", None)]


@pytest.mark.parametrize(
    ("name", "lines", "options", "message"),
    [
        ("a.tsv", [], {}, "there is no text in"),
        ("a.tsv", ["", ""], {}, "a.tsv is empty"),
        ("a.jsonl", [""], {}, "a.jsonl is empty"),
        ("a.tsv", ["label\tstuff", "1\tx"], {}, "no column known as a text; it has label, stuff: name one"),
        ("a.tsv", ["text\tstars", "x\t1"], {}, "no column known as a label; it has text, stars: name one"),
        ("a.tsv", ["text\tlabel"], {"text_column": "body"}, "no column 'body'; it has text, label"),
        ("a.tsv", ["a\tb\tc\td"], {}, "no column known as a text; it has 0, 1, 2, 3"),
        ("a.tsv", ["label\ttext", "1\tx", "1\ty\tz"], {}, "line 3: 3 columns where the first row has 2"),
        ("a.tsv", ["label\ttext", "\tx"], {}, "line 2: label is ''; every text here needs exactly one"),
        ("a.jsonl", ['{"text": "x", "label": 1}', "{x"], {}, "line 2: not a JSON object"),
        ("a.jsonl", ['{"text": "x", "label": 1}', '{"label": 1}'], {}, "line 2: text is None; it must be"),
        ("a.jsonl", ['{"text": "x", "label": [1, 2]}'], {}, r"label is \[1, 2\]; every text here needs"),
    ],
)
def test_files_that_do_not_fit_are_named_with_line_and_columns(
    tmp_path: Path, name: str, lines: list[str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / name, *lines), **options)


def example(text: str, *labels: str, pair: str | None = None) -> LabelledText:
    return LabelledText(text, pair, labels, "a.tsv, line 7")


def test_labels_are_in_the_order_of_numbers_or_of_spelling() -> None:
    assert task().fit([example("", n) for n in ("10", "9", "2")]).labels == ("2", "9", "10")
    assert task().fit([example("", n) for n in ("b", "10", "a")]).labels == ("10", "a", "b")


def test_one_label_alone_cannot_be_learned() -> None:
    with pytest.raises(DataError, match=r"the 2 training texts have only the labels \['1'\]"):
        task().fit([example("a", "1"), example("b", "1")])


def test_a_column_of_texts_is_not_taken_for_labels() -> None:
    with pytest.raises(DataError, match=r"30 training texts have 30 different labels.*--label-column"):
        task().fit([example("x", f"这是第{n}句") for n in range(30)])


def test_an_unknown_label_is_named_with_its_line_and_the_known_ones(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"a.tsv, line 7: the label '2' is unknown; the model knows 0, 1"):
        task().encode(example("很好", "2"), tokenizer, Inventory(labels=("0", "1")), max_length=9)


def test_a_row_is_the_text_between_its_special_tokens(tokenizer: Tokenizer) -> None:
    inventory = Inventory(labels=("0", "1"))
    (row,) = task().encode(example("很好", "1"), tokenizer, inventory, max_length=9)
    assert tokenizer.tokens(row.input_ids) == ["[CLS]", "很", "好", "[SEP]"]
    assert (int(row.label), row.cut, row.token_type_ids) == (1, 0, None)
    (row,) = task().encode(example("很好" * 9, "1"), tokenizer, inventory, max_length=9)
    assert (len(row.input_ids), row.cut) == (9, 11)


def test_of_a_pair_the_longer_text_is_cut_first(tokenizer: Tokenizer) -> None:
    inventory = Inventory(labels=("0", "1"))
    for first in range(12):
        for second in range(12):
            pair = example("的" * first, "1", pair="是" * second)
            (row,) = task().encode(pair, tokenizer, inventory, max_length=13)
            tokens = tokenizer.tokens(row.input_ids)
            kept = tokens.count("的"), tokens.count("是")
            assert kept[0] + kept[1] == min(first + second, 10) == first + second - row.cut
            for mine, other, length in ((0, 1, first), (1, 0, second)):
                assert kept[mine] == length or kept[mine] >= kept[other] - 1
            assert row.token_type_ids is not None
            assert tokens == ["[CLS]", *"的" * kept[0], "[SEP]", *"是" * kept[1], "[SEP]"]
            assert row.token_type_ids.tolist() == [0] * (kept[0] + 2) + [1] * (kept[1] + 1)


def test_long_texts_become_windows_by_choice_and_their_scores_are_averaged(tokenizer: Tokenizer) -> None:
    by_windows, inventory = task(long_texts="windows"), Inventory(labels=("0", "1"))
    text = example("的是" * 20, "1")
    rows = by_windows.encode(text, tokenizer, inventory, max_length=18)
    assert len(rows) == 3
    assert all(len(row.input_ids) == 18 and row.cut == 0 for row in rows)
    outputs = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]], np.float32)
    (answer,) = by_windows.decode([outputs], [text], inventory)
    assert answer.labels == ("0",)
    expected = torch.tensor([1.0, 1 / 3]).double().softmax(0)
    np.testing.assert_allclose(list(answer.probabilities.values()), expected, atol=1e-7)


def test_of_several_labels_those_above_one_half_are_given() -> None:
    chooser = task(several=True)
    inventory, text = Inventory(labels=("a", "b", "c")), example("x", "a")
    (answer,) = chooser.decode([np.array([[1.0, -1.0, 0.2]], np.float32)], [text], inventory)
    assert answer.labels == ("a", "c")
    assert chooser.write(answer)["labels"] == ["a", "c"]
    assert chooser.score([answer], [text]) == pytest.approx(
        {"micro_f1": 2 / 3, "macro_f1": 0.5, "accuracy": 0.0}
    )


def test_the_report_explains_the_scores() -> None:
    inventory = Inventory(labels=("10", "11"))
    answers = [Labelling((label,), {}) for label in ("10", "11", "11")]
    examples = [example("x", label) for label in ("10", "10", "11")]
    report = task().report(answers, examples, inventory)
    assert report["accuracy"] == pytest.approx(2 / 3)
    assert report["confusion"] == {"labels": ["10", "11"], "counts": [[1, 1], [0, 1]]}
    assert report["labels"]["11"] == pytest.approx({"precision": 0.5, "recall": 1, "f1": 2 / 3, "support": 1})


def test_wrong_settings_are_named() -> None:
    with pytest.raises(SettingsError, match=r"there is no task 'clasification' \(did you mean"):
        make_task("clasification", {})
    with pytest.raises(SettingsError, match=r"text_colum is not a setting here \(did you mean 'text_column'"):
        make_task("classification", {"text_colum": "a"})
    with pytest.raises(SettingsError, match=r"label_smoothing must lie in \[0, 1\), got 1"):
        make_task("classification", {"label_smoothing": 1.0})


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("file", "count", "labels", "pairs", "options"),
    [
        ("chnsenticorp/dev.tsv", 1200, 2, False, {}),
        ("cclue_poem_sentiment/test.tsv", 2000, 5, False, {}),
        ("thucnews_headlines/dev.txt", 10000, 10, False, {}),
        ("afqmc/dev.txt", 4316, 2, True, {}),
        ("pawsx_zh/dev_2k.tsv", 2000, 2, True, {}),
        ("fewclue/tnews/dev_0.json", 240, 15, False, {}),
        ("fewclue/csldcp/dev_0.json", 536, 67, False, {}),
        ("fewclue/eprstmt/dev_0.json", 32, 2, False, {}),
        ("fewclue/bustm/dev_0.json", 32, 2, True, {}),
        ("fewclue/csl/dev_0.json", 32, 2, False, {"text_column": "abst"}),
    ],
)
def test_published_files_are_read_as_they_are(
    file: str, count: int, labels: int, pairs: bool, options: dict[str, object]
) -> None:
    examples = read(DATA / file, **options)
    assert len(examples) == count
    assert len(task().fit(examples).labels) == labels
    assert all((e.pair is not None) == pairs for e in examples)
