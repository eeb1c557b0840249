"""Vectors on disk: exact, in order, and whole."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from polyseme.embedding.files import Vectors, vector_file
from polyseme.errors import DataError


def write(path: Path, blocks: Iterable[tuple[list[str], Vectors]], width: int) -> None:
    with vector_file(path, width=width) as writer:
        for texts, vectors in blocks:
            writer.write(texts, vectors)


@pytest.fixture
def blocks() -> list[tuple[list[str], Vectors]]:
    rng = np.random.default_rng(0)
    sizes = (3, 0, 5, 1)
    return [
        ([f"第{n}行\t“引号”" for n in range(size)], rng.standard_normal((size, 7)).astype(np.float32))
        for size in sizes
    ]


def expected(blocks: list[tuple[list[str], Vectors]]) -> tuple[list[str], Vectors]:
    return [t for texts, _ in blocks for t in texts], np.concatenate([v for _, v in blocks])


def test_numpy_reads_what_was_written_block_by_block(
    tmp_path: Path, blocks: list[tuple[list[str], Vectors]]
) -> None:
    write(tmp_path / "v.npy", blocks, 7)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert mapped.dtype == np.float32
    np.testing.assert_array_equal(mapped, expected(blocks)[1])


def test_no_texts_give_an_empty_matrix_of_the_right_width(tmp_path: Path) -> None:
    write(tmp_path / "v.npy", [], 7)
    assert np.load(tmp_path / "v.npy").shape == (0, 7)


def test_json_lines_keep_text_and_every_bit(tmp_path: Path, blocks: list[tuple[list[str], Vectors]]) -> None:
    write(tmp_path / "v.jsonl", blocks, 7)
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text("utf-8").splitlines()]
    texts, vectors = expected(blocks)
    assert [line["text"] for line in lines] == texts
    np.testing.assert_array_equal(np.array([line["vector"] for line in lines], np.float32), vectors)


def test_parquet_keeps_text_and_every_bit(tmp_path: Path, blocks: list[tuple[list[str], Vectors]]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "v.parquet", blocks, 7)
    table = parquet.read_table(tmp_path / "v.parquet")
    texts, vectors = expected(blocks)
    assert table["text"].to_pylist() == texts
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)


def stopped() -> Iterator[tuple[list[str], Vectors]]:
    yield ["new"], np.zeros((1, 2), np.float32)
    raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet"])
def test_a_run_that_stops_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    write(path, [(["old"], np.ones((1, 2), np.float32))], 2)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write(path, stopped(), 2)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_unknown_suffix_is_named_with_those_that_are_known(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"v\.h5 has no suffix.*\.npy, \.parquet, \.jsonl"),
        vector_file(tmp_path / "v.h5", width=2),
    ):
        pass
