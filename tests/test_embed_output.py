"""What a job of `embed` writes: texts of folders and patterns in order, shortened and quantised vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from embed_runs import BLOCK, TINY, Recorder, some_lines, write_lines
from rounding import through_a_network, unit
from small_models import small_model

from polyseme.embedding import embedding
from polyseme.embedding.embedder import Embedder, Vectors
from polyseme.embedding.embedding import embed
from polyseme.embedding.files import made, read_vectors
from polyseme.errors import SettingsError
from polyseme.progress import reporting


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"), **TINY, normalize=True)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_TEXTS", BLOCK)


def test_a_folder_and_a_pattern_are_read_in_order_and_packing_does_not_matter(
    tmp_path: Path, model: Path
) -> None:
    import gzip

    lines = some_lines(400)
    (tmp_path / "texts").mkdir()
    write_lines(tmp_path / "texts" / "a.txt", lines[:150])
    write_lines(tmp_path / "texts" / "b.txt", lines[150:])
    words = {"model": model, "threads": 1}
    assert embed(tmp_path / "texts", out=tmp_path / "folder.npy", **words) == 400
    assert embed(tmp_path / "texts" / "*.txt", out=tmp_path / "pattern.npy", **words) == 400
    assert embed(write_lines(tmp_path / "one", lines), out=tmp_path / "one.npy", **words) == 400
    assert np.array_equal(np.load(tmp_path / "folder.npy"), np.load(tmp_path / "one.npy"))
    assert np.array_equal(np.load(tmp_path / "folder.npy"), np.load(tmp_path / "pattern.npy"))
    packed = tmp_path / "texts" / "a.txt"
    (tmp_path / "texts" / "a.txt.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    with reporting(recorder := Recorder()):
        assert embed(tmp_path / "texts", out=tmp_path / "folder.npy", **words) == 400
    assert "is whole already" in recorder.lines[0]


def test_what_stands_twice_in_a_block_is_computed_once(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Embedder.sentences
    read: list[str] = []

    def sentences(self: Embedder, texts: Any) -> Vectors:
        read.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(Embedder, "sentences", sentences)
    lines = ["很好", "差", "很好", "", "差", ""] * 100
    text = write_lines(tmp_path / "text", lines)
    embed(text, model=model, out=tmp_path / "v.npy", threads=1)
    # 600 lines are ten blocks, and each has the same three texts.
    assert len(read) == 30
    assert set(read) == {"很好", "差", ""}
    vectors = np.load(tmp_path / "v.npy")
    alone = real(Embedder.load(model, threads=1), ["很好", "差", ""])
    np.testing.assert_allclose(
        vectors, alone[[("很好", "差", "").index(line) for line in lines]], atol=through_a_network(alone)
    )


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".jsonl"])
def test_shortened_and_quantised_vectors_are_those_of_the_model(
    tmp_path: Path, model: Path, suffix: str
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    lines = ["酒店很好", "", *some_lines(300)]
    text = write_lines(tmp_path / "text", lines)
    plain = Embedder.load(model, threads=1, normalize=False).sentences(lines)[:, :6]
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    words = {"model": model, "threads": 1, "dimensions": 6}
    # One rounding of numbers up to 1, or half a step of a dimension's range.
    half_step = (plain.max(axis=0) - plain.min(axis=0)) / 255 * 0.51
    for precision, rounding in (("fp32", 0.0), ("fp16", unit(torch.float16)), ("int8", half_step)):
        out = tmp_path / f"{precision}{suffix}"
        embed(
            text,
            out=out,
            output_precision=precision,
            calibration=text if precision == "int8" else None,
            **words,
        )
        assert (np.abs(read_vectors(out) - plain) <= rounding + through_a_network(plain)).all()
    embed(text, out=tmp_path / f"binary{suffix}", output_precision="binary", **words)
    clear = np.abs(plain) > through_a_network(plain)
    signs = read_vectors(tmp_path / f"binary{suffix}")
    np.testing.assert_array_equal(signs[clear], np.sign(plain)[clear])


def test_the_ranges_of_int8_are_the_first_block_s_or_the_sample_s(tmp_path: Path, model: Path) -> None:
    lines = some_lines(600)
    text = write_lines(tmp_path / "text", lines)
    words = {"model": model, "threads": 1, "output_precision": "int8"}
    embed(text, out=tmp_path / "first.npy", **words)
    embed(text, out=tmp_path / "sample.npy", calibration=write_lines(tmp_path / "s", lines[400:500]), **words)
    vectors = Embedder.load(model, threads=1).sentences(lines)
    for name, sample in (("first", vectors[:BLOCK]), ("sample", vectors[400:500])):
        told = made(tmp_path / f"{name}.npy")
        assert told is not None
        np.testing.assert_allclose(
            told.how["ranges"], [sample.min(axis=0), sample.max(axis=0)], atol=through_a_network(vectors)
        )


def test_more_dimensions_than_there_are_is_refused(tmp_path: Path, model: Path) -> None:
    text = write_lines(tmp_path / "text", ["很好"])
    with pytest.raises(SettingsError, match="dimensions=17, but the vectors of this model have 16"):
        embed(text, model=model, out=tmp_path / "v.npy", dimensions=17)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
