"""Vectors on disk, written block by block and whole at the end: NumPy, Parquet, JSON lines."""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from polyseme.errors import DataError, MissingExtra
from polyseme.files import WholeFile, whole_file

Vectors = NDArray[np.float32]


class VectorWriter(Protocol):
    """Takes vectors block by block, in the order of the texts."""

    def write(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Append one block: `vectors` is `[len(texts), width]`."""


@contextlib.contextmanager
def vector_file(path: Path, *, width: int) -> Iterator[VectorWriter]:
    """A writer for the format that the suffix of `path` names; the file appears when the block ends well."""
    if path.suffix not in FORMATS:
        raise DataError(f"{path} has no suffix of a format for vectors; use one of {', '.join(FORMATS)}")
    with FORMATS[path.suffix](path, width) as writer:
        yield writer


@contextlib.contextmanager
def _numpy(path: Path, width: int) -> Iterator[VectorWriter]:
    with whole_file(path) as file:
        writer = _NumpyWriter(file, width)
        yield writer
        writer.finish()


class _NumpyWriter:
    """A matrix of float32 whose header, with the number of rows, is put in place at the end."""

    def __init__(self, file: WholeFile, width: int) -> None:
        self._file, self._width, self._rows = file, width, 0
        file.write(self._header(0))

    def write(self, texts: Sequence[str], vectors: Vectors) -> None:
        self._rows += len(vectors)
        self._file.write(np.ascontiguousarray(vectors, dtype="<f4").data if vectors.size else b"")

    def finish(self) -> None:
        with self._file.path.open("r+b") as file:
            file.write(self._header(self._rows))

    def _header(self, rows: int) -> bytes:
        """NumPy leaves room for the rows to grow, so the length is the same for any number of them."""
        buffer = io.BytesIO()
        shape = (rows, self._width)
        np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return buffer.getvalue()


@contextlib.contextmanager
def _json_lines(path: Path, width: int) -> Iterator[VectorWriter]:
    with whole_file(path) as file:
        yield _JsonLinesWriter(file)


class _JsonLinesWriter:
    def __init__(self, file: WholeFile) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()

    def write(self, texts: Sequence[str], vectors: Vectors) -> None:
        rows = zip(texts, vectors, strict=True)
        # A float32 takes at most nine digits; as a Python float it would be written with seventeen.
        lines = [
            self._encoder.encode({"text": text, "vector": [float(str(value)) for value in vector]})
            for text, vector in rows
        ]
        self._file.write(b"".join(line + b"\n" for line in lines))


@contextlib.contextmanager
def _parquet(path: Path, width: int) -> Iterator[VectorWriter]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", extra="parquet") from error
    schema = pyarrow.schema([("text", pyarrow.string()), ("vector", pyarrow.list_(pyarrow.float32(), width))])
    with (
        whole_file(path) as file,
        pyarrow.PythonFile(_Sink(file), mode="w") as sink,
        pyarrow.parquet.ParquetWriter(sink, schema) as writer,
    ):
        yield _ParquetWriter(pyarrow, writer, schema)


class _Sink:
    """What pyarrow asks of a Python file, over a `WholeFile`."""

    closed = False

    def __init__(self, file: WholeFile) -> None:
        self._file, self._position = file, 0

    def write(self, data: Any) -> int:
        self._position += self._file.write(memoryview(data))
        return memoryview(data).nbytes

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing waits: each write goes out at once."""

    def close(self) -> None:
        """The `WholeFile` is closed by the one who opened it."""


class _ParquetWriter:
    """One row group a block: a column of texts and one of lists of fixed length."""

    def __init__(self, pyarrow: Any, writer: Any, schema: Any) -> None:
        self._pyarrow, self._writer, self._schema = pyarrow, writer, schema

    def write(self, texts: Sequence[str], vectors: Vectors) -> None:
        values = self._pyarrow.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
        kind = self._schema.field("vector").type
        columns = [
            self._pyarrow.array(list(texts), type=self._pyarrow.string()),
            self._pyarrow.FixedSizeListArray.from_arrays(values, kind.list_size),
        ]
        self._writer.write_table(self._pyarrow.Table.from_arrays(columns, schema=self._schema))


FORMATS: dict[str, Callable[[Path, int], contextlib.AbstractContextManager[VectorWriter]]] = {
    ".npy": _numpy,
    ".parquet": _parquet,
    ".jsonl": _json_lines,
}
"""Suffix to writer."""
