"""Workers of one thread each: several tiles at once, each computed by a core alone.

Threads inside one product wait for one another at its end, which costs the more the busier the machine is;
workers lose only the core that another process takes. Where there is a single tile, its products share all
threads instead.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


class Workers:
    """So many threads, started when they are first needed and kept."""

    def __init__(self, threads: int, share: Callable[[int], None] | None = None) -> None:
        """`share` tells the products of the calling thread how many threads they may use; None: they know."""
        self.threads, self._share = threads, share
        self._pool: ThreadPoolExecutor | None = None

    def each(self, work: Callable[[T], None], items: Sequence[T]) -> None:
        """Do the work for every item, in any order; torch and the native parts let go of Python's lock."""
        if self.threads == 1 or len(items) < 2:
            for item in items:
                self._together(work, item)
            return
        if self._pool is None:
            # The number of threads inside a product is a setting of each thread's own.
            self._pool = ThreadPoolExecutor(self.threads, "worker", torch.set_num_threads, (1,))
        for _ in self._pool.map(work, items):
            pass

    def _together(self, work: Callable[[T], None], item: T) -> None:
        """One item by all threads at once. torch's own would stay awake after each of its calls, on the cores
        that our products need."""
        if self._share is None or self.threads == 1:
            work(item)
            return
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        self._share(self.threads)
        try:
            work(item)
        finally:
            self._share(1)
            torch.set_num_threads(before)
