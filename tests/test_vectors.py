"""Word vectors are read from the field's files, and damaged ones are refused in one line."""

from pathlib import Path

import numpy as np
import pytest

from polyseme.errors import DataError
from polyseme.text.vectors import read_vectors

WORDS = ["的", "程序", "café", "New York", "3.11", "法院"]
VALUES = np.random.default_rng(0).normal(size=(len(WORDS), 7)).astype("<f4")


def rows(words: list[str]) -> list[str]:
    return [
        f"{word} {' '.join(repr(float(value)) for value in row)}"
        for word, row in zip(words, VALUES, strict=False)
    ]


def word2vec_text(path: Path) -> Path:
    """With the blank at the end of each line that word2vec.c writes."""
    path.write_text(f"{len(WORDS)} 7\n" + "".join(row + " \n" for row in rows(WORDS)), encoding="utf-8")
    return path


def glove(path: Path) -> Path:
    path.write_text("\n".join(rows(WORDS)), encoding="utf-8")
    return path


def binary(path: Path, *, line_feeds: bool = True, words: int = len(WORDS)) -> Path:
    """word2vec.c ends each vector with a line feed, gensim does not."""
    data = f"{words} 7\n".encode()
    for word, row in zip([w.replace(" ", "_") for w in WORDS], VALUES, strict=True):
        data += word.encode() + b" " + row.tobytes() + (b"\n" if line_feeds else b"")
    path.write_bytes(data)
    return path


def matrix(path: Path) -> Path:
    np.save(path.with_suffix(".npy"), VALUES)
    path.with_suffix(".txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path.with_suffix(".npy")


@pytest.mark.parametrize("write", [word2vec_text, glove, matrix], ids=lambda write: write.__name__)
def test_text_files_and_matrices_give_words_and_vectors(write: object, tmp_path: Path) -> None:
    path = write(tmp_path / "vectors")  # type: ignore[operator]
    words, vectors = zip(*read_vectors(path), strict=True)
    assert list(words) == WORDS
    assert np.array_equal(np.stack(vectors), VALUES)


@pytest.mark.parametrize("line_feeds", [True, False])
def test_binary_files_are_read_with_and_without_line_feeds(line_feeds: bool, tmp_path: Path) -> None:
    words, vectors = zip(*read_vectors(binary(tmp_path / "v.bin", line_feeds=line_feeds)), strict=True)
    assert list(words) == [word.replace(" ", "_") for word in WORDS]
    assert np.array_equal(np.stack(vectors), VALUES)


def test_files_of_several_blocks_are_streamed(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(30_000, 12)).astype("<f4")
    with (tmp_path / "big.bin").open("wb") as file:
        file.write(b"30000 12\n")
        for number, row in enumerate(values):
            file.write(f"w{number} ".encode() + row.tobytes())
    assert (tmp_path / "big.bin").stat().st_size > 1 << 20
    found = list(read_vectors(tmp_path / "big.bin"))
    assert [word for word, _ in found] == [f"w{number}" for number in range(30_000)]
    assert np.array_equal(np.stack([vector for _, vector in found]), values)


def test_what_is_no_file_of_vectors_is_refused(tmp_path: Path) -> None:
    def refused(message: str, path: Path) -> None:
        with pytest.raises(DataError, match=message):
            list(read_vectors(path))

    refused("there is no file of word vectors", tmp_path / "nothing.txt")
    cut = binary(tmp_path / "cut.bin")
    cut.write_bytes(cut.read_bytes()[:-10])
    refused("cut off inside the vector of a word", cut)
    refused("says that it has 9 words and has 6", binary(tmp_path / "few.bin", words=9))
    (tmp_path / "wide.txt").write_text("3 4000000\nabc", encoding="utf-8")
    refused("its vectors have 4000000 numbers", tmp_path / "wide.txt")
    (tmp_path / "prose.txt").write_text("今天天气很好。\n", encoding="utf-8")
    refused("line 1 of the vectors is no word", tmp_path / "prose.txt")
    (tmp_path / "short.txt").write_text("a 1 2 3\nb 1 2\n", encoding="utf-8")
    refused("line 2 of the vectors is no word with its 3 numbers", tmp_path / "short.txt")
    (tmp_path / "nan.txt").write_text("a 1 2 3\nb 1 nan 2\n", encoding="utf-8")
    refused("vector of 'b' has a number that is not finite", tmp_path / "nan.txt")
    alone = matrix(tmp_path / "alone")
    alone.with_suffix(".txt").write_text("a\nb\n", encoding="utf-8")
    refused("needs a row for each word", alone)
    alone.with_suffix(".txt").unlink()
    refused(r"the words of .*alone.npy are missing", alone)
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "objects.txt").write_text("a\n", encoding="utf-8")
    refused("is no NumPy matrix", tmp_path / "objects.npy")
