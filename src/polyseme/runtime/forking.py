"""Locks and thread pools that a forked process makes anew.

A fork has only the thread that called it: a pool has no threads there, and a lock that another thread held is
never released.
"""

import os
import threading
import weakref
from types import TracebackType
from typing import Protocol


class Renewable(Protocol):
    """An object that holds locks or threads."""

    def renew(self) -> None:
        """Forget them; called in the forked process, before anything else runs there."""


_known: "weakref.WeakSet[Renewable]" = weakref.WeakSet()


def renewed_after_fork(one: Renewable) -> None:
    """Have `renew` called in every process that is forked while the object lives."""
    _known.add(one)


def _renew_all() -> None:
    for one in list(_known):
        one.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


class ForkSafeLock:
    """A `threading.Lock` that is free in a forked process."""

    def __init__(self) -> None:
        self.renew()
        renewed_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, *, blocking: bool = True) -> bool:
        """Whether it was taken."""
        return self._lock.acquire(blocking=blocking)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
