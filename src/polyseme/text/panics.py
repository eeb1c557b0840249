"""Panics of the `tokenizers` library as errors of ours.

A panic reaches Python as a `BaseException` that no `except Exception` catches, and that would end the program
of whoever uses this library. (The library also writes it to the standard error of the process, which only a
change to the whole process could prevent.)
"""

from polyseme.errors import CheckpointError


def refusal(error: BaseException, *, where: str, text: str | None = None) -> BaseException:
    """What to raise for an error out of the library: a `CheckpointError`, or what is none of its own."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        return error
    lines = str(error).splitlines() or [type(error).__name__]
    at = "" if text is None else f" on the text {text[:20]!r}"
    return CheckpointError(
        f"{where} is no tokenizer that works: the tokenizers library fails{at}: {lines[0][:200]}"
    )
