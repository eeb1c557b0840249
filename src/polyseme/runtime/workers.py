"""Workers of one thread each: several tiles at once, each computed by a core alone.

Threads inside one product wait for one another at its end, which costs the more the busier the machine is;
workers lose only the core that another process takes. Where there is a single tile, its products share all
threads instead. All of this leaves the threads of the program around it as they are.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from polyseme.runtime.forking import ForkSafeLock, renewed_after_fork
from polyseme.threads import kept_for_new_threads, one_torch_thread, torch_threads

T = TypeVar("T")


class Workers:
    """So many threads, started when they are first needed and kept; a forked process starts its own."""

    def __init__(self, threads: int, share: Callable[[int], None] | None = None) -> None:
        """`share` tells the products of the calling thread how many threads they may use; None: torch's
        products, which are told by torch."""
        self.threads, self._share = threads, share
        self._pool: ThreadPoolExecutor | None = None
        self._starting = ForkSafeLock()
        renewed_after_fork(self)

    def renew(self) -> None:
        self._pool = None

    def each(self, work: Callable[[T], None], items: Sequence[T]) -> None:
        """Do the work for every item, in any order; torch and the native parts let go of Python's lock."""
        if self.threads == 1 or len(items) < 2:
            for item in items:
                self._together(work, item)
            return
        with self._starting:
            pool = self._pool = self._pool or started(self.threads)
        for _ in pool.map(work, items):
            pass

    def _together(self, work: Callable[[T], None], item: T) -> None:
        """One item by all threads at once."""
        if self._share is None:
            with torch_threads(self.threads):
                work(item)
            return
        # torch's own threads would stay awake after each of its calls, on the cores that our products need.
        with one_torch_thread():
            self._share(self.threads)
            try:
                work(item)
            finally:
                self._share(1)


def started(threads: int) -> ThreadPoolExecutor:
    """A pool whose threads all run, each with one thread inside torch's products."""
    pool, all_there = ThreadPoolExecutor(threads, "polyseme"), threading.Barrier(threads)

    def begin(_: int) -> None:
        torch.set_num_threads(1)
        all_there.wait()

    with kept_for_new_threads():
        try:
            for _ in pool.map(begin, range(threads)):
                pass
        except BaseException:  # the system has no more threads: those that wait are let go
            all_there.abort()
            pool.shutdown(wait=False)
            raise
    return pool
