"""Files for tagging that are of another form, order or scheme are refused with what decides."""

import json
from pathlib import Path
from typing import Any

import pytest

from polyseme.errors import DataError
from polyseme.records import from_plain
from polyseme.tasks.tagged_files import form_of
from polyseme.tasks.tagged_texts import TaggedText
from polyseme.tasks.tagging import Tagging
from polyseme.tasks.tagging_settings import TaggingSettings
from polyseme.tasks.task import make_task


def task(**options: object) -> Tagging:
    return Tagging(from_plain(options, TaggingSettings, where="test"))


def read(path: Path, *, labelled: bool = True, **options: object) -> list[TaggedText]:
    return list(task(**options).read(path, labelled=labelled))


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


OTHER_FORMS = {
    "tags first": ("B-PER 张\nI-PER 三\nO 在\n", "first column looks like tags .*--text-column 1 --label"),
    "brat": ("T1\tPER 0 2\t张三\nT2\tLOC 3 5\t北京\n", "brat's standoff format"),
    "brat's relations": ("R1\twork Arg1:T1 Arg2:T2\n", "brat's standoff format"),
    "word/tag": ("张三/nr 在/p 北京/ns\n他/r 走/v\n", "looks like word/tag; write a word, a blank"),
    "CoNLL-U": ("1\t我\tPRON\t_\n2\t走\tVERB\t_\n", "the first column counts the words, as in CoNLL-U"),
    "no tags": ("我\tPRON\t_\n走\tVERB\t_\n", "the last column has no tags, but _"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER_FORMS)
def test_other_forms_and_orders_are_refused(tmp_path: Path, kind: str) -> None:
    content, rule = OTHER_FORMS[kind]
    with pytest.raises(DataError, match=rule):
        read(write(tmp_path / "a.txt", content))


def test_options_decide_the_order_of_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", OTHER_FORMS["tags first"][0])
    (example,) = read(path, text_column="1", label_column="0")
    assert (example.text, example.tags) == ("张三在", ("B-PER", "I-PER", "O"))
    assert len(read(path, text_column="0", label_column="-1")) == 1


def test_a_table_is_no_tagged_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a CSV file, which no tagger reads"):
        read(write(tmp_path / "a.csv", "text,label\n他在北京,LOC\n"))


def test_slots_that_stand_first_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "B-x 灯\nO 亮\n开\n")
    with pytest.raises(DataError, match="the first column looks like slots"):
        list(make_task("intents", {}).read(path, labelled=True))


@pytest.mark.parametrize(
    ("tags", "rule"),
    [
        (["O", "PER", "LOC"], "beside O stand types without B- or I-: LOC, PER"),
        (["O", "B-PER", "PER"], "some tags are of a scheme, such as B-PER, and others are not, such as PER"),
        (["O", "PER-B", "PER-I"], "the tags PER-B, PER-I are of no scheme that is read"),
        (["O", "b-per", "i-per"], "the tags b-per, i-per are of no scheme that is read"),
        (["O", "B:PER"], "the tags B:PER are of no scheme that is read"),
    ],
)
def test_tags_of_no_clear_scheme_are_asked_for(tmp_path: Path, tags: list[str], rule: str) -> None:
    path = write(tmp_path / "a.txt", "".join(f"字 {tag}\n" for tag in tags))
    with pytest.raises(DataError, match=f"{rule}.*--scheme io .* or --scheme plain"):
        task().fit(read(path))
    assert task(scheme="plain").fit(read(path, scheme="plain")).labels


def test_types_alone_are_read_as_io_where_that_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "张 PER\n三 PER\n在 O\n")
    own = task(scheme="io")
    (example,) = own.read(path, labelled=True)
    assert [(e.type, e.start, e.end) for e in example.entities or ()] == [("PER", 0, 2)]
    assert own.fit([example]).labels == ("O", "I-PER")


def test_classes_of_words_are_no_doubt(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "我 PN\n走 VV\n。 PU\n")
    assert task().fit(read(path)).labels == ("O", "PN", "PU", "VV")


def test_a_text_that_ends_like_a_tag_is_a_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "we need vitamin B\nand more of it\n")
    assert form_of(path, TaggingSettings(), labelled=False) == "text"
    assert [example.text for example in read(path, labelled=False)] == ["we need vitamin B", "and more of it"]


def studio(result: list[dict[str, Any]] | None, *, cancelled: bool = False) -> dict[str, Any]:
    annotations = [] if result is None else [{"was_cancelled": cancelled, "result": result}]
    return {"id": 1, "data": {"text": "他在北京"}, "annotations": annotations}


def region(*labels: str) -> dict[str, Any]:
    return {"type": "labels", "value": {"start": 2, "end": 4, "text": "北京", "labels": list(labels)}}


def test_tasks_of_label_studio_without_regions_have_no_entity(tmp_path: Path) -> None:
    small = [
        {"text": "他在北京", "label": [region("LOC")["value"]], "annotator": 1},
        {"text": "他在", "id": 2, "annotator": 1, "annotation_id": 7, "lead_time": 2.5},
    ]
    whole = [studio([region("LOC")]), studio([])]
    for number, plain in enumerate((small, whole)):
        found = read(write(tmp_path / f"{number}.json", json.dumps(plain)))
        assert [len(example.entities or ()) for example in found] == [1, 0]
        assert found[1].entities == ()
    bare = write(tmp_path / "bare.jsonl", '{"text": "他在"}\n')
    with pytest.raises(DataError, match="no key is known as a label"):
        read(bare)


@pytest.mark.parametrize("plain", [studio(None), studio([region("LOC")], cancelled=True)])
def test_a_task_that_nobody_annotated_is_no_negative(tmp_path: Path, plain: dict[str, Any]) -> None:
    path = write(tmp_path / "a.json", json.dumps([plain]))
    with pytest.raises(DataError, match="no annotation that was not cancelled"):
        read(path)
    assert [example.text for example in read(path, labelled=False)] == ["他在北京"]


def test_a_region_of_two_labels_names_both(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps([studio([region("LOC", "ORG")])]))
    with pytest.raises(DataError, match="the range 2:4 has the labels LOC, ORG; a tagger learns one"):
        read(path)
