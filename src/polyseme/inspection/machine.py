"""What the library finds on this machine, and what `auto` makes of it."""

from polyseme.devices import Processor, pick_device, pick_inference_precision, processor
from polyseme.records import Record
from polyseme.runtime.native.library import in_use
from polyseme.threads import default_threads


class MachineSummary(Record, frozen=True, kw_only=True):
    """The processor, what this process may use of it, and what is picked."""

    processor: str
    cores: int
    """Of the machine, hardware threads counted."""
    allowed: int
    """Cores that the affinity of this process leaves."""
    quota: float | None
    """Cores' worth of time that the container grants; None: no limit."""
    threads: int
    """What `threads` is where it is not given."""
    instructions: list[str]
    """Those for matrices that may be used."""
    forbidden: list[str]
    """Those that ONEDNN_MAX_CPU_ISA takes away."""
    memory: int | None
    """Bytes of the machine."""
    memory_limit: int | None
    """Bytes that the container grants; None: no limit."""
    device: str
    """What `device=auto` takes."""
    precision: str
    """What `precision=auto` takes where vectors are made."""
    why: str
    """The reason for that precision."""
    int8: bool
    """Whether the processor multiplies int8, which is taken where it is asked for only."""
    kernels: str | None
    """The compiled kernels in use here: a level of instructions where they came with the package, "native"
    where they were compiled here, or "none". None: of another machine, where that is not known."""
    kernels_why: str


def show_machine(here: Processor | None = None) -> MachineSummary:
    """What this machine offers (or `here`, a record of another one) and what is picked on it.

    >>> show_machine().precision in ("fp32", "bf16")
    True
    """
    device = pick_device("auto") if here is None else pick_device("cpu")
    threads = default_threads() if here is None else here.threads
    kernels, kernels_why = in_use() if here is None else (None, "of another machine")
    here = here or processor()
    precision = pick_inference_precision("auto", device, here)
    return MachineSummary(
        processor=here.name,
        cores=here.cores,
        allowed=here.allowed,
        quota=here.quota,
        threads=threads,
        instructions=sorted(here.instructions),
        forbidden=sorted(here.offered - here.instructions),
        memory=here.memory,
        memory_limit=here.memory_limit,
        device=str(device),
        precision=precision,
        why=_why(here) if device.type == "cpu" else _why_of_gpu(precision),
        int8=here.has_int8,
        kernels=kernels,
        kernels_why=kernels_why,
    )


def _why(here: Processor) -> str:
    if here.has_bf16:
        return "the processor multiplies bf16"
    if not here.offered:
        return "the system does not tell which instructions the processor has"
    if here.isa_limit is not None and not here.offered <= here.instructions:
        return f"ONEDNN_MAX_CPU_ISA={here.isa_limit} leaves no instructions that multiply bf16"
    if here.has_slow_bf16_dot:
        return "without AMX this processor multiplies bf16 more slowly than fp32"
    return "the processor has no instructions that multiply bf16"


def _why_of_gpu(precision: str) -> str:
    return "the GPU multiplies bf16" if precision == "bf16" else "the GPU does not multiply bf16"
