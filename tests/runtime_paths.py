"""The ways in which the runtime computes: compiled kernels for several processors, and torch's calls."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from unittest import mock

import pytest

from polyseme.devices import processor
from polyseme.runtime import onednn
from polyseme.runtime.choice import kernel_choice
from polyseme.runtime.native import building, library
from polyseme.runtime.native.building import built

PATHS = ("native", "bf16-dot", "AVX2_VNNI", "AVX2", "SSE41", "onednn", "portable")
"""Kernels for all that this processor has; with AVX512_BF16, even where it is slower than float32; for older
processors (which it can run too); and none, with and without oneDNN."""
NEEDS = {"bf16-dot": {"avx512_bf16"}, "AVX2_VNNI": {"avx_vnni"}, "AVX2": {"avx2"}, "SSE41": {"avx2"}}
"""What a processor must offer for a path to exist, and to be another one than those behind it."""

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
needs_kernels = pytest.mark.skipif(
    shutil.which("cc") is None or kernel_choice() in ("onednn", "torch"),
    reason="there is no C compiler, or POLYSEME_KERNELS leaves the compiled kernels out",
)


@contextlib.contextmanager
def computing(path: str) -> Iterator[library.Library | None]:
    """All runtime parts that are built inside the block compute in this way."""
    if not NEEDS.get(path, set()) <= processor().offered:
        pytest.skip(f"this processor has no {path}")
    found = None
    if path not in ("onednn", "portable"):
        if shutil.which("cc") is None:
            pytest.skip("there is no C compiler")
        found = library_for(path)
    with mock.patch.object(library, "_loaded", return_value=found), contextlib.ExitStack() as stack:
        if path == "portable":
            stack.enter_context(mock.patch.object(onednn, "works", return_value=False))
        yield found


def library_for(path: str) -> library.Library:
    """The kernels that a processor with these instructions would have, whatever limit is set around."""
    limits = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
    free = {name: value for name, value in os.environ.items() if name not in limits}
    if path == "native":
        return library.Library(str(built(os.environ)[0]))
    if path == "bf16-dot":
        quick = dataclasses.replace(processor(), maker="")
        with mock.patch.object(building, "processor", return_value=quick):
            return library.Library(str(built(free)[0]))
    return library.Library(str(built({**free, "ONEDNN_MAX_CPU_ISA": path})[0]))
