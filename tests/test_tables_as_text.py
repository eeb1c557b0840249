"""Tables given to whoever reads text: one column of them is read, and it is said which, or asked for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from reporters import Said
from small_models import characters, small_model

from polyseme.embedding.embedding import embed
from polyseme.errors import DataError, SettingsError
from polyseme.evaluation.settings import PerplexitySettings
from polyseme.evaluation.tokenized import tokenized
from polyseme.inspection.tokens import show_tokens
from polyseme.progress import reporting
from polyseme.records import from_plain
from polyseme.text.preparing import prepare
from polyseme.text.reading import TextSettings, read_documents, read_lines
from polyseme.text.tokenizer_learning import learn_tokenizer

CSV = '编号,评论内容,情感\n1,"很好,我要""来""",好评\n2,"不好\n不来",差评\n'
TEXTS = ['很好,我要"来"', "不好\n不来"]
FORMS = {
    "a.csv": CSV,
    "a.tsv": '编号\t评论内容\t情感\n1\t"很好,我要""来"""\t好评\n2\t"不好\n不来"\t差评\n',
    "a.jsonl": '{"编号": 1, "评论内容": "很好,我要\\"来\\""}\n{"评论内容": "不好\\n不来", "情感": "差评"}\n',
}


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def said(action: Callable[[], object]) -> list[str]:
    reporter = Said()
    with reporting(reporter):
        action()
    return reporter.lines


def texts(path: Path, **options: object) -> list[str]:
    return list(read_lines(path, from_plain(options, TextSettings, where="test")))


@pytest.mark.parametrize("name", FORMS)
def test_the_column_of_texts_is_read_and_said(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, FORMS[name])
    assert texts(path) == TEXTS
    assert [document.lines for document in read_documents([path])] == [[TEXTS[0]], ["不好", "不来"]]
    for read in (lambda: texts(path), lambda: list(read_documents([path]))):
        (line,) = said(read)
        assert "'评论内容'" in line
    assert texts(path, text_column="评论内容") == TEXTS


def test_a_column_of_a_table_without_header_is_chosen_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '7,"好,很好",1\n8,差,0\n')
    with pytest.raises(
        DataError, match="has no column known as a text; its first row is '7', '好,很好', '1'"
    ):
        texts(path)
    assert texts(path, text_column="1") == ["好,很好", "差"]
    assert texts(path, format="lines") == ['7,"好,很好",1', "8,差,0"]
    with pytest.raises(DataError, match="has no column '内容'; it has 0, 1, 2 and no header"):
        texts(path, text_column="内容")
    with pytest.raises(
        SettingsError, match="text_column is a column of tables and JSON lines, and format is"
    ):
        texts(path, text_column="1", format="lines")


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("a.csv", "sentence1,sentence2\n甲,乙\n", "has two columns of texts, sentence1 and sentence2"),
        ("a.csv", "货号,说明\n1,房间很大\n2,早餐差\n", "may be an example or the names of the columns"),
        ("a.csv", "text;label\n好;1\n", "say --delimiter ';'"),
        ("a.csv", 'text,label\n"好,1\n', "opens a cell in line 2 is not closed"),
        ("a.csv", "text,label\n好,1,2\n", "line 2: 3 columns where the first row has 2"),
        ("a.json", '[{"text": "好"}]', "is one list of JSON; write one object a line"),
    ],
)
def test_doubtful_tables_are_asked_for(tmp_path: Path, name: str, content: str, rule: str) -> None:
    path = write(tmp_path / name, content)
    for read in (texts, lambda path: list(read_documents([path]))):
        with pytest.raises(DataError, match=rule):
            read(path)


def test_a_table_of_one_column_is_a_text_a_row(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.csv", '"好,很好"\n\n差\n')) == ["好,很好", "", "差"]
    assert texts(write(tmp_path / "b.csv", "内容\n好\n")) == ["好"]
    assert texts(write(tmp_path / "c.txt", "内容,标签\n好,1\n")) == ["内容,标签", "好,1"]


def test_neither_header_nor_labels_reach_a_store_or_a_vocabulary(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", CSV.replace("来", "来对"))
    plain = write(tmp_path / "a.txt", '很好,我要"来对"\n\n不好\n不来对\n')
    characters(tmp_path / "vocab")
    stores = [
        prepare([source], tokenizer=tmp_path / "vocab", out=tmp_path / f"{source.suffix}.store", words="none")
        for source in (path, plain)
    ]
    assert stores[0].num_tokens == stores[1].num_tokens
    assert stores[0].num_documents == 2
    learned = [
        learn_tokenizer([source], out=tmp_path / f"{source.suffix}.vocab", vocab_size=40)
        for source in (path, plain)
    ]
    assert learned[0].vocab_size == learned[1].vocab_size


def test_embedding_measuring_and_showing_read_the_column(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    path = write(tmp_path / "a.csv", CSV)
    model = small_model(tmp_path, "bert")
    assert embed(path, model=model, out=tmp_path / "a.npy", threads=1) == 2
    assert embed(path, model=model, out=tmp_path / "b.npy", text_column="情感", threads=1) == 2
    lines = write(tmp_path / "a.txt", "好评\n差评\n")
    embed(lines, model=model, out=tmp_path / "c.npy", threads=1)
    assert (numpy.load(tmp_path / "b.npy") == numpy.load(tmp_path / "c.npy")).all()
    assert (numpy.load(tmp_path / "a.npy") != numpy.load(tmp_path / "b.npy")).any()
    assert [cut.text for cut in show_tokens(file=path, tokenizer=model, words="none")] == TEXTS
    shown = show_tokens(file=path, tokenizer=model, words="none", text_column="情感")
    assert [cut.text for cut in shown] == ["好评", "差评"]
    tokenizer = characters(tmp_path / "vocab")
    settings = PerplexitySettings(words="characters", text=TextSettings(text_column="情感"))
    assert sum(text.num_characters for text in tokenized(path, tokenizer, settings)) == 4
