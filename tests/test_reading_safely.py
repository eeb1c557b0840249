"""Text from anywhere: lines without end, pipes, devices and nesting end in one line or are streamed."""

import gzip
import os
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyseme.errors import DataError
from polyseme.text import pipes
from polyseme.text.encodings import split_lines, whole_lines, whole_text
from polyseme.text.reading import MAX_LINE, TextSettings, read_documents, read_lines
from polyseme.text.surveying import survey


@given(st.text("文。 \n", max_size=60), st.lists(st.integers(1, 9), min_size=60, max_size=60))
def test_where_a_long_line_is_cut_depends_on_the_text_alone(text: str, sizes: list[int]) -> None:
    def pieces(*sizes: int) -> list[str]:
        texts, start = [], 0
        for size in sizes:
            texts.append(text[start : start + size])
            start += size
        return [line for batch in split_lines(texts, longest=8) for line in batch]

    found = pieces(*sizes)
    assert found == pieces(60) == pieces(*[1] * 60)
    assert all(len(piece) <= 8 for piece in found)
    assert "".join(found) == text.replace("\n", "")


def test_a_document_of_one_line_is_streamed_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    with path.open("wb") as file:
        for _ in range(100):
            file.write("一行没有尽头的文字。".encode() * 35_000)
    tracemalloc.start()
    for document in read_documents([path]):
        assert sum(map(len, document.lines)) <= 1 << 22
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < path.stat().st_size / 2


@pytest.mark.parametrize("form", ["lines", "pairs", "jsonl"])
def test_a_line_that_is_one_text_is_refused_by_its_number_where_it_never_ends(
    tmp_path: Path, form: str
) -> None:
    path = tmp_path / "lines.gz"  # a few kilobytes that unpack to a line of many megabytes
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * (form == "jsonl") + b"a" * (MAX_LINE + 1)))
    number = 2 if form == "jsonl" else 1
    with pytest.raises(DataError, match=rf"lines\.gz, line {number} is longer than 16,777,216 characters"):
        list(read_documents([path], TextSettings(format=form)))  # type: ignore[arg-type]
    if form != "pairs":
        with pytest.raises(
            DataError, match=rf"lines\.gz, line {number} is longer than 16,777,216 characters"
        ):
            list(read_lines(path, TextSettings(format=form)))  # type: ignore[arg-type]


def test_the_line_that_is_too_long_is_named_wherever_it_stands() -> None:
    for text in ("ab\nabc\nabcd\na", "ab\nabc\nabcd"):
        for size in range(1, 14):
            texts = [text[start : start + size] for start in range(0, len(text), size)]
            with pytest.raises(DataError, match="x, line 3 is longer than 3 characters"):
                list(whole_lines(texts, name="x", longest=3))
    with pytest.raises(DataError, match="x has more than 3 characters"):
        whole_text(["ab", "cd"], name="x", longest=3)


def test_a_pipe_is_read_like_a_file_and_never_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_text("第一行\n第二行\n" * 50_000, encoding="utf-8"))
    writer.start()
    assert len(list(read_lines(path))) == 100_000
    writer.join()
    monkeypatch.setattr(pipes, "WAIT_SECONDS", 0.1)
    with pytest.raises(DataError, match=r"no process writes into the pipe .*pipe"):
        list(read_lines(path))


@pytest.mark.parametrize("read", [lambda path: list(read_lines(path)), survey])
def test_a_device_is_no_text(read: object, tmp_path: Path) -> None:
    (tmp_path / "text.txt").symlink_to("/dev/zero")
    with pytest.raises(
        DataError, match=r"text.txt is a device; name a file, a pipe, or - for standard input"
    ):
        read(tmp_path / "text.txt")  # type: ignore[operator]


def test_pipes_and_devices_in_a_folder_of_text_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("文字\n", encoding="utf-8")
    os.mkfifo(tmp_path / "b.txt")
    (tmp_path / "c.txt").symlink_to("/dev/zero")
    assert [document.lines for document in read_documents([tmp_path])] == [["文字"]]


@pytest.mark.parametrize("value", ["[" * 100_000, '{"a":' * 100_000, '{"text": ' + "9" * 5_000 + "}"])
def test_an_object_that_no_reader_can_hold_is_named_with_its_line(tmp_path: Path, value: str) -> None:
    (tmp_path / "deep.jsonl").write_text('{"text": "好"}\n' + value + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"deep.jsonl, line 2"):
        list(read_documents([tmp_path / "deep.jsonl"]))
    with pytest.raises(DataError, match=r"deep.jsonl, line 2"):
        list(read_lines(tmp_path / "deep.jsonl"))
    (tmp_path / "deep.txt").write_text(value + "\n", encoding="utf-8")
    assert [document.lines for document in read_documents([tmp_path / "deep.txt"])] == [[value]]
