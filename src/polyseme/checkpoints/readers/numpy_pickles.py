"""Pickled dictionaries of NumPy arrays, such as Paddle's `.pdparams`, read as arrays and nothing else.

The unpickler knows the few codes of containers, texts and numbers, and only the names with which NumPy
pickles arrays; each of these stands for a function of ours, so that nothing of the file is ever called.
"""

import math
import mmap
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from polyseme.checkpoints.weights import Stored
from polyseme.errors import CheckpointError

_KINDS = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}
"""The plain kinds of numbers, by NumPy's codes."""

_MOST_DIMENSIONS = 64
_MOST_NUMBERS = 1 << 48
_NAME_TABLE = "StructuredToParameterName@@"
"""Paddle keeps its own names of the parameters under this key."""


class _Refused(Exception):
    """A file that asks for more than arrays."""


class _Dtype:
    def __init__(self, code: Any, *_: Any) -> None:
        name = code if isinstance(code, str) else ""
        if name.lstrip("<|=") not in _KINDS:
            raise _Refused(f"arrays of the kind {code!r}")
        self.kind = name.lstrip("<|=")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
            raise _Refused("arrays of the other byte order")


class _Array:
    """What becomes of an array: its kind, shape and bytes, looked at before anything is made of them."""

    def __init__(self) -> None:
        self.kind, self.content, self.by_columns = "", b"", False
        self.shape: tuple[int, ...] = ()

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array's state is not what it must be")
        _, shape, dtype, by_columns, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes) or not isinstance(shape, tuple):
            raise ValueError("an array's state is not what it must be")
        if len(shape) > _MOST_DIMENSIONS or not all(
            type(size) is int and 0 <= size < _MOST_NUMBERS for size in shape
        ):
            raise ValueError(f"an array has an impossible shape of {len(shape)} dimensions")
        if math.prod(shape) * _KINDS[dtype.kind].itemsize != len(content):
            raise ValueError(f"an array of the shape {list(shape)} has {len(content)} bytes")
        self.kind, self.shape, self.content, self.by_columns = dtype.kind, shape, content, bool(by_columns)

    def tensor(self) -> Tensor:
        """The array as a tensor with memory of its own."""
        if not self.content:
            return torch.empty(self.shape, dtype=_KINDS[self.kind])
        order: Any = "F" if self.by_columns else "C"
        array = np.frombuffer(bytearray(self.content), dtype=self.kind).reshape(self.shape, order=order)
        return torch.from_numpy(np.ascontiguousarray(array)).reshape(self.shape)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _tuple(items: Any) -> Any:
    if not isinstance(items, tuple):
        raise _Refused("builtins.tuple of something else than a tuple")
    return items


_KNOWN: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    # Without arguments: a list that is named again and again would be copied again and again.
    ("collections", "OrderedDict"): lambda: OrderedDict(),
    ("builtins", "tuple"): _tuple,
    ("__builtin__", "tuple"): _tuple,
}
"""What a file may name, and what of ours stands for it."""

_CODES = """
PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG1 LONG4 LONG FLOAT
BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES
SHORT_BINBYTES BINBYTES8 EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT
SETITEM SETITEMS GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD
"""
"""What the unpickler does; all else in a pickle makes objects of classes, or asks for something outside."""

_PYTHONS: Any = pickle._Unpickler  # Not that in C, which takes memory for whatever place a file names.


class _Unpickler(_PYTHONS):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: _PYTHONS.dispatch[code]
        for code in (getattr(pickle, name)[0] for name in re.findall(r"\w+", _CODES))
    }

    def __init__(self, file: mmap.mmap) -> None:
        super().__init__(file, encoding="latin1")
        self._to_encode = len(file)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if (module, name) not in _KNOWN:
            raise _Refused(f"{module}.{name}")
        return _KNOWN[module, name]

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """Protocol 2 writes bytes as a text with this call around it; no text is longer than the file."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _Refused("texts in another encoding")
        self._to_encode -= len(text)
        if self._to_encode < 0:
            raise _Refused("more bytes than it holds")
        return text.encode("latin1")

    def load_build(self) -> None:
        """Give an array or a kind its state; nothing else of ours has any."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, _Array | _Dtype):
            raise ValueError("a state is given to what has none")
        target.__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build


def open_pickled_arrays(path: Path) -> dict[str, Stored]:
    """The arrays of a pickled dictionary by name.

    Raises `CheckpointError` where the file asks for anything but arrays and plain containers, and names it.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            content = _Unpickler(mapped).load()
    except _Refused as error:
        raise CheckpointError(
            f"{path} is not only weights: it asks for {error}; polyseme runs no code from files"
        ) from error
    except Exception as error:  # A damaged pickle raises whatever its bytes happen to say.
        message = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"{path} is damaged or cut off: {message}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not arrays by name")
    return {name: _stored(path, name, value) for name, value in content.items() if name != _NAME_TABLE}


def _stored(path: Path, name: Any, value: Any) -> Stored:
    # Paddle 2 writes a tensor as a pair of its own name and the array.
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if not isinstance(name, str) or not isinstance(value, _Array) or not value.kind:
        kind = type(value).__name__.lstrip("_")
        raise CheckpointError(f"{path}: the entry {str(name)[:100]!r} is a {kind}, not a plain array")
    read: Callable[[], Tensor] = value.tensor
    return Stored(name, path, value.shape, read)
