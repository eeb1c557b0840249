"""Work spread over processes: results in order, a bounded number in flight, nobody left behind.

The standard library's pools leave their processes behind for ever when the parent is killed: each
of them keeps both ends of the queue open that it waits on. Here each process owns one end of one
pipe, so the end of either side is noticed at once by the other.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from polyseme.errors import MissingExtra, PolysemeError

T = TypeVar("T")
R = TypeVar("R")

_IN_FLIGHT = 3
"""Items that a process has received but whose results were not yet taken: one at work, two waiting."""


def in_order(
    make: Callable[[], Callable[[T], R]], items: Iterable[T], *, workers: int
) -> Generator[R, None, None]:
    """`map(make(), items)` on that many processes; one worker is the process that asks.

    `make`, items and results must be picklable; `make` runs once in each process. Close the iterator
    (`contextlib.closing`) to end the processes early. A process that dies raises `PolysemeError`, and
    the processes end when their parent does, however it ends.
    """
    if workers == 1:
        work = make()
        for item in items:
            yield work(item)
        return
    with _processes(make, workers) as connections:
        waiting: deque[Connection[Any, Any]] = deque()
        for number, item in enumerate(items):
            if len(waiting) == _IN_FLIGHT * workers:
                yield _receive(waiting.popleft())
            # In turn, not to whoever is free: items are of one size, and results come in order anyhow.
            connection = connections[number % workers]
            with _death_noticed():
                connection.send(item)
            waiting.append(connection)
        while waiting:
            yield _receive(waiting.popleft())


@contextlib.contextmanager
def _processes(make: Callable[[], Any], workers: int) -> Iterator[list["Connection[Any, Any]"]]:
    # A fresh interpreter, not a fork: forking a process with threads (tokenizers, torch) can hang it.
    context = multiprocessing.get_context("spawn")
    connections: list[Connection[Any, Any]] = []
    processes: list[SpawnProcess] = []
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, make), daemon=True)
            process.start()
            theirs.close()
            connections.append(ours)
            processes.append(process)
        yield connections
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()


def _receive(connection: "Connection[Any, Any]") -> Any:
    with _death_noticed():
        error, value = connection.recv()
    if error is not None:
        raise error(value)
    return value


@contextlib.contextmanager
def _death_noticed() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise PolysemeError(
            "a worker process died (killed, or out of memory, or the calling script lacks "
            '`if __name__ == "__main__":`); nothing was written; free memory, or take fewer workers'
        ) from error


def _serve(connection: "Connection[Any, Any]", make: Callable[[], Callable[[Any], Any]]) -> None:
    """The life of one process: an item in, a result out, until the parent closes the pipe or dies."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # It reaches the parent too, which closes the pipe.
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # A thread empties the pipe at all times, so that parent and child never both wait to write.
    reader = threading.Thread(target=_take_in, args=(connection, inbox), daemon=True)
    reader.start()
    try:
        work = make()
        while True:
            connection.send((None, work(inbox.get())))
    except PolysemeError as error:
        kind = PolysemeError if isinstance(error, MissingExtra) else type(error)
        connection.send((kind, str(error)))
    except ConnectionError:
        pass
    except Exception:
        connection.send((RuntimeError, traceback.format_exc()))
    reader.join()  # The pipe stays open until the parent has read the error.


def _take_in(connection: "Connection[Any, Any]", inbox: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)
