"""`polyseme show machine`: cores, instructions, memory, and what is picked."""

from polyseme.cli.reporter import amount
from polyseme.cli.tables import print_json, print_table
from polyseme.records import Record, to_plain


class Options(Record, frozen=True, kw_only=True):
    """Show what this process may use of the machine, and which precision, device and compiled kernels
    are used, and why."""

    json: bool = False
    """The same as JSON."""


def run(options: Options) -> None:
    """Print what was found as a table."""
    from polyseme.inspection.machine import show_machine

    found = show_machine()
    if options.json:
        print_json(to_plain(found))
        return
    forbidden = f" (without {' '.join(found.forbidden)}: ONEDNN_MAX_CPU_ISA)" if found.forbidden else ""
    print_table(
        ["", ""],
        [
            ("processor", found.processor),
            ("cores", f"{found.cores}, of which this process may use {found.allowed}"),
            ("quota", "none" if found.quota is None else f"{found.quota:g} cores' worth of time"),
            ("threads", found.threads),
            ("instructions", (" ".join(found.instructions) or "none for matrices") + forbidden),
            ("memory", _bytes(found.memory)),
            ("memory limit", "none" if found.memory_limit is None else _bytes(found.memory_limit)),
            ("device", found.device),
            ("precision", f"{found.precision}: {found.why}"),
            (
                "int8",
                "multiplied in hardware, when asked for" if found.int8 else "not multiplied in hardware",
            ),
            ("kernels", f"{found.kernels}: {found.kernels_why}"),
        ],
    )


def _bytes(size: int | None) -> str:
    return "not known" if size is None else amount(size, "B")
