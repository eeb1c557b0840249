"""What would never end, or take time with the square of its length, ends at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_models import small_model

from polyseme.checkpoints.loading import load
from polyseme.errors import CheckpointError, DataError
from polyseme.tasks.treebank_words import treebank_words
from polyseme.text.sentences import sentences
from polyseme.text.wikipedia import articles, plain_lines


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail where the block takes longer; what is tried in it takes a moment, or hours."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"it takes more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "sign", ["[//", "[http", "[http://a ", "{|", "{{", "-{", "<ref>", "<!--", "''", "==", "(", "&#"]
)
@pytest.mark.parametrize("rest", [" ", "a", "'", "=", "_", "<", "[", "{", "9", "\n"])
def test_wiki_markup_that_stays_open_takes_time_with_its_length_only(sign: str, rest: str) -> None:
    with within(30):
        plain_lines(sign + rest * 200_000)
        plain_lines((sign + rest * 5) * 20_000)


def test_a_reference_of_thousands_of_digits_is_no_character() -> None:
    assert plain_lines("甲&#" + "9" * 5_000 + ";乙&#x" + "f" * 5_000 + ";") == ["甲�乙�"]
    assert plain_lines("&#" + "0" * 5_000 + "20013;") == ["中"]


def test_a_page_or_a_tag_without_end_is_refused() -> None:
    def page(piece: bytes) -> Iterator[bytes]:
        yield b"<mediawiki><page><title>t</title><ns>0</ns><revision><text"
        yield from [piece * (1 << 20)] * 20

    with pytest.raises(DataError, match="dump: a tag is longer than"):
        list(articles(page(b"a"), name="dump"))

    def text() -> Iterator[bytes]:
        yield b"<mediawiki><page><title>t</title><ns>0</ns><revision><text>"
        yield from [b"a" * (1 << 20)] * 20

    with pytest.raises(DataError, match="dump: the page 't' is longer than 16,777,216 characters"):
        list(articles(text(), name="dump"))


@pytest.mark.parametrize("marks", ["！", "!", "…", ".", ".。", "！？”", '"'])
@pytest.mark.parametrize("end", ["，", "a", " a", ""])
def test_rows_of_marks_are_cut_in_time_with_their_length_only(marks: str, end: str) -> None:
    with within(30):
        found = sentences("甲" + marks * 200_000 + end)
    assert found[0][0] == 0


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "x.bin"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_opened_as_files_of_a_model(tmp_path: Path, name: str, kind: str) -> None:
    folder = small_model(tmp_path, "bert", num_layers=1)
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).mkdir()
    with within(30), pytest.raises(CheckpointError, match=rf"{name} is a (named )?{kind}, not a file"):
        load(folder)


def test_the_last_stop_of_a_sentence_before_many_blanks_is_found_in_time_with_their_number_only() -> None:
    with within(30):
        assert treebank_words("a." + " " * 200_000 + "b") == ["a.", "b"]
        assert treebank_words("a." + " " * 200_000) == ["a", "."]
