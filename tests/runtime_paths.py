"""The ways in which the runtime computes: compiled kernels for several processors, and torch's calls."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from unittest import mock

import pytest

from polyseme.runtime import onednn
from polyseme.runtime.native import library
from polyseme.runtime.native.building import built

PATHS = ("native", "AVX2", "SSE41", "onednn", "portable")
"""Kernels for all that this processor has, for older ones (which it can run too), and none, with and without
oneDNN."""

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@contextlib.contextmanager
def computing(path: str) -> Iterator[library.Library | None]:
    """All runtime parts that are built inside the block compute in this way."""
    found = None
    if path not in ("onednn", "portable"):
        if shutil.which("cc") is None:
            pytest.skip("there is no C compiler")
        limit = {} if path == "native" else {"ONEDNN_MAX_CPU_ISA": path}
        kept, _ = built({**os.environ, **limit})
        found = library.Library(str(kept))
    with mock.patch.object(library, "_loaded", return_value=found), contextlib.ExitStack() as stack:
        if path == "portable":
            stack.enter_context(mock.patch.object(onednn, "works", return_value=False))
        yield found
