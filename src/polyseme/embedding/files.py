"""Vectors on disk, in files that grow block by block and can be read again: NumPy, Parquet, JSON lines."""

import functools
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from polyseme import progress
from polyseme.embedding.parquet_footers import MAGIC, RowGroup, joined, split
from polyseme.embedding.quantising import Packing, Vectors
from polyseme.embedding.settings import OutputPrecision
from polyseme.errors import CheckpointError, DataError, MissingExtra, SettingsError
from polyseme.files import followed
from polyseme.integrity import read_checked_record
from polyseme.records import Record, decode_json, from_plain

Rows = NDArray[Any]
"""Vectors as they are stored: `[texts, columns]`."""


class Made(Record, frozen=True, kw_only=True):
    """What a file of vectors says of itself: in Parquet's metadata as `polyseme`, else in one beside it."""

    rows: int
    bytes: int
    how: dict[str, Any]
    """Model, text, settings and versions."""


class Laid(NamedTuple):
    """A block that lies in the file."""

    start: int
    note: bytes


class VectorFormat(Protocol):
    """How vectors lie in a file: a head, blocks that depend on their own texts only, and a tail."""

    def head(self, rows: int) -> bytes:
        """What stands before the first block; of the same length for any number of rows."""

    def block(self, texts: Sequence[str], rows: Rows) -> tuple[bytes, bytes]:
        """The bytes of a block, and a note that `tail` wants back."""

    def tail(self, blocks: Iterable[Laid]) -> bytes:
        """What stands behind the last block."""


Maker = Callable[[Packing, dict[str, Any]], VectorFormat]
"""A format for vectors that are packed so and were made so."""


def format_of(path: Path) -> Maker:
    """The format that the suffix of `path` names; a `DataError`, or `MissingExtra`, where there is none."""
    if path.suffix not in FORMATS:
        raise DataError(f"{path} has no suffix of a format for vectors; use one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix]()


def beside(path: Path) -> Path:
    """Where a file of vectors that cannot tell itself has what tells how it was made: `v.npy.json`."""
    return path.with_name(f"{path.name}.json")


def made(path: Path) -> Made | None:
    """What a file of vectors says of itself; None where there is none, or it does not tell."""
    if not path.is_file():
        return None
    try:
        if path.suffix in TELLING:
            return TELLING[path.suffix](path)
        told = read_checked_record(beside(path), Made)
        return told if told.bytes == path.stat().st_size else None
    except (OSError, SettingsError):
        return None
    except CheckpointError as error:
        progress.warn(f"{error}; how {path} was made is not known")
        return None


def read_vectors(path: str | Path) -> Vectors:
    """The vectors of a file that `embed` wrote, `[texts, dimensions]`, whatever their precision in the file.

    >>> read_vectors("v.parquet").shape  # doctest: +SKIP
    (1000, 384)
    """
    path = followed(Path(path))
    told = made(path)
    if told is None:
        raise DataError(f"{path} does not say how its vectors were made; name a file that embed wrote")
    packing = packing_of(told.how, where=str(path))
    try:
        vectors: Vectors = packing.unpack(_READERS[path.suffix](path, packing))
    except (KeyError, OverflowError, ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} holds no vectors that can be read: {error}; write it again") from error
    return vectors


class _Packed(msgspec.Struct, frozen=True):
    """What decides the packing, among what a file says of how it was made."""

    output_precision: OutputPrecision
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    ranges: list[list[float]] | None = None


def packing_of(how: dict[str, Any], *, where: str) -> Packing:
    """The packing that a file, or one in the making, says it has; `where` names it in the `SettingsError`."""
    packed = from_plain(how, _Packed, where=where)
    if packed.ranges is None and packed.output_precision == "int8":
        raise SettingsError(f"{where} has no ranges, which int8 needs")
    if packed.ranges is None:
        return Packing(packed.output_precision, packed.dimensions, None)
    if [len(row) for row in packed.ranges] != [packed.dimensions] * 2:
        raise SettingsError(f"{where}: the ranges must be two lists of {packed.dimensions} numbers")
    return Packing(packed.output_precision, packed.dimensions, np.array(packed.ranges, dtype=np.float32))


class _Numpy:
    """A matrix whose header tells the number of rows at the end."""

    def __init__(self, packing: Packing, how: dict[str, Any]) -> None:
        self._packing = packing

    def head(self, rows: int) -> bytes:
        # NumPy leaves room for the rows to grow, so the length is the same for any number of them.
        buffer = io.BytesIO()
        shape = (rows, self._packing.columns)
        kind = np.lib.format.dtype_to_descr(self._packing.dtype)
        np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
        return buffer.getvalue()

    def block(self, texts: Sequence[str], rows: Rows) -> tuple[bytes, bytes]:
        return rows.tobytes(), b""

    def tail(self, blocks: Iterable[Laid]) -> bytes:
        return b""


class _JsonLines:
    """An object a line: the text and its vector."""

    def __init__(self, packing: Packing, how: dict[str, Any]) -> None:
        self._whole_numbers = packing.dtype.kind in "iu"
        self._encoder = msgspec.json.Encoder()

    def head(self, rows: int) -> bytes:
        return b""

    def block(self, texts: Sequence[str], rows: Rows) -> tuple[bytes, bytes]:
        lines = [
            self._encoder.encode({"text": text, "vector": self._plain(row)})
            for text, row in zip(texts, rows, strict=True)
        ]
        return b"".join(line + b"\n" for line in lines), b""

    def _plain(self, row: Rows) -> list[Any]:
        # A float32 takes at most nine digits; as a Python float it would be written with seventeen.
        return row.tolist() if self._whole_numbers else [float(str(value)) for value in row]

    def tail(self, blocks: Iterable[Laid]) -> bytes:
        return b""


class _Parquet:
    """One row group a block: a column of texts and one of lists of fixed length."""

    def __init__(self, pyarrow: Any, packing: Packing, how: dict[str, Any]) -> None:
        self._pyarrow = pyarrow
        kind = pyarrow.list_(pyarrow.from_numpy_dtype(packing.dtype), packing.columns)
        self._schema = pyarrow.schema([("text", pyarrow.string()), ("vector", kind)])
        self._how = msgspec.json.encode(how)
        # Codes of eight bits are stored as 32 unless a dictionary of their 256 values stands before them;
        # floats hardly ever repeat, and compressing them costs time and gains nothing.
        coded = packing.dtype.itemsize == 1
        self._options = {
            "use_dictionary": ["text", "vector.list.element"] if coded else ["text"],
            "compression": {"text": "SNAPPY", "vector.list.element": "NONE"},
            "write_statistics": False,
        }

    def head(self, rows: int) -> bytes:
        return MAGIC

    def block(self, texts: Sequence[str], rows: Rows) -> tuple[bytes, bytes]:
        values = self._pyarrow.array(rows.reshape(-1))
        columns = [
            self._pyarrow.array(list(texts), type=self._pyarrow.string()),
            self._pyarrow.FixedSizeListArray.from_arrays(values, rows.shape[1]),
        ]
        table = self._pyarrow.Table.from_arrays(columns, schema=self._schema)
        return split(self._file(self._schema, table))

    def tail(self, blocks: Iterable[Laid]) -> bytes:
        empty = self._file(self._schema.with_metadata({"polyseme": self._how}), None)
        return joined(empty, (RowGroup(block.start, block.note) for block in blocks))

    def _file(self, schema: Any, table: Any) -> bytes:
        buffer = io.BytesIO()
        with self._pyarrow.parquet.ParquetWriter(buffer, schema, **self._options) as writer:
            if table is not None:
                writer.write_table(table, row_group_size=len(table))
        return buffer.getvalue()


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", extra="parquet") from error
    return pyarrow


def _told_by_parquet(path: Path) -> Made | None:
    pyarrow = _pyarrow()
    try:
        footer = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowException, OSError):
        return None
    told = (footer.metadata or {}).get(b"polyseme")
    if told is None:
        return None
    how = decode_json(told, where=str(path))
    if not isinstance(how, dict):
        return None
    return Made(rows=footer.num_rows, bytes=path.stat().st_size, how=how)


def _rows_of_parquet(path: Path, packing: Packing) -> Rows:
    column = _pyarrow().parquet.read_table(path, columns=["vector"])["vector"].combine_chunks()
    return np.asarray(column.flatten()).reshape(-1, packing.columns)


def _rows_of_json_lines(path: Path, packing: Packing) -> Rows:
    decode = msgspec.json.Decoder(msgspec.defstruct("Row", [("vector", list[float])])).decode
    with path.open("rb") as file:
        return np.array([decode(line).vector for line in file], dtype=packing.dtype)  # type: ignore[attr-defined]


FORMATS: dict[str, Callable[[], Maker]] = {
    ".npy": lambda: _Numpy,
    ".parquet": lambda: functools.partial(_Parquet, _pyarrow()),
    ".jsonl": lambda: _JsonLines,
}
"""Suffix to format, which loads what it needs."""

TELLING: dict[str, Callable[[Path], Made | None]] = {".parquet": _told_by_parquet}
"""The formats whose files say themselves how they were made."""

_READERS: dict[str, Callable[[Path, Packing], Rows]] = {
    ".npy": lambda path, packing: np.load(path, mmap_mode="r"),
    ".parquet": _rows_of_parquet,
    ".jsonl": _rows_of_json_lines,
}
