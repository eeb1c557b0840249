"""The compiled kernels as functions of tensors' addresses; loaded once, at first use."""

import ctypes
import functools
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyseme import progress
from polyseme.devices import processor
from polyseme.errors import SettingsError
from polyseme.runtime.choice import VARIABLE, kernel_choice
from polyseme.runtime.forking import ForkSafeLock
from polyseme.runtime.native.building import CannotBuild, built, instructions
from polyseme.runtime.native.prebuilt import best_level

_P, _L, _I, _F = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float
_NORM = [_I, _P, _P, _F, _I, _P, _I, _P, _I, _P, _P]
SIGNATURES: dict[str, list[type]] = {
    "native_quantise": [_L, _L, _P, _I, _P, _P, _P],
    "native_norm": [_L, _L, _P, _I, _P, _I, *_NORM],
    "native_first_states": [_L, _L, _P, _P, _P, _P, _P, _P, *_NORM],
    "native_linear": [_I, _L, _L, _L, *[_P] * 7, _I, _P, _I, _P, _P],
    "native_attention": [_L, _P, _L, _L, _P, _I, _F, _I, _L, _P, _P, _P, _L, _P, _I, _P, _P],
    "native_gate": [_L, _L, _P, _P, _I, _P, _I, _P, _P],
    "native_mean": [_L, _P, _P, _L, _P, _I, _P],
}
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.uint8: 2}
"""Types of numbers as the kernels count them."""
NUMBERS = {name: number for number, name in enumerate(SIGNATURES)}
_WORDS = 20
"""Of a recorded call, as replay.h reads it."""
_lock = ForkSafeLock()
_reason = ""
"""Why there are no kernels, where there are none."""


class Tape:
    """Calls of kernels in their order, with the memory that they read and write."""

    def __init__(self) -> None:
        self.words: list[NDArray[np.int64]] = []
        self.kept: list[Tensor] = []

    def note(self, name: str, told: list[Any], arguments: tuple[int | float | Tensor | None, ...]) -> None:
        """One call, as the kernels are told it and as it was made."""
        words = np.zeros(_WORDS, dtype=np.int64)
        words[0] = NUMBERS[name]
        for place, (kind, value) in enumerate(zip(SIGNATURES[name], told, strict=True), start=1):
            words[place] = np.float64(value).view(np.int64) if kind is _F else value or 0
        self.words.append(words)
        self.kept.extend(one for one in arguments if isinstance(one, Tensor))


class Library:
    """The functions of kernels.c, which let go of Python's lock while they run; what they were built for."""

    def __init__(self, path: str, *, name: str = "native", why: str = "") -> None:
        """`why` this one was chosen among others of other names."""
        self.name, self.why = name, why
        self._library = ctypes.CDLL(path)
        self.columns = int(self._library.native_columns())
        self.pair_limit = int(self._library.native_pair_limit()) or None
        self.vector_bits = int(self._library.native_vector_bits())
        self.has_bf16 = bool(self._library.native_has_bf16())
        self.has_byte_dot = bool(self._library.native_has_byte_dot())
        self._functions = {name: getattr(self._library, name) for name in SIGNATURES}
        for name, arguments in SIGNATURES.items():
            self._functions[name].argtypes = arguments
        self._library.native_share.argtypes, self._library.native_share.restype = [_I], None
        self._library.native_replay.argtypes = [_L, _P, _L, _L]
        self._recording = threading.local()

    def share(self, threads: int) -> None:
        """How many threads may work on a kernel that the calling thread runs from now on, itself included.

        It is 1 at first. The results are the same bytes.
        """
        self._library.native_share(threads)

    def call(self, name: str, *arguments: int | float | Tensor | None) -> None:
        """Run one kernel; tensors must be contiguous and stay alive for the call."""
        told = [one.data_ptr() if isinstance(one, Tensor) else one for one in arguments]
        tape: Tape | None = getattr(self._recording, "tape", None)
        if tape is not None:
            tape.note(name, told, arguments)
        if self._functions[name](*told):
            raise MemoryError(f"no memory for the scratch of {name}")

    @contextmanager
    def recording(self, tape: Tape) -> Iterator[None]:
        """What this thread calls inside the block is noted on the tape, and done."""
        self._recording.tape = tape
        try:
            yield
        finally:
            self._recording.tape = None

    def replay(self, words: NDArray[np.int64], *, tokens: int, rows: int) -> None:
        """Do all calls of a tape, whose `words` are given as one array `[calls, 20]`, for other numbers of
        tokens and rows, at most those that were recorded. The tape must be alive and nobody else at it."""
        if self._library.native_replay(len(words), words.ctypes.data, tokens, rows):
            raise MemoryError("no memory for the scratch of the kernels")


def library() -> Library | None:
    """The kernels; None where they are switched off or there is no way to have them, which is said once."""
    with _lock:
        return _loaded()


def in_use() -> tuple[str, str]:
    """The name of the library that computes here, or "none", and why it is this one."""
    found = library()
    return ("none", _reason) if found is None else (found.name, found.why)


@functools.cache
def _loaded() -> Library | None:
    global _reason
    choice = kernel_choice()
    if choice in ("onednn", "torch"):
        _reason = f"{VARIABLE}={choice}"
        return None
    try:
        return _prebuilt() or _build_and_load(again=True)
    except CannotBuild as error:
        if choice == "native":
            raise SettingsError(
                f"{VARIABLE} asks for the compiled kernels, but there are none ({error}); "
                "install a C compiler, or leave the variable out"
            ) from error
        _reason = str(error)
        progress.warn(
            f"the compiled kernels are not used ({_reason}); torch's own operations take their place, slower"
        )
        return None


def _prebuilt() -> Library | None:
    """The best of those that came with the wheel."""
    level = best_level(os.environ, offered=instructions().split(), slow_bf16=processor().has_slow_bf16_dot)
    if level is None or not level.file.exists():
        return None
    try:
        return Library(
            str(level.file), name=level.name, why="came with the package; the best for this processor"
        )
    except (OSError, AttributeError) as error:
        progress.warn(f"{level.file} cannot be loaded ({error}); the kernels are compiled here instead")
        return None


def _build_and_load(*, again: bool) -> Library:
    path, is_private = built()
    place = "for this process alone" if is_private else f"kept in {path.parent}"
    try:
        return Library(str(path), name="native", why=f"compiled on this machine for its processor, {place}")
    except (OSError, AttributeError) as error:
        # A file cut short by a power failure would else be in the way for ever.
        path.unlink(missing_ok=True)
        if not again:
            raise CannotBuild(f"{path} cannot be loaded: {error}") from error
    finally:
        if is_private:
            shutil.rmtree(path.parent, ignore_errors=True)
    return _build_and_load(again=False)
