"""Commands of polyseme in forked children, bounded in time and memory, with faults on request.

The parent imports polyseme and torch once and computes nothing, so a fork is safe and a try takes a tenth of
a second.
"""

import contextlib
import ctypes
import gc
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

SHIM = Path(__file__).with_name("fault_shim.c")
COUNT, KILL_BEFORE, KILL_AFTER, EIO, ENOSPC, TERMINATE, INTERRUPT = range(7)
ACTIONS = {
    "kill-before": KILL_BEFORE,
    "kill-after": KILL_AFTER,
    "EIO": EIO,
    "ENOSPC": ENOSPC,
    "SIGTERM": TERMINATE,
    "SIGINT": INTERRUPT,
}
SECONDS, MEMORY = 10.0, 2 << 30
"""What a command on a damaged file may take: seconds, and bytes of resident memory."""
_PATIENCE = 6
"""Times as long as its processor time a command may take by the clock, on a machine with other work."""
_ADDRESSES = 6 << 30
"""Address space of a child beyond that of the parent, so that a runaway allocation ends in an error."""


class Fault(NamedTuple):
    """Which call that changes the disk goes wrong, and how (`ACTIONS`)."""

    below: Path
    nth: int
    action: int
    contains: str = ""
    """Only calls on paths that contain this count."""


class Outcome(NamedTuple):
    """What a command did."""

    status: int
    """Its exit status; negative: the signal that ended it."""
    stdout: str
    stderr: str
    seconds: float
    memory: int
    """Bytes of resident memory at its largest."""
    timed_out: bool
    calls: int
    """Calls that changed the disk below the watched folder; -1 if the child could not report them."""


def build_shim(folder: Path) -> Path:
    """Compile the library that injects faults; it needs a C compiler and glibc."""
    compiler = os.environ.get("CC") or next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None:
        raise SystemExit("kills at system calls need a C compiler (cc, gcc or clang)")
    target = folder / "fault_shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", target, SHIM, "-ldl"], check=True)
    return target


def shim_is_loaded() -> bool:
    return "fault_shim" in os.environ.get("LD_PRELOAD", "")


def preload(commands: Iterable[Sequence[str]] = ()) -> None:
    """Import what every command needs, and parse these commands once, without computing anything."""
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.pop("POLYSEME_TRACEBACK", None)
    import matplotlib.figure  # noqa: F401
    import rjieba
    import sklearn.linear_model  # noqa: F401
    import torch
    import torch._dynamo  # torch.optim imports it at its first use, which takes a second or two

    import polyseme.cli.commands
    import polyseme.cli.parsing
    import polyseme.embedding.embedding
    import polyseme.tasks.finetuning
    import polyseme.tasks.predicting
    import polyseme.training.pretraining

    torch.set_num_threads(1)
    rjieba.cut("词典")  # loads its dictionary
    for words in commands:
        name, rest = polyseme.cli.commands.find(list(words))
        options, _ = polyseme.cli.commands.load(name, rest)
        with contextlib.suppress(Exception):  # a model that does not exist yet may have to be named
            polyseme.cli.parsing.parse(options, rest, command=name)
    gc.freeze()  # so that a collection in a child does not touch, and thereby copy, every page


def run(
    words: Sequence[str],
    folder: Path,
    *,
    fault: Fault | None = None,
    seconds: float = SECONDS,
    kill_after: float | None = None,
    kill_signal: int = signal.SIGKILL,
) -> Outcome:
    """Run `polyseme WORDS` in `folder`; `kill_after` seconds it gets `kill_signal`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        told, tell = os.pipe()
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(told)
            _child(words, folder, fault, out.fileno(), err.fileno(), tell)
        os.close(tell)
        timed_out = _wait(child, kill_after, kill_signal, seconds)
        _, status, usage = os.wait4(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        calls = os.read(told, 32)
        os.close(told)
        code = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Outcome(
            status=code,
            stdout=out.read(1 << 20).decode("utf-8", "replace"),
            stderr=err.read(1 << 20).decode("utf-8", "replace"),
            seconds=time.monotonic() - start,
            memory=usage.ru_maxrss << 10,
            timed_out=timed_out,
            calls=int(calls or -1),
        )


def _wait(child: int, kill_after: float | None, kill_signal: int, seconds: float) -> bool:
    """Wait; True if the child had to be killed, for `seconds` of processor time or for waiting long."""
    descriptor = os.pidfd_open(child)
    try:
        if kill_after is not None and not select.select([descriptor], [], [], kill_after)[0]:
            os.kill(child, kill_signal)
        give_up = time.monotonic() + _PATIENCE * seconds
        while not select.select([descriptor], [], [], 0.5)[0]:
            if _cpu_seconds(child) > seconds or time.monotonic() > give_up:
                os.kill(child, signal.SIGKILL)
                return True
        return False
    finally:
        os.close(descriptor)


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _child(
    words: Sequence[str], folder: Path, fault: Fault | None, out: int, err: int, tell: int
) -> None:  # never returns
    status = 99
    try:
        os.setpgid(0, 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]
        resource.setrlimit(resource.RLIMIT_AS, (limit + _ADDRESSES, limit + _ADDRESSES))
        shim = None
        if fault is not None:
            shim = ctypes.CDLL(None)
            shim.fault_calls.restype = ctypes.c_long
            below, part = str(fault.below.resolve()).encode(), fault.contains.encode()
            shim.fault_arm(below, part, ctypes.c_long(fault.nth), fault.action)
        from polyseme.cli.running import run as run_command

        try:
            status = run_command(list(words))
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        sys.stdout.flush()
        sys.stderr.flush()
        if shim is not None:
            os.write(tell, str(shim.fault_calls()).encode())
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 98
    finally:
        os._exit(status)


def one_line(outcome: Outcome) -> str:
    """The last line of standard error, which says why a command ended."""
    lines = outcome.stderr.strip().splitlines()
    return lines[-1][:400] if lines else ""


def verdict(outcome: Outcome) -> str:
    """ok, refused (one clear line and a non-zero exit), or what went wrong."""
    text = outcome.stderr
    if outcome.timed_out:
        return "hang"
    if "panicked at" in text:
        return "panic"
    if "this is a bug in polyseme" in text:
        return "bug"
    if "Traceback (most recent call last)" in text:
        return "traceback"
    if outcome.memory > MEMORY or "memory of this machine is used up" in text:
        return "memory"
    if outcome.status < 0:
        return f"signal {-outcome.status}"
    if outcome.status == 0:
        return "ok"
    return "refused" if sum("error:" in line for line in text.splitlines()) == 1 else "unclear"
