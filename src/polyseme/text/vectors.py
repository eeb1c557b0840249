"""Word vectors from files: word2vec's text and binary, GloVe's text, a NumPy matrix beside a list of words.

A file is streamed: whoever wants some of many words keeps only these.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polyseme.errors import DataError
from polyseme.files import refuse_lfs_pointer
from polyseme.text.sources import read_blocks

Vector = npt.NDArray[np.float32]

_HEADER = re.compile(rb"^ *(\d{1,18}) +(\d{1,18}) *\r?\n")
_WIDEST = 1 << 16
_LONGEST_LINE = 1 << 22


def read_vectors(path: str | Path) -> Iterator[tuple[str, Vector]]:
    """Each word of the file with its vector, in the file's order.

    word2vec's files begin with a line of two numbers, GloVe's do not; `NAME.npy` is a matrix whose words
    stand in `NAME.txt` or `NAME.words`, one a line. Raises `DataError` where a file is none of these, ends
    early, or has a number that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file of word vectors {path}")
    refuse_lfs_pointer(path, DataError)
    if path.suffix == ".npy":
        yield from _matrix(path)
        return
    stream = _Stream(path)
    header = _HEADER.match(stream.ahead(_LONGEST_LINE // 64))
    if header is None:
        yield from _lines(stream, path, width=None)
        return
    count, width = int(header[1]), int(header[2])
    if not 0 < width <= _WIDEST:
        raise DataError(f"{path} says that its vectors have {width} numbers; it is no file of word vectors")
    stream.take(header.end())
    words = _binary if _is_binary(stream, width) else _lines
    seen = 0
    for found in words(stream, path, width=width):
        seen += 1
        yield found
    if seen != count:
        raise DataError(f"{path} says that it has {count} words and has {seen}; fetch it again")


class _Stream:
    """The bytes of a file, to look ahead at and to take."""

    def __init__(self, path: Path) -> None:
        self._blocks = read_blocks(path)
        self._held = bytearray()
        self._at = 0

    def ahead(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        while len(self._held) - self._at < count and (block := next(self._blocks, b"")):
            del self._held[: self._at]
            self._at = 0
            self._held += block
        return bytes(self._held[self._at : self._at + count])

    def take(self, count: int) -> bytes:
        """The same, and go on behind them."""
        found = self.ahead(count)
        self._at += len(found)
        return found

    def take_until(self, end: bytes) -> bytes | None:
        """The bytes before the next `end`, which is left out; None where there is none in a long stretch."""
        reach = 256
        while True:
            window = self.ahead(reach)
            place = window.find(end)
            if place >= 0:
                self._at += place + len(end)
                return window[:place]
            if len(window) < reach or reach > _LONGEST_LINE:
                return None
            reach *= 4


def _is_binary(stream: _Stream, width: int) -> bool:
    """Whether what follows the header is not a line of a word and `width` numbers."""
    line = stream.ahead(_LONGEST_LINE // 16).split(b"\n", 1)[0]
    parts = line.split()
    if len(parts) < width + 1:
        return True
    try:
        np.asarray(parts[-width:], dtype=np.float32)
    except ValueError:
        return True
    return False


def _binary(stream: _Stream, path: Path, *, width: int) -> Iterator[tuple[str, Vector]]:
    """A word, a blank, the numbers as bytes, and a line feed that some writers leave out."""
    while stream.ahead(1):
        word = stream.take_until(b" ")
        data = stream.take(4 * width)
        if word is None or len(data) < 4 * width:
            if word is None and not stream.ahead(256).strip():
                return  # a line feed behind the last vector
            raise DataError(f"{path} is cut off inside the vector of a word; fetch it again")
        yield _word(word.lstrip(b"\n")), _finite(np.frombuffer(data, dtype="<f4"), word, path)


def _lines(stream: _Stream, path: Path, *, width: int | None) -> Iterator[tuple[str, Vector]]:
    """A word and its numbers, split by blanks; the word may have blanks too."""
    number = 0
    while stream.ahead(1):
        number += 1
        line = stream.take_until(b"\n")
        if line is None:  # the last line may end without a line feed
            line = stream.take(_LONGEST_LINE)
        if not line.strip():
            continue
        parts = line.strip(b"\r\n").split(b" ")
        parts = parts[:-1] if parts[-1] == b"" else parts  # word2vec ends its lines with a blank
        width = width or len(parts) - 1
        word, values = b" ".join(parts[:-width]), parts[-width:]
        try:
            vector = np.asarray(values, dtype=np.float32)
        except ValueError:
            vector = np.zeros(0, dtype=np.float32)
        if not word or len(vector) != width or width < 2:
            raise DataError(
                f"{path}: line {number} of the vectors is no word with its {max(width, 2)} numbers behind it"
            )
        yield _word(word), _finite(vector, word, path)


def _matrix(path: Path) -> Iterator[tuple[str, Vector]]:
    names = [path.with_suffix(suffix) for suffix in (".txt", ".words")]
    listed = next((name for name in names if name.is_file()), None)
    if listed is None:
        raise DataError(f"the words of {path} are missing; write them one a line into {names[0]}")
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no NumPy matrix: {error}") from error
    words = listed.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.floating) or len(matrix) != len(words):
        raise DataError(
            f"{path} has the shape {list(matrix.shape)} of {matrix.dtype}, and {listed} {len(words)} words; "
            "a matrix of floating-point numbers needs a row for each word"
        )
    for word, row in zip(words, matrix, strict=True):
        yield word, _finite(np.asarray(row, dtype=np.float32), word.encode(), path)


def _word(raw: bytes) -> str:
    """Some published files have halves of characters, where a corpus was cut at a count of bytes."""
    return raw.decode(errors="replace")


def _finite(vector: Vector, word: bytes, path: Path) -> Vector:
    if not np.isfinite(vector).all():
        raise DataError(
            f"{path}: the vector of {word.decode(errors='replace')!r} has a number that is not finite"
        )
    return vector
