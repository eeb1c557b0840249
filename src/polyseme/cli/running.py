"""One command from its words to its exit status; every failure is one line on standard error."""

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import TextIO

from polyseme.cli.commands import COMMANDS, UsageError, find, load, members, overview
from polyseme.errors import PolysemeError, PolysemeWarning

REFUSED, BUG, INTERRUPTED, PIPE_CLOSED = 2, 70, 130, 141
_ENDED_BY_SIGNAL = 128


class Ended(BaseException):
    """The process was asked to end; what was begun is cleared away on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(arguments: Sequence[str] | None = None) -> int:
    """0, or the status of the failure: 2 the user can mend it, 70 we must, 130 interrupted, 143 ended."""
    words, switches = _take_switches(list(sys.argv[1:] if arguments is None else arguments))
    traceback = "--traceback" in switches or os.environ.get("POLYSEME_TRACEBACK", "") not in ("", "0")
    _fill_standard_descriptors()
    try:
        import polyseme.files  # noqa: F401 - says which systems are not served
    except PolysemeError as error:
        return _fail(str(error), REFUSED)
    try:
        with _asked_to_end(), _plain_warnings():
            _dispatch(words, switches)
            if sys.stdout is not None:
                sys.stdout.flush()
        return 0
    except UsageError as error:
        return _fail(f"{error} (see polyseme {error.command + ' ' if error.command else ''}--help)", REFUSED)
    except BrokenPipeError:
        # The reader (head, less) has seen enough; a closed pipe must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        if traceback:
            raise
        _tell("polyseme: interrupted")
        return INTERRUPTED
    except Ended as ended:
        if traceback:
            raise
        _tell(f"polyseme: ended by {signal.Signals(ended.number).name}")
        return _ENDED_BY_SIGNAL + ended.number
    except Exception as error:
        if traceback:
            raise
        return _explain(error)


@contextlib.contextmanager
def _asked_to_end() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Ended`, once, instead of ending the process on the spot.

    What somebody else set up for them (nohup, a program that calls `main`) stays as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        for known in ours:
            signal.signal(known, signal.SIG_IGN)  # so that nothing disturbs the clearing away
        raise Ended(number)

    ours = [known for known in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(known) is signal.SIG_DFL]
    for known in ours:
        signal.signal(known, handle)
    try:
        yield
    finally:
        for known in ours:
            signal.signal(known, signal.SIG_DFL)


def _dispatch(words: list[str], switches: set[str]) -> None:
    if "--version" in switches:
        # This import alone takes as long as the rest of the help.
        from importlib.metadata import version

        print(version("polyseme"))
        return
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return
    if words[0] not in COMMANDS and members(words[0]) and words[1:2] in (["-h"], ["--help"]):
        print(overview(words[0]))
        return
    name, rest = find(words)
    options, command = load(name, rest)

    from polyseme.cli.parsing import parse
    from polyseme.cli.reporter import TerminalReporter
    from polyseme.progress import reporting

    record = parse(options, rest, command=name)
    if "--quiet" in switches:
        command(record)
        return
    with TerminalReporter() as reporter, reporting(reporter):
        command(record)


def _take_switches(words: list[str]) -> tuple[list[str], set[str]]:
    """The words without the switches that every command knows; what stands after `--` is text."""
    end = words.index("--") if "--" in words else len(words)
    switches = {word for word in words[:end] if word in ("--traceback", "--quiet", "--version")}
    return [word for word in words[:end] if word not in switches] + words[end:], switches


def _explain(error: Exception) -> int:
    if isinstance(error, PolysemeError):
        return _fail(str(error), REFUSED)
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{error.filename}: " if error.filename is not None else ""
        return _fail(f"{place}{os.strerror(error.errno)}", REFUSED)
    if isinstance(error, MemoryError) or _is_torch_out_of_memory(error):
        return _fail("the memory of this machine is used up; take a smaller size, batch or length", REFUSED)
    return _fail(
        f"this is a bug in polyseme: {type(error).__name__}: {error}; "
        "run again with --traceback and report what it prints",
        BUG,
    )


def _is_torch_out_of_memory(error: Exception) -> bool:
    """Torch has a class for a card whose memory is used up, and only a message for the machine's own."""
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def _fail(message: str, status: int) -> int:
    _tell(f"polyseme: error: {' '.join(message.split())}")
    return status


def _tell(line: str) -> None:
    from polyseme.cli.reporter import print_line

    print_line(sys.stderr, line)


def _fill_standard_descriptors() -> None:
    """Where standard input, output or error was closed (`2>&-`), a file that is opened would else take its
    number, and what a library prints would go into it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Our warnings that no reporter shows (with `--quiet`, or of another thread) are one line each."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, PolysemeWarning):
            if str(message) not in shown:
                shown.add(str(message))
                _tell(f"polyseme: warning: {message}")
        else:
            before(message, category, filename, lineno, file, line)

    shown: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", PolysemeWarning)
        before, warnings.showwarning = warnings.showwarning, show
        yield
