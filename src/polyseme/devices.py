"""What this machine is: processor, quota, memory, precision. Torch is loaded when it is first needed."""

from __future__ import annotations

import functools
import math
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16"]
InferencePrecision = Literal["auto", "fp32", "bf16", "int8"]

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")

_AVX512 = {"avx2", "avx512f"}
_VNNI = _AVX512 | {"avx512_vnni"}
_BF16 = _VNNI | {"avx512_bf16"}
_FP16 = _BF16 | {"avx512_fp16", "avx_vnni"}
_AMX = _FP16 | {"amx_tile", "amx_int8", "amx_bf16"}
_ISA_LIMITS: dict[str, set[str]] = {
    "SSE41": set(),
    "AVX": set(),
    "AVX2": {"avx2"},
    "AVX2_VNNI": {"avx2", "avx_vnni"},
    "AVX2_VNNI_2": {"avx2", "avx_vnni"},
    "AVX512_CORE": _AVX512,
    "AVX512_CORE_VNNI": _VNNI,
    "AVX512_CORE_BF16": _BF16,
    "AVX512_CORE_FP16": _FP16,
    "AVX10_1_512": _FP16,
    "AVX512_CORE_AMX": _AMX,
    "AVX10_1_512_AMX": _AMX,
    "AVX512_CORE_AMX_FP16": _AMX,
    "AVX10_1_512_AMX_FP16": _AMX,
    "AVX10_2": _FP16,
    "AVX10_2_512": _FP16,
    "AVX10_2_512_AMX_2": _AMX,
}
"""What each value of ONEDNN_MAX_CPU_ISA leaves of the x86 instructions; oneDNN overlooks others."""

_ARM = {"asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"}
_TOLD = _AMX | _ARM
"""The instructions that decide how fast matrices are multiplied."""

_BF16_PRODUCTS = {"avx512_bf16", "amx_bf16", "bf16"}
_BYTE_DOTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


@dataclass(frozen=True)
class Processor:
    """What the processor offers, and what this process may use of it.

    >>> here = processor()
    >>> 1 <= here.threads <= here.allowed <= here.cores
    True
    """

    name: str
    """The maker's words, or the architecture where the system has none."""
    cores: int
    """Of the machine, hardware threads counted."""
    allowed: int
    """Cores that the affinity of this process leaves."""
    quota: float | None
    """Cores' worth of time that the container grants, perhaps half a one; None: no limit."""
    memory: int | None
    """Bytes of the machine; None where the system does not tell."""
    memory_limit: int | None
    """Bytes that the container grants; None: no limit."""
    offered: frozenset[str]
    """The instructions for matrices that the processor has, by the names of /proc/cpuinfo; empty where the
    system does not tell (Windows, macOS)."""
    isa_limit: str | None
    """ONEDNN_MAX_CPU_ISA, where it says anything that oneDNN knows."""
    maker: str = ""
    """As /proc/cpuinfo names it (`GenuineIntel`); empty where the system does not tell."""

    @property
    def threads(self) -> int:
        """Threads worth starting: a part of a core still needs one."""
        return self.allowed if self.quota is None else max(1, min(self.allowed, math.ceil(self.quota)))

    @property
    def instructions(self) -> frozenset[str]:
        """The offered ones without those that ONEDNN_MAX_CPU_ISA forbids."""
        return self.offered if self.isa_limit is None else self.offered & _ISA_LIMITS[self.isa_limit]

    @property
    def has_bf16(self) -> bool:
        """Whether there are instructions that multiply bfloat16 faster than float32."""
        useful = _BF16_PRODUCTS - {"avx512_bf16"} if self.has_slow_bf16_dot else _BF16_PRODUCTS
        return not self.instructions.isdisjoint(useful)

    @property
    def has_slow_bf16_dot(self) -> bool:
        """Whether AVX512_BF16, where it is there, is slower than float32.

        Intel's cores since Sapphire Rapids, told by AVX512_FP16, start its dot products at a quarter of the
        rate of float32's, for twice the products each (docs/machines.md). Their bfloat16 is meant for AMX,
        which a virtual machine may hide.
        """
        return self.maker == "GenuineIntel" and "avx512_fp16" in self.offered

    @property
    def has_int8(self) -> bool:
        """Whether there are instructions that multiply eight-bit numbers faster than floats."""
        return self.has_byte_dot or "avx2" in self.instructions

    @property
    def has_byte_dot(self) -> bool:
        """Whether they add up the products of full bytes in 32 bits (VNNI, ARM's dot products).

        AVX2 adds two of them in 16 bits, which overflow unless one side has fewer bits: only the kernels of
        `runtime/native` heed that, oneDNN and torch do not.
        """
        return not self.instructions.isdisjoint(_BYTE_DOTS)

    @property
    def usable_memory(self) -> int | None:
        """Bytes that this process and its container's others may use; None where that is not known."""
        known = [size for size in (self.memory, self.memory_limit) if size is not None]
        return min(known, default=None)


def read_processor(
    *, cgroups: Path = CGROUPS, proc: Path = PROC, environ: Mapping[str, str] = os.environ
) -> Processor:
    """The record, read anew from the folders of control groups and processes (or from recorded ones)."""
    info = _cpuinfo(proc)
    memory = _memory(proc)
    limit = min(
        (size for size in _memory_limits(cgroups, proc) if memory is None or size < memory), default=None
    )
    wanted = environ.get("ONEDNN_MAX_CPU_ISA") or environ.get("DNNL_MAX_CPU_ISA") or ""
    return Processor(
        name=info.get("model name") or platform.processor() or platform.machine() or "unknown",
        cores=os.cpu_count() or 1,
        allowed=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        quota=min(_quotas(cgroups, proc), default=None),
        memory=memory,
        memory_limit=limit,
        offered=frozenset((info.get("flags") or info.get("Features") or "").split()) & _TOLD,
        isa_limit=wanted.upper() if wanted.upper() in _ISA_LIMITS else None,
        maker=info.get("vendor_id", ""),
    )


@functools.cache
def processor() -> Processor:
    """The processor that this process runs on, read once."""
    return read_processor()


def _cpuinfo(proc: Path) -> dict[str, str]:
    """The lines about the first core; nothing where there is no such file."""
    try:
        text = (proc / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _memory(proc: Path) -> int | None:
    try:
        for line in (proc / "meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _quotas(cgroups: Path, proc: Path) -> Iterator[float]:
    """Each limit of time, in cores, on the way from the process's own group up to the root: v2, then v1."""
    for folder in _groups(cgroups, proc, controller=""):
        quota, _, period = _content(folder / "cpu.max").partition(" ")
        yield from _share(quota, period)
    for folder in _groups(cgroups, proc, controller="cpu"):
        yield from _share(_content(folder / "cpu.cfs_quota_us"), _content(folder / "cpu.cfs_period_us"))


def _share(quota: str, period: str) -> Iterator[float]:
    # «max» and -1 mean no limit; a file that holds anything else says nothing either.
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        yield int(quota) / int(period)


def _memory_limits(cgroups: Path, proc: Path) -> Iterator[int]:
    names = (("", "memory.max"), ("memory", "memory.limit_in_bytes"))
    for controller, name in names:
        for folder in _groups(cgroups, proc, controller=controller):
            content = _content(folder / name)
            if content.isdecimal():
                yield int(content)


def _groups(cgroups: Path, proc: Path, *, controller: str) -> Iterator[Path]:
    """The folders of the process's own group and of every group around it; "" is the one tree of v2.

    A container sees its own group as the root, whatever path /proc/self/cgroup names; folders that are
    not there are left to the reader to find missing.
    """
    for line in _content(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        if controller in controllers.split(","):
            below = [part for part in own.split("/") if part not in ("", "..")]
            mounts = (
                [cgroups / controllers, cgroups / controller]
                if controller
                else [cgroups, cgroups / "unified"]
            )
            for mount in dict.fromkeys(mounts):
                yield from (mount.joinpath(*below[:depth]) for depth in range(len(below), -1, -1))


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def usable_cores() -> int:
    """Threads worth starting: what affinity and the container's quota leave, not what the machine has."""
    return processor().threads


def pick_device(name: str = "auto") -> torch.device:
    """The device by name; "auto" takes a CUDA card where there is one."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and processor().has_bf16


def pick_precision(name: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision by name; "auto" becomes bf16 where the hardware has it, else fp32."""
    if name == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    return name


def pick_inference_precision(
    name: InferencePrecision,
    device: torch.device,
    on: Processor | None = None,
    *,
    has_kernels: bool = True,
) -> Literal["fp32", "bf16", "int8"]:
    """The precision by name, or the next best where the hardware lacks it: int8, then bf16, then fp32.

    "auto" takes bf16 where the hardware has it, else fp32: int8 costs some agreement, so it is only taken
    when it is asked for. A GPU has no int8 path here, and AVX2 without VNNI has one only by compiled kernels
    (`has_kernels`).
    """
    on = on or processor()
    bf16 = on.has_bf16 if device.type == "cpu" else has_bf16(device)
    bytes_work = on.has_int8 if has_kernels else on.has_byte_dot
    if name == "int8" and device.type == "cpu" and bytes_work:
        return "int8"
    return "bf16" if name != "fp32" and bf16 else "fp32"


def environment() -> dict[str, str | int]:
    """What bit-equal weights depend on, beside seed and data."""
    import torch

    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "processor": platform.machine(),
        "world_size": 1,
    }
