"""Named pipes as sources of text: read like files, but never waited for without end."""

import io
import os
import select
import time
from pathlib import Path
from typing import Any

from polyseme.errors import DataError

WAIT_SECONDS = 3.0
"""How long a pipe may stay without a process that writes."""


class Pipe(io.RawIOBase):
    """A named pipe that another process has open for writing; a `DataError` where none comes in time.

    `open` alone would wait for ever for a writer that nobody started.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._ahead = b""
        end = time.monotonic() + WAIT_SECONDS
        while not self._has_writer():
            if time.monotonic() > end:
                self.close()
                raise DataError(
                    f"no process writes into the pipe {path}; a pipe can be read only once, "
                    "so name a file where the text is read again"
                )
            time.sleep(0.02)
        os.set_blocking(self._descriptor, True)

    def _has_writer(self) -> bool:
        """Whether a process has the pipe open for writing, or had it since we opened it."""
        if select.select([self._descriptor], [], [], 0)[0]:
            return True
        try:
            self._ahead = os.read(self._descriptor, 1)
        except BlockingIOError:  # empty, but not at its end
            return True
        return self._ahead != b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self._ahead:
            buffer[:1], self._ahead = self._ahead, b""
            return 1
        return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
