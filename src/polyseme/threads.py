"""How many threads torch computes with, as a setting of the calling thread and of nobody else.

`torch.set_num_threads` sets the number for the thread that calls it and for all that are started later. The
library computes inside programs of others, so what it sets is limited to a block and to its own threads.
"""

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from polyseme.devices import usable_cores

P = ParamSpec("P")
T = TypeVar("T")


class HasThreads(Protocol):
    """An object that computes with a number of threads of its own."""

    threads: int


S = TypeVar("S", bound=HasThreads)

_IMPORTED_IN = os.getpid()


def default_threads() -> int:
    """Threads where no number is given: torch's own (`OMP_NUM_THREADS`, `torch.set_num_threads`), but not
    more than the affinity and the container's quota allow."""
    import torch

    return min(torch.get_num_threads(), usable_cores())


@contextlib.contextmanager
def torch_threads(threads: int | None = None) -> Iterator[None]:
    """Inside the block torch computes with so many threads, in the calling thread; None: with as many as now.

    In a forked process it is one thread, whatever is asked for: GNU's OpenMP waits for ever for threads
    that only the parent has. Also a decorator: `@torch_threads()`.
    """
    import torch

    before = torch.get_num_threads()
    inside = 1 if os.getpid() != _IMPORTED_IN else threads or before
    if inside == before:
        yield
        return
    with kept_for_new_threads():
        torch.set_num_threads(inside)
    try:
        yield
    finally:
        with kept_for_new_threads():
            torch.set_num_threads(before)


def with_own_threads(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """The method inside `torch_threads(self.threads)`."""

    @functools.wraps(method)
    def inside(self: S, /, *args: P.args, **options: P.kwargs) -> T:
        with torch_threads(self.threads):
            return method(self, *args, **options)

    return inside


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """`torch_threads(1)` in a microsecond, for what is called for every short text.

    Only OpenMP is told: it serves for torch's element-wise operations, not for MKL's products.
    """
    import torch

    openmp = _openmp()
    if openmp is None:
        with torch_threads(1):
            yield
        return
    before = torch.get_num_threads()  # which also tells OpenMP, in a thread that torch has not met before
    openmp.omp_set_num_threads(1)
    try:
        yield
    finally:
        openmp.omp_set_num_threads(before)


@contextlib.contextmanager
def kept_for_new_threads() -> Iterator[None]:
    """`torch.set_num_threads` inside the block does not change what threads that are started later have."""
    import torch

    kept = _in_a_new_thread(torch.get_num_threads)
    try:
        yield
    finally:
        _in_a_new_thread(lambda: torch.set_num_threads(kept))


def _in_a_new_thread(ask: Callable[[], T]) -> T:
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(ask()))
    thread.start()
    thread.join()
    return found[0]


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that torch is linked with; None where torch has another kind of threads."""
    import torch

    before = torch.get_num_threads()
    try:
        library = ctypes.CDLL(torch._C.__file__)
        found: int = library.omp_get_max_threads()
    except (AttributeError, OSError, TypeError):
        return None
    return library if found == before else None
