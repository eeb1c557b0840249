import bz2
import functools
import gzip
import lzma
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyseme.errors import DataError, SettingsError
from polyseme.text.encodings import decoded, likely_encoding, whole_lines
from polyseme.text.reading import Document, TextSettings, expand, read_documents, read_lines, size

CHINESE = "我们在这里说的是中文，他们也会说。\n这个国家的人很多！\n\n后来她去了学校，因为天气好。\n"
TRADITIONAL = "我們在這裡說的是中文，他們也會說。\n這個國家的人很多！\n\n後來她去了學校，因為天氣好。\n"


NOISE = random.Random(0).randbytes(5000).hex().encode()


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines_of(*sources: str | Path, **settings: str) -> list[list[str]]:
    return [document.lines for document in read_documents(sources, TextSettings(**settings))]  # type: ignore[arg-type]


def test_a_blank_line_parts_documents_and_so_does_the_end_of_a_file(tmp_path: Path) -> None:
    first = write(tmp_path / "a", "\n一\n二\n \t\u3000\n\n三")
    second = write(tmp_path / "b", "四\n")
    assert lines_of(first, second) == [["一", "二"], ["三"], ["四"]]


def test_a_line_may_be_a_document(tmp_path: Path) -> None:
    assert lines_of(write(tmp_path / "a", "一\n\n二\n"), format="lines") == [["一"], ["二"]]


def test_crlf_and_cr_end_lines_but_other_separators_do_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "一\r\n二\r三\u2028四\x0b五\x85六\n\r\n七")
    assert lines_of(path) == [["一", "二", "三\u2028四\x0b五\x85六"], ["七"]]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert lines_of(write(tmp_path / "a", "\ufeff一".encode())) == [["一"]]
    assert lines_of(write(tmp_path / "b", "一二".encode("utf-16")), encoding="utf-16") == [["一二"]]
    assert lines_of(write(tmp_path / "c", b"\xff\xfe\x00\x4e"), encoding="utf-16-le") == [["一"]]


def test_pairs_have_two_sides(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "你好\tHello\n再见\tBye\n\n是\tYes\n")
    assert list(read_documents([path], TextSettings(format="pairs"))) == [
        Document(["你好", "再见"], ["Hello", "Bye"]),
        Document(["是"], ["Yes"]),
    ]


@pytest.mark.parametrize(("row", "columns"), [("a", "1 column;"), ("a\tb\tc", "3 columns;")])
def test_a_row_of_pairs_without_two_columns_is_named(tmp_path: Path, row: str, columns: str) -> None:
    path = write(tmp_path / "a", f"a\tb\n{row}\n")
    with pytest.raises(
        DataError, match=f"a, line 2 has {columns} format pairs needs two texts split by a tab"
    ):
        lines_of(path, format="pairs")


def test_json_lines_give_their_field_and_lists_are_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", '{"text": "一\\n二\\n\\n三", "id": 1}\n\n{"id": 2, "text": ["四", "五"]}\n'
    )
    assert lines_of(path) == [["一", "二", "三"], ["四", "五"]]
    assert lines_of(write(tmp_path / "b", '{"名 字": "六"}'), field="名 字") == [["六"]]
    assert lines_of(write(tmp_path / "c", "{ not json }\n")) == [["{ not json }"]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"body": "x", "id": 1}', "line 2 has no field 'text'; its fields are: body, id; name .* --field"),
        ("{}", "line 2 has no field 'text'; its fields are: none;"),
        ("[1]", "line 2 is not a JSON object"),
        ('{"text": 3}', "line 2: the field 'text' holds neither a text nor a list of texts"),
        ('{"text": "x', "line 2 is not JSON"),
        (r'{"text": "a\ud83d"}', "line 2 is not JSON: it has half of a surrogate pair; .* --errors replace"),
    ],
)
def test_a_wrong_json_line_is_named_with_what_it_lacks(tmp_path: Path, row: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"text": "x"}}\n{row}\n')
    with pytest.raises(DataError, match=message):
        lines_of(path)


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        (r"a\ud83d", "a�"),
        (r"a\uDE00b", "a�b"),
        (r"\ud83d\ud83d\ude00\ude00", "�😀�"),
        (r"\ud83d\n\u4e00", "�\n一"),
        (r"\\ud83d\\\ud83d", r"\ud83d" + "\\�"),
        (r"\u597d", "好"),
    ],
)
def test_half_a_character_in_json_is_replaced_on_request(tmp_path: Path, text: str, mended: str) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"text": "{text}"}}\n')
    assert lines_of(path, errors="replace") == [mended.split("\n")]


def test_a_line_with_half_a_character_and_without_the_field_says_what_it_lacks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", r'{"stuff": "a\ud83d"}')
    with pytest.raises(DataError, match="line 1 has no field 'text'; its fields are: stuff"):
        lines_of(path, errors="replace")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_known_by_their_content(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(CHINESE.encode())
    path = write(tmp_path / "a.txt", packed + packed)
    read: list[int] = []
    documents = list(read_documents([path], advance=read.append))
    assert [line for document in documents for line in document.lines] == [
        line for line in (CHINESE + CHINESE).split("\n") if line
    ]
    assert sum(read) == size([path]) == len(packed) * 2


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_that_is_cut_off_is_an_error(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    packed = pack(NOISE)
    for length in (6, 20, len(packed) // 2, len(packed) - 1):
        with pytest.raises(DataError, match="a is cut off: its compressed data ends early"):
            lines_of(write(tmp_path / "a", packed[:length]))


def test_an_empty_or_damaged_compressed_file_is_an_error(tmp_path: Path) -> None:
    for suffix in ("gz", "bz2", "xz"):
        with pytest.raises(DataError, match="cut off"):
            lines_of(write(tmp_path / f"a.{suffix}", b""))
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        packed = bytearray(pack(NOISE))
        packed[len(packed) // 2] ^= 255
        with pytest.raises(DataError, match=r"b is damaged: .*; fetch it again"):
            lines_of(write(tmp_path / "b", bytes(packed)))


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a is not text: byte 4 is zero; leave the file out"):
        lines_of(write(tmp_path / "a", b"\x7fELF\0\1\2\0\xff\xfe\0\0" * 10))
    with pytest.raises(DataError, match="b is a zip archive, not text"):
        lines_of(write(tmp_path / "b", b"PK\x03\x04\0\0"))
    assert lines_of(write(tmp_path / "c", b"a\0b"), errors="replace") == [["a�b"]]


@pytest.mark.parametrize(
    ("text", "encoding"), [(CHINESE, "gb18030"), (TRADITIONAL, "big5"), (CHINESE, "utf-16")]
)
def test_wrong_bytes_name_their_place_and_the_likely_encoding(
    tmp_path: Path, text: str, encoding: str
) -> None:
    path = write(tmp_path / "a", text.encode(encoding))
    with pytest.raises(
        DataError, match=rf"a.* byte \d+ .*try --encoding {encoding}|looks like {encoding} \(byte"
    ):
        lines_of(path)
    for chosen in ("auto", encoding):
        assert lines_of(path, encoding=chosen) == [part.split() for part in text.split("\n\n")]


@pytest.mark.parametrize("before", [0, 5, (1 << 20) - 2, 1 << 20, (1 << 20) + 7])
def test_the_place_of_a_wrong_byte_is_exact_across_blocks(tmp_path: Path, before: int) -> None:
    path = write(tmp_path / "a", b"x" * before + "好".encode() + b"\xff\n")
    with pytest.raises(DataError, match=rf"byte {before + 3} \(0xff\) is not utf-8"):
        lines_of(path)
    marked = write(tmp_path / "b", b"\xef\xbb\xbf" + b"x" * before + b"\xff\n")
    with pytest.raises(DataError, match=rf"byte {before + 3} \(0xff\) is not utf-8"):
        lines_of(marked)
    with pytest.raises(DataError, match=rf"byte {before} \(0xff\) is not gb18030"):
        lines_of(write(tmp_path / "c", b"x" * before + b"\xff\n"), encoding="gb18030")


def test_a_character_cut_off_at_the_end_of_a_file_is_named_or_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "好好".encode()[:-1])
    with pytest.raises(DataError, match=r"byte 3 \(0xe5\) is not utf-8; .*--errors replace to put � there"):
        lines_of(path)
    assert lines_of(path, errors="replace") == [["好�"]]


def test_encodings_are_guessed_from_common_characters() -> None:
    assert likely_encoding(CHINESE.encode("gb18030")) == "gb18030"
    assert likely_encoding(TRADITIONAL.encode("big5")) == "big5"
    assert likely_encoding("こんにちは。これは日本語のテキストです。".encode("shift_jis")) == "shift_jis"
    assert likely_encoding("이것은 한국어로 쓰인 글입니다. 나는 그를 보았다.".encode("euc-kr")) == "euc-kr"
    assert likely_encoding("Où est le café ? Très près d'ici, là-bas.".encode("cp1252")) == "cp1252"
    assert likely_encoding(CHINESE.encode()[:50]) == "utf-8"
    assert likely_encoding(CHINESE.encode("utf-16-le")) == "utf-16-le"
    assert likely_encoding("plain English".encode("utf-16-be")) == "utf-16-be"
    assert likely_encoding(CHINESE.encode("utf-16")) == "utf-16"
    assert likely_encoding(CHINESE.encode("utf-32")) == "utf-32"
    assert likely_encoding(bytes(range(256))) is None


def test_an_unknown_encoding_is_refused_with_examples() -> None:
    for name in ("utf-9", "base64"):
        with pytest.raises(ValueError, match=f"encoding '{name}' is not known; for instance utf-8, gb18030"):
            TextSettings(encoding=name)


def test_folders_and_patterns_stand_for_their_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    b, a = write(tmp_path / "sub" / "b.txt", "b"), write(tmp_path / "a.txt", "a")
    write(tmp_path / ".hidden", "no")
    write(tmp_path / ".git" / "config", "no")
    bracket = write(tmp_path / "c[1].md", "c")
    assert expand([tmp_path]) == [a, bracket, b]
    assert expand([tmp_path / "*.txt", str(tmp_path / "**" / "b*")]) == [a, b]
    assert expand([bracket, "-"]) == [bracket, Path("-")]
    assert size([tmp_path]) == 3
    assert size(["-"]) is None


def test_sources_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.txt is no file, no folder, and no pattern that matches"):
        expand([tmp_path / "nothing.txt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"the folder .*empty holds no files"):
        expand([tmp_path / "empty"])
    with pytest.raises(DataError, match="no text was named"):
        expand([])


def test_an_empty_file_is_an_error_only_where_there_is_no_text_at_all(tmp_path: Path) -> None:
    empty, blank = write(tmp_path / "empty", ""), write(tmp_path / "blank", "\n \n")
    text = write(tmp_path / "text", "a")
    assert lines_of(empty, text, blank) == [["a"]]
    with pytest.raises(DataError, match=r"there is no text in .*empty and 1 more"):
        lines_of(empty, blank)
    with pytest.raises(DataError, match=r"there is no text in .*empty"):
        list(read_lines(empty))


def test_lines_keep_their_order_and_the_empty_ones(tmp_path: Path) -> None:
    assert list(read_lines(write(tmp_path / "a", "一\n\n 二 \r\n\n"))) == ["一", "", " 二 ", ""]
    assert list(read_lines(write(tmp_path / "b", '{"text": "一"}\n{"text": ["二", "三"]}'))) == [
        "一",
        "二\n三",
    ]
    with pytest.raises(SettingsError, match="format pairs does not have one text a line"):
        list(read_lines(tmp_path / "a", TextSettings(format="pairs")))


def test_standard_input_is_read_like_a_file() -> None:
    program = "from polyseme.text.reading import read_documents\nprint(list(read_documents(['-'])))"
    packed = gzip.compress("一\n二".encode())
    done = subprocess.run([sys.executable, "-X", "utf8", "-c", program], input=packed, capture_output=True)
    assert done.stdout.decode().strip() == "[Document(lines=['一', '二'], side=None, continues=False)]"


def test_a_line_of_a_million_characters_arrives_whole(tmp_path: Path) -> None:
    line = "长" * 1_100_000
    path = write(tmp_path / "a", f"一\n{line}\n二")
    documents = list(read_documents([path]))
    assert [text for document in documents for text in document.lines] == ["一", line, "二"]
    assert [document.continues for document in documents] == [False, True]
    assert list(read_lines(path)) == ["一", line, "二"]


def test_a_line_without_end_is_cut_where_a_sentence_ends(tmp_path: Path) -> None:
    text = "长长的一句话。" * 900_000
    pieces = [line for document in read_documents([write(tmp_path / "a", text)]) for line in document.lines]
    assert "".join(pieces) == text
    assert len(pieces) > 1
    assert all(piece.endswith("。") for piece in pieces)


def test_memory_stays_flat_for_a_document_of_any_size(tmp_path: Path) -> None:
    def peak(lines: int) -> int:
        path = write(tmp_path / "a", "这是一行不长也不短的文字，没有空行。\n" * lines)
        tracemalloc.start()
        for document in read_documents([path]):
            assert sum(map(len, document.lines)) <= 1 << 21
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(400_000) < 1.1 * peak(200_000)


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))), st.integers(1, 7)
)
def test_blocks_of_any_size_give_the_same_lines(lines: list[str], step: int) -> None:
    batches = functools.partial(whole_lines, name="x", longest=1 << 24)
    data = "\n".join(lines).encode()
    blocks = [data[i : i + step] for i in range(0, len(data), step)]
    found = [line for batch in batches(decoded(blocks, name="x", errors="replace")) for line in batch]
    wanted = data.decode().removeprefix("\ufeff").replace("\0", "�").split("\n")
    assert found == (wanted if wanted[-1] else wanted[:-1])


def test_a_file_that_cannot_be_opened_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"link cannot be read: No such file or directory"):
        lines_of(tmp_path)
