"""The kernels compiled by the system's compiler, and kept in the user's cache folder.

Only what this user owns and nobody else can write is ever loaded: a library is code. The name of a kept
library is a hash of the source, the flags and the processor, so that a change of any of these compiles anew,
and a home folder shared by different machines works.
"""

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

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


def instruction_flags(environment: Mapping[str, str], *, slow_bf16: bool = False) -> tuple[str, ...]:
    """The compiler's flags for this machine, within the limits that are set for oneDNN or torch; without
    the dot products of bfloat16 where they are slower than float32's."""
    machine = platform.machine().lower()
    native = "-mcpu=native" if machine.startswith(("aarch64", "arm")) else "-march=native"
    limit = environment.get("ONEDNN_MAX_CPU_ISA") or environment.get("DNNL_MAX_CPU_ISA") or ""
    if environment.get("ATEN_CPU_CAPABILITY", "").lower() == "avx2":
        limit = "AVX2"
    left_out = _UP_TO.get(limit.upper(), ())
    return (native, *left_out, *(("-DSLOW_BF16_DOT",) if slow_bf16 else ()))


def built(environment: Mapping[str, str] = os.environ) -> tuple[Path, bool]:
    """The compiled library, and whether the caller has to remove its folder after loading it.

    Raises `CannotBuild` where there is no compiler or it fails. A cache folder that cannot be written or
    trusted is not used; a private one takes its place, for this process alone.
    """
    flags = (*FLAGS, *instruction_flags(environment, slow_bf16=processor().has_slow_bf16_dot))
    name = f"kernels-{fingerprint(flags)}.so"
    folder = cache_folder(environment)
    if folder is not None and is_ours(folder / name):
        return folder / name, False
    compiler = shutil.which("cc", path=environment.get("PATH"))
    if compiler is None:
        raise CannotBuild("no C compiler (cc) was found")
    if folder is not None and os.access(folder, os.W_OK):
        return compiled(compiler, flags, folder / name), False
    private = Path(tempfile.mkdtemp(prefix="polyseme-"))
    try:
        return compiled(compiler, flags, private / name), True
    except BaseException:
        shutil.rmtree(private, ignore_errors=True)
        raise


def compiled(compiler: str, flags: tuple[str, ...], path: Path) -> Path:
    """Compile under a name of its own and rename: two processes at once both end with a whole library."""
    try:
        descriptor, building = tempfile.mkstemp(dir=path.parent, prefix=".building-", suffix=".so")
    except OSError as error:
        raise CannotBuild(f"{path.parent} cannot be written: {error.strerror}") from error
    os.close(descriptor)
    try:
        done = subprocess.run(
            [compiler, *flags, "-o", building, str(SOURCE), "-lm"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            errors="replace",
        )
        if done.returncode:
            raise CannotBuild(f"{compiler} failed: {(done.stderr.strip() or 'no message').splitlines()[0]}")
        os.chmod(building, 0o700)
        os.replace(building, path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{compiler} failed: {error}") from error
    finally:
        Path(building).unlink(missing_ok=True)
    return path


def cache_folder(environment: Mapping[str, str]) -> Path | None:
    """Where libraries are kept; None where that is no folder that this user alone can write."""
    named = environment.get("XDG_CACHE_HOME", "")
    # The specification of these folders says that a path which is not absolute is to be ignored.
    base = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    folder = base / "polyseme" / "native"
    if folder.is_symlink():
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if is_ours(folder.parent) and is_ours(folder) else None


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
