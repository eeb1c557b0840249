"""The kernels compiled by the system's compiler, and kept in the user's cache folder.

Only what this user owns and nobody else can write is ever loaded: a library is code. The name of a kept
library is a hash of the source, the flags and the processor, so that a change of any of these compiles anew,
and a home folder shared by different machines works.
"""

import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from polyseme import progress
from polyseme.devices import processor

SOURCE = Path(__file__).with_name("kernels.c")
PARTS = (SOURCE, *sorted(SOURCE.parent.glob("*.h")))
"""What is compiled together: the kernels and what they include."""
FLAGS = (
    # Without -ffast-math: it would switch off the smallest numbers in the whole process, and it may reorder
    # the sums by which the exponential rounds.
    *("-O3", "-std=gnu11", "-fPIC", "-shared", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)
SECONDS = 120
"""After which a compiler counts as stuck."""

_UP_TO: dict[str, tuple[str, ...]] = {
    "SSE41": ("-mno-avx",),
    "AVX": ("-mno-avx2", "-mno-fma"),
    "AVX2": ("-mno-avx512f", "-DNO_BYTE_DOT"),  # Older compilers do not know the name of AVX-VNNI.
    "AVX2_VNNI": ("-mno-avx512f",),
    "AVX2_VNNI_2": ("-mno-avx512f",),
    "AVX512_CORE": ("-mno-avx512vnni", "-mno-avx512bf16"),
    "AVX512_CORE_VNNI": ("-mno-avx512bf16",),
}
"""oneDNN's names of instruction sets, and what is left out of the machine's own to stay within them."""


class CannotBuild(Exception):
    """Why there are no compiled kernels, as the end of a sentence."""


class CacheUnusable(Exception):
    """Why no library is kept, as the end of a sentence."""


def instruction_limit(environment: Mapping[str, str]) -> str:
    """The limit that is set for oneDNN or torch, by oneDNN's name; "" where there is none."""
    if environment.get("ATEN_CPU_CAPABILITY", "").lower() == "avx2":
        return "AVX2"
    return (environment.get("ONEDNN_MAX_CPU_ISA") or environment.get("DNNL_MAX_CPU_ISA") or "").upper()


def instruction_flags(environment: Mapping[str, str], *, slow_bf16: bool = False) -> tuple[str, ...]:
    """The compiler's flags for this machine, within the limits that are set for oneDNN or torch; without
    the dot products of bfloat16 where they are slower than float32's."""
    machine = platform.machine().lower()
    native = "-mcpu=native" if machine.startswith(("aarch64", "arm")) else "-march=native"
    left_out = _UP_TO.get(instruction_limit(environment), ())
    return (native, *left_out, *(("-DSLOW_BF16_DOT",) if slow_bf16 else ()))


def built(environment: Mapping[str, str] = os.environ) -> tuple[Path, bool]:
    """The compiled library, and whether the caller has to remove its folder after loading it.

    Raises `CannotBuild` where there is no compiler or it fails. A cache folder that cannot be written or
    trusted is not used, which the user is told; a private one takes its place, for this process alone.
    """
    flags = (*FLAGS, *instruction_flags(environment, slow_bf16=processor().has_slow_bf16_dot))
    name = f"kernels-{fingerprint(flags)}.so"
    try:
        kept = cache_folder(environment) / name
        if is_ours(kept):
            return kept, False
        if not os.access(kept.parent, os.W_OK):
            raise CacheUnusable(f"{kept.parent} cannot be written")
    except CacheUnusable as error:
        return _built_privately(environment, flags, name, reason=str(error)), True
    return compiled(compilers(environment), flags, kept), False


def _built_privately(
    environment: Mapping[str, str], flags: tuple[str, ...], name: str, *, reason: str
) -> Path:
    found = compilers(environment)
    try:
        folder = Path(tempfile.mkdtemp(prefix="polyseme-"))
    except OSError as error:
        raise CannotBuild(f"{reason}, and no temporary folder can be written") from error
    try:
        if is_noexec(folder):
            raise CannotBuild(f"{reason}, and {folder.parent} is mounted noexec")
        path = compiled(found, flags, folder / name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    progress.warn(
        f"the kernels are compiled again at every start, which takes seconds: {reason}; set XDG_CACHE_HOME "
        "to a folder that only you can write"
    )
    return path


def compilers(environment: Mapping[str, str]) -> list[list[str]]:
    """The commands of C compilers that are there, the one that `CC` names first."""
    commands = [_words(environment.get("CC", "")), *([name] for name in ("cc", "gcc", "clang"))]
    found = [
        [path, *command[1:]]
        for command in commands
        if command and (path := shutil.which(command[0], path=environment.get("PATH")))
    ]
    if not found:
        named = f"CC={environment['CC']}, " if environment.get("CC") else ""
        raise CannotBuild(f"no C compiler was found ({named}cc, gcc, clang)")
    return found


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # an open quotation mark
        return [command]


def compiled(commands: Sequence[Sequence[str]], flags: tuple[str, ...], path: Path) -> Path:
    """Compile by the first command that succeeds, under a name of its own, and rename: two processes at once
    both end with a whole library."""
    try:
        descriptor, building = tempfile.mkstemp(dir=path.parent, prefix=".building-", suffix=".so")
    except OSError as error:
        raise CannotBuild(f"{path.parent} cannot be written: {error.strerror}") from error
    os.close(descriptor)
    try:
        problems = []
        for command in commands:
            problem = _run([*command, *flags, "-o", building, str(SOURCE), "-lm"])
            if problem is None:
                os.chmod(building, 0o700)
                os.replace(building, path)
                return path
            problems.append(f"{command[0]} failed: {problem}")
        raise CannotBuild(problems[0])
    except OSError as error:
        raise CannotBuild(f"{path} cannot be written: {error.strerror}") from error
    finally:
        Path(building).unlink(missing_ok=True)


def _run(command: Sequence[str]) -> str | None:
    """What went wrong, in one line; None: nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr.strip() or "no message").splitlines()[0] if done.returncode else None


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where libraries are kept: a folder that this user alone can write, or `CacheUnusable`."""
    named = environment.get("XDG_CACHE_HOME", "")
    # The specification of these folders says that a path which is not absolute is to be ignored.
    try:
        base = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    except RuntimeError as error:
        raise CacheUnusable("this user has no home folder") from error
    folder = base / "polyseme" / "native"
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One by one: with `parents` those above would be made as the umask says, for a group to write.
        for part in (folder.parent, folder):
            if part.is_symlink():
                raise CacheUnusable(f"{part} is a symbolic link")
            part.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise CacheUnusable(f"{folder} cannot be made ({error.strerror})") from error
    for part in (folder.parent, folder):
        if not is_ours(part):
            raise CacheUnusable(f"{part} belongs to others or can be written by them (chmod go-w mends it)")
    if is_noexec(folder):
        raise CacheUnusable(f"{folder} is mounted noexec")
    return folder


def is_noexec(folder: Path) -> bool:
    """Whether no code may be loaded from there."""
    try:
        return bool(os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0))
    except (AttributeError, OSError):
        return False


def is_ours(path: Path) -> bool:
    """Whether it is there itself, not by a link, belongs to this user, and nobody else may write it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    if stat.S_ISLNK(status.st_mode) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    return not hasattr(os, "getuid") or status.st_uid == os.getuid()


def fingerprint(flags: tuple[str, ...]) -> str:
    """What a compiled library depends on, in 24 hexadecimal digits."""
    digest = hashlib.sha256(b"".join(part.read_bytes() for part in PARTS))
    for part in (*flags, platform.machine(), instructions()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


def instructions() -> str:
    """The instructions that this processor has, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
