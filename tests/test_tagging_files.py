"""Tagged texts from every form of file, and what is said of those that are broken."""

import gzip
import json
import lzma
from pathlib import Path

import pytest

from polyseme.errors import DataError
from polyseme.records import from_plain
from polyseme.tasks.skipping import leaving_out
from polyseme.tasks.tag_schemes import Span, scheme_of, spans, tags_of
from polyseme.tasks.tagged_files import form_of, read_tagged
from polyseme.tasks.tagged_texts import Entity, TaggedText, from_text
from polyseme.tasks.tagging_settings import TaggingSettings

DATA = Path(__file__).parents[2] / "shared" / "data"
TEXT = "他在北京见Ann Lee。"
ENTITIES = (Entity("LOC", 2, 4), Entity("PER", 5, 12))
WORDS = ["他", "在", "北", "京", "见", "Ann", "Lee", "。"]
TAGS = {
    "bio": ["O", "O", "B-LOC", "I-LOC", "O", "B-PER", "I-PER", "O"],
    "io": ["O", "O", "I-LOC", "I-LOC", "O", "I-PER", "I-PER", "O"],
    "bioes": ["O", "O", "B-LOC", "E-LOC", "O", "B-PER", "E-PER", "O"],
}
RANGES = [[2, 4, "LOC"], [5, 12, "PER"]]
OBJECTS: dict[str, dict[str, object]] = {
    "tokens": {"tokens": WORDS, "tags": TAGS["bioes"]},
    "words": {"id": 3, "words": WORDS, "ner_tags": TAGS["bio"]},
    "cluener": {"text": TEXT, "label": {"PER": {"Ann Lee": [[5, 11]]}, "LOC": {"北京": [[2, 3]]}}},
    "doccano": {"id": 1, "text": TEXT, "label": RANGES, "Comments": []},
    "doccano-relations": {
        "text": TEXT,
        "entities": [
            {"id": n, "label": kind, "start_offset": begin, "end_offset": end}
            for n, (begin, end, kind) in enumerate(RANGES)
        ],
        "relations": [],
    },
    "label-studio": {
        "id": 5,
        "data": {"text": TEXT},
        "annotations": [
            {"was_cancelled": True, "result": []},
            {
                "was_cancelled": False,
                "result": [
                    {
                        "type": "labels",
                        "from_name": "label",
                        "value": {"start": begin, "end": end, "text": TEXT[begin:end], "labels": [kind]},
                    }
                    for begin, end, kind in RANGES
                ]
                + [{"type": "choices", "value": {"choices": ["ok"]}}],
            },
        ],
    },
    "label-studio-min": {
        "text": TEXT,
        "label": [
            {"start": begin, "end": end, "text": TEXT[begin:end], "labels": [k]} for begin, end, k in RANGES
        ],
    },
}


def read(path: Path, *, labelled: bool = True, **options: object) -> list[TaggedText]:
    return list(read_tagged(path, from_plain(options, TaggingSettings, where="test"), labelled=labelled))


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def same(example: TaggedText) -> bool:
    kept = [example.text[start:end] for start, end in example.words.tolist()]
    return (example.text, kept, example.entities) == (TEXT, WORDS, ENTITIES)


@pytest.mark.parametrize("scheme", TAGS)
@pytest.mark.parametrize("between", [" ", "\t", "\tNN\t", "  NN _ "])
def test_columns_of_every_scheme_give_the_same_entities(tmp_path: Path, scheme: str, between: str) -> None:
    sentence = [f"{word}{between}{tag}" for word, tag in zip(WORDS, TAGS[scheme], strict=True)]
    path = write(
        tmp_path / "a.conll",
        "-DOCSTART- O",
        "",
        *sentence,
        "",
        "# text = x",
        *sentence,
        "-DOCSTART-",
        *sentence,
    )
    first, second, third = read(path)
    assert all(same(example) for example in (first, second, third))
    assert scheme_of(first.tags or ()) == scheme
    assert (first.where, second.where) == (f"{path}, line 3", f"{path}, line 13")


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_by_lines_and_in_lists_give_the_same_entities(tmp_path: Path, name: str) -> None:
    plain = OBJECTS[name]
    lines = write(tmp_path / "a.jsonl", json.dumps(plain), "", json.dumps(plain, ensure_ascii=False))
    listed = tmp_path / "b.json"
    listed.write_text(json.dumps([plain, plain], indent=2), encoding="utf-8")
    for path, place in ((lines, "line 3"), (listed, "object 2")):
        examples = read(path)
        assert [same(example) for example in examples] == [True, True]
        assert examples[1].where == f"{path}, {place}"


def test_a_file_of_words_is_read_beside_its_file_of_tags(tmp_path: Path) -> None:
    write(tmp_path / "seq.in", "fly to new york", "hello")
    write(tmp_path / "seq.out", "O O B-city I-city", "O")
    for path in (tmp_path, tmp_path / "seq.in"):
        first, second = read(path)
        assert [first.text[e.start : e.end] for e in first.entities or ()] == ["new york"]
        assert (second.text, second.entities) == ("hello", ())
    write(tmp_path / "seq.out", "O O B-city", "O")
    with pytest.raises(DataError, match=r"seq\.in, line 1: 3 tags for 4 words"):
        read(tmp_path)
    write(tmp_path / "seq.out", "O O B-city I-city")
    with pytest.raises(DataError, match=r"has 2 lines and .*seq\.out 1; they must agree"):
        read(tmp_path)


@pytest.mark.parametrize(("suffix", "packed"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_files_and_line_ends_of_any_kind_are_read(
    tmp_path: Path, suffix: str, packed: object
) -> None:
    sentence = "\r\n".join(f"{word} {tag}" for word, tag in zip(WORDS, TAGS["bio"], strict=True))
    columns = tmp_path / f"a.txt{suffix}"
    columns.write_bytes(packed(("\ufeff" + sentence + "\r\n\r\n").encode()))  # type: ignore[operator]
    objects = tmp_path / f"a.json{suffix}"
    objects.write_bytes(packed(json.dumps([OBJECTS["doccano"]]).encode()))  # type: ignore[operator]
    for path in (columns, objects):
        (example,) = read(path)
        assert same(example)


def test_blank_words_and_quotes_keep_their_places(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", '" O', "  O", "王 B-PER", "\u3000 I-PER", "五 I-PER", '" O', "\u200b O")
    (example,) = read(path)
    assert [example.text[start:end] for start, end in example.words.tolist()] == [
        '"',
        " ",
        "王",
        "\u3000",
        "五",
        '"',
        "\u200b",
    ]
    assert [example.text[e.start : e.end] for e in example.entities or ()] == ["王\u3000五"]


def test_offsets_counted_as_browsers_count_are_told_by_the_surface(tmp_path: Path) -> None:
    text = "😀😀北京"
    plain = {"text": text, "label": [{"start": 4, "end": 6, "text": "北京", "labels": ["LOC"]}]}
    (example,) = read(write(tmp_path / "a.jsonl", json.dumps(plain)))
    assert example.entities == (Entity("LOC", 2, 4),)


def test_other_columns_and_keys_are_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conllu", "1\t我\tPRON\tO", "2\t们\tPRON\tO", "3\t走\tVERB\tO")
    (example,) = read(path, text_column="1", label_column="2")
    assert example.text == "我们走"
    assert example.tags == ("PRON", "PRON", "VERB")
    assert example.word_spans() == [Span("PRON", 0, 1), Span("PRON", 1, 2), Span("VERB", 2, 3)]
    keyed = write(tmp_path / "a.jsonl", json.dumps({"body": TEXT, "text": 3, "gold": RANGES}))
    (example,) = read(keyed, text_column="body", label_column="gold")
    assert same(example)


def test_without_labels_any_file_is_read_and_plain_lines_are_texts(tmp_path: Path) -> None:
    columns = write(tmp_path / "a.txt", "我 O", "们 O")
    assert [e.text for e in read(columns, labelled=False)] == ["我们"]
    texts = write(tmp_path / "b.txt", "我 们", "", "他")
    assert [(e.text, e.entities) for e in read(texts, labelled=False)] == [
        ("我 们", None),
        ("", None),
        ("他", None),
    ]
    words = write(tmp_path / "c.txt", "我", "们", "", "他")
    assert [e.text for e in read(words, labelled=False, format="columns")] == ["我们", "他"]
    objects = write(tmp_path / "d.jsonl", json.dumps({"text": "我们"}), json.dumps({"text": ""}))
    assert [e.text for e in read(objects, labelled=False)] == ["我们", ""]
    assert form_of(objects, TaggingSettings(), labelled=True) == "json"


def test_entities_that_overlap_are_all_kept_and_the_first_one_is_learned(tmp_path: Path) -> None:
    plain = {"text": "北京大学", "label": [[0, 2, "LOC"], [0, 4, "ORG"], [2, 4, "X"], [0, 2, "LOC"]]}
    (example,) = read(write(tmp_path / "a.jsonl", json.dumps(plain)))
    assert example.entities == (Entity("ORG", 0, 4), Entity("LOC", 0, 2), Entity("X", 2, 4))
    assert spans(tags_of(example.word_spans(), 4, "bio")) == [Span("ORG", 0, 4)]


def test_an_entity_takes_the_words_that_it_touches() -> None:
    example = from_text("iPhone4S 好", [Entity("P", 0, 6)], where="")
    assert example.word_spans() == [Span("P", 0, 1)]
    assert from_text("我 好", [Entity("P", 1, 2)], where="").word_spans() == []


BROKEN: dict[str, tuple[list[str], list[str]]] = {
    "a.txt": (
        ["我 O", "", "们 O", "的", "", "他 B-PER x", "", "你 B-PER"],
        ["line 4: 1 columns where the first line has 2", "line 6: 3 columns where the first line has 2"],
    ),
    "a.jsonl": (
        [
            '{"tokens": ["我"], "tags": ["O"]}',
            "{broken",
            '{"tokens": ["我", "们"], "tags": ["O"]}',
            '{"text": "我们", "label": [[1, 3, "PER"]]}',
            '{"text": "我们", "label": {"PER": {"他": [[0, 0]]}}}',
            '{"text": "我们"}',
            '{"text": "  ", "label": []}',
            '{"tokens": [], "tags": []}',
            '{"text": "我们", "label": [[0, "PER"]]}',
            '{"tokens": ["我"], "tags": [3]}',
            '{"label": []}',
            '{"text": 5, "label": []}',
            '{"text": "我们", "label": {"PER": 3}}',
            '{"text": "我们", "label": 3}',
            '{"text": "他", "label": []}',
        ],
        [
            "line 2: not a JSON object",
            "line 3: 1 tags for 2 words",
            "line 4: the range 1:3 of PER does not lie in the text, which has the characters 0 to 2",
            "line 5: the range 0:1 of PER is '我' in the text, but '他' is said to stand there",
            "line 6: no key is known as a label; there are text: name one with --label-column",
            "line 7: the text is empty",
            "line 8: the text is empty",
            "line 9: [0, 'PER'] is no entity",
            "line 10: the tags of tokens must be a list of names",
            "line 11: no key is known as a text",
            "line 12: the text is 5",
            "line 13: labels by type must be objects of surfaces",
            "line 14: the labels are 3",
        ],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_examples_name_file_line_and_rule_and_can_be_left_out(tmp_path: Path, name: str) -> None:
    lines, rules = BROKEN[name]
    path = write(tmp_path / name, *lines)
    with pytest.raises(DataError) as first:
        read(path)
    assert str(first.value).startswith(f"{path}, {rules[0]}")
    with leaving_out(True) as left:
        examples = read(path)
    assert [example.text for example in examples] == ["我", "你"] if name == "a.txt" else ["我", "他"]
    assert len(left.errors) == len(rules)
    for error, rule in zip(left.errors, rules, strict=True):
        assert error.startswith(f"{path}, {rule}")


@pytest.mark.parametrize(
    ("lines", "options", "rule"),
    [
        (["我", "们"], {}, "line 1: there is no column of tags beside the words"),
        (["", " "], {}, "is empty; a file of examples needs at least one sentence"),
        (["我 O"], {"label_column": "2"}, "has no column '2'; its columns are 0 to 1"),
        (["我 O"], {"text_column": "word"}, "has no column 'word'"),
        (["我 O"], {"format": "text"}, "is a file of texts and has no tags"),
        (["我 O"], {"format": "json"}, "line 1: not a JSON object"),
    ],
)
def test_files_that_cannot_be_read_at_all_say_why(
    tmp_path: Path, lines: list[str], options: dict[str, object], rule: str
) -> None:
    with pytest.raises(DataError, match=rule.replace("'", ".")):
        read(write(tmp_path / "a.txt", *lines), **options)


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("name", "examples", "entities", "types", "scheme"),
    [
        ("tasks_zh/cluener/dev.json", 1343, 3072, 10, "bio"),
        ("tasks_zh/resume_ner/dev.char.bmes", 463, 1497, 8, "bmes"),
        ("tasks_zh/cclue_ner/dev.txt", 281, 1844, 2, "bio"),
        ("tasks_en/wnut17/emerging.dev.conll", 1009, 836, 6, "bio"),
        ("tasks_en/wnut17/emerging.test.annotated", 1287, 1079, 6, "bio"),
        ("tasks_en/wikigold/wikigold.conll.txt", 1696, 3558, 4, "io"),
        ("tasks_en/ncbi_disease/devel.tsv", 923, 787, 1, "bio"),
        ("tasks_en/atis/dev", 500, 1709, 67, "bio"),
    ],
)
def test_the_published_data_sets_are_read_whole(
    name: str, examples: int, entities: int, types: int, scheme: str
) -> None:
    found = read(DATA / name)
    assert len(found) == examples
    assert sum(len(example.entities or ()) for example in found) == entities
    assert len({entity.type for example in found for entity in example.entities or ()}) == types
    assert scheme_of(tag for example in found for tag in example.tags or ()) == scheme
