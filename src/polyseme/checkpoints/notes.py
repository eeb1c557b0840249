"""What the user is told of a folder as it is read: once, however often a command opens it."""

from functools import lru_cache

from polyseme.progress import say


@lru_cache(maxsize=1024)
def say_once(line: str) -> None:
    """Say a line that was not said in this process before."""
    say(line)
