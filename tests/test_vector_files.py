"""Vectors on disk: exact, in order, whole, and as small as asked."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from polyseme.embedding.files import format_of, made, read_vectors
from polyseme.embedding.jobs import begun
from polyseme.embedding.quantising import Packing, Vectors, ranges_of, shortened
from polyseme.embedding.settings import OutputPrecision, OutputSettings
from polyseme.errors import DataError, SettingsError
from polyseme.records import from_plain

Blocks = list[tuple[list[str], Vectors]]
WIDTH = 13
SUFFIXES = (".npy", ".parquet", ".jsonl")
PRECISIONS = get_args(OutputPrecision)


@pytest.fixture
def blocks() -> Blocks:
    rng = np.random.default_rng(0)
    return [
        ([f"第{n}行\t“引号”" for n in range(size)], rng.standard_normal((size, WIDTH)).astype(np.float32))
        for size in (3, 1, 5, 1)
    ]


def write(path: Path, blocks: Blocks, precision: OutputPrecision = "fp32", **story: Any) -> Packing:
    how = {"text": "fingerprint", "dimensions": WIDTH, "output_precision": precision, **story}
    ranges = ranges_of(blocks[0][1]) if precision == "int8" else None
    folder = path.with_name("job")
    folder.mkdir(exist_ok=True)
    job = begun(path, folder, format_of(path), how, ranges=ranges, environment={})
    for texts, vectors in blocks:
        job.add(texts, job.packing.pack(vectors))
    assert job.finish() == sum(len(texts) for texts, _ in blocks)
    return job.packing


def whole(blocks: Blocks) -> tuple[list[str], Vectors]:
    return [t for texts, _ in blocks for t in texts], np.concatenate([v for _, v in blocks])


def nearest(vectors: Vectors, precision: str, low: Vectors, high: Vectors) -> Vectors:
    """What a file may keep of the vectors, computed another way: by looking at every step of a range."""
    if precision == "fp16":
        return vectors.astype(np.float16).astype(np.float32)
    if precision == "binary":
        return np.where(vectors > 0, 1, -1).astype(np.float32)
    if precision == "int8":
        steps = np.linspace(low, high, 256)  # [256, dimensions]
        places = np.abs(vectors[:, None] - steps).argmin(axis=1)
        return np.take_along_axis(steps, places, axis=0).astype(np.float32)
    return vectors


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_format_keeps_order_and_every_bit_that_was_asked_for(
    tmp_path: Path, blocks: Blocks, suffix: str, precision: OutputPrecision
) -> None:
    path = tmp_path / f"v{suffix}"
    packing = write(path, blocks, precision)
    texts, vectors = whole(blocks)
    stored = read_stored(path)
    assert stored.dtype == packing.dtype
    np.testing.assert_array_equal(stored, packing.pack(vectors))
    low, high = blocks[0][1].min(axis=0), blocks[0][1].max(axis=0)
    np.testing.assert_allclose(read_vectors(path), nearest(vectors, precision, low, high), atol=1e-6)
    if suffix != ".npy":
        assert read_texts(path) == texts


def read_stored(path: Path) -> Any:
    """The numbers of a file as somebody reads them who knows nothing of polyseme."""
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        column = parquet.read_table(path)["vector"]
        kind = column.type.value_type.to_pandas_dtype()
        return np.array(column.to_pylist(), dtype=kind)
    rows = [json.loads(line)["vector"] for line in path.read_text("utf-8").splitlines()]
    told = json.loads(path.with_name(path.name + ".json").read_text("utf-8"))["how"]["output_precision"]
    return np.array(rows, dtype={"fp32": "f4", "fp16": "f2", "int8": "i1", "binary": "u1"}[told])


def read_texts(path: Path) -> Sequence[str]:
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        return parquet.read_table(path, columns=["text"])["text"].to_pylist()  # type: ignore[no-any-return]
    return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]


def test_every_block_is_a_row_group_that_can_be_read_alone(tmp_path: Path, blocks: Blocks) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "v.parquet", blocks)
    with parquet.ParquetFile(tmp_path / "v.parquet") as file:
        assert file.metadata.num_rows == 10
        for number, (texts, vectors) in enumerate(blocks):
            group = file.read_row_group(number)
            assert group["text"].to_pylist() == texts
            np.testing.assert_array_equal(np.array(group["vector"].to_pylist(), np.float32), vectors)


def test_parquet_is_what_pyarrow_itself_would_have_written(tmp_path: Path, blocks: Blocks) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "v.parquet", blocks)
    table = parquet.read_table(tmp_path / "v.parquet")
    with parquet.ParquetWriter(
        tmp_path / "theirs.parquet",
        table.schema,
        use_dictionary=["text"],
        compression={"text": "SNAPPY", "vector.list.element": "NONE"},
        write_statistics=False,
    ) as writer:
        start = 0
        for texts, _ in blocks:
            writer.write_table(table.slice(start, len(texts)))
            start += len(texts)
    ours, theirs = (
        parquet.read_metadata(tmp_path / name).to_dict() for name in ("v.parquet", "theirs.parquet")
    )
    for footer in (ours, theirs):
        del footer["serialized_size"]
    assert ours == theirs
    assert (tmp_path / "v.parquet").read_bytes()[:400] == (tmp_path / "theirs.parquet").read_bytes()[:400]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_tells_how_it_was_made_until_another_stands_there(
    tmp_path: Path, blocks: Blocks, suffix: str
) -> None:
    path = tmp_path / f"v{suffix}"
    assert made(path) is None
    write(path, blocks, "int8", pooling="mean")
    told = made(path)
    assert told is not None
    assert (told.rows, told.bytes) == (10, path.stat().st_size)
    assert told.how["pooling"] == "mean"
    np.testing.assert_array_equal(np.float32(told.how["ranges"]), ranges_of(blocks[0][1]))
    path.write_bytes(b"something else")
    assert made(path) is None
    with pytest.raises(DataError, match=r"does not say how its vectors were made; name a file that embed"):
        read_vectors(path)


def test_a_dimension_that_never_varied_is_kept(tmp_path: Path) -> None:
    vectors = np.full((4, WIDTH), 0.25, np.float32)
    write(tmp_path / "v.npy", [(list("abcd"), vectors)], "int8")
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.npy"), vectors)


def test_numbers_outside_the_ranges_are_kept_at_their_ends() -> None:
    packing = Packing("int8", 1, np.array([[-1], [1]], np.float32))
    codes = packing.pack(np.array([[-9.0], [-1.0], [0.999], [9.0]], np.float32))
    assert codes.ravel().tolist() == [-128, -128, 127, 127]


@pytest.mark.parametrize("value", [65520.0, -1e9])
def test_a_number_that_fp16_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(
        DataError, match=r"a vector holds .*, and fp16 ends at 65504; choose fp32, or normalize"
    ):
        Packing("fp16", 1).pack(np.array([[value]], np.float32))


def test_shortened_vectors_have_length_one_again_where_the_whole_ones_have() -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    np.testing.assert_array_equal(shortened(vectors, 3, normalize=False), vectors[:, :3])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    short = shortened(unit, 3, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        short, vectors[:, :3] / np.linalg.norm(vectors[:, :3], axis=1, keepdims=True), atol=1e-6
    )
    assert shortened(unit, 8, normalize=True) is not None
    np.testing.assert_array_equal(shortened(unit, 8, normalize=True), unit)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_precision": "fp8"}, "Invalid enum value 'fp8'"),
        ({"calibration": "some.txt"}, "calibration gives the ranges of int8, and output_precision is 'fp32'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        from_plain(options, OutputSettings, where="embed")


def test_an_unknown_suffix_is_named_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"v\.h5 has no suffix.*\.npy, \.parquet, \.jsonl"):
        format_of(tmp_path / "v.h5")
