"""Kernels that came compiled with the wheel: one library for each level of instructions, the best one chosen.

`setup.py` compiles them where a wheel with kernels is asked for; an installation from source has none.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from polyseme.runtime.native.building import FLAGS, instruction_limit

FOLDER = Path(__file__).with_name("prebuilt")
TARGET = "x86_64-linux-gnu.2.17"
"""What they are compiled for: any Linux with glibc 2.17 or newer, which manylinux2014 stands for."""

_V3 = frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


class Level(NamedTuple):
    """A set of instructions."""

    name: str
    cpu: str
    """As the compiler names it."""
    needs: frozenset[str]
    """What the processor must have, by the names of /proc/cpuinfo."""
    options: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """The library."""
        return FOLDER / f"kernels-{self.name}.so"

    @property
    def flags(self) -> tuple[str, ...]:
        """All flags of the compiler."""
        wide = ("-mprefer-vector-width=512",) if "avx512f" in self.needs else ()
        return ("-target", TARGET, f"-mcpu={self.cpu}", *wide, *FLAGS, *self.options)


_SLOW_BF16 = "avx512-bf16-rounding"
_FAST_BF16 = "avx512-bf16"
LEVELS = (
    Level("avx2", "x86_64_v3", _V3, ("-DNO_BYTE_DOT",)),
    Level("avx2-vnni", "x86_64_v3+avxvnni", _V3 | {"avx_vnni"}),
    Level("avx512", "x86_64_v4", _V4),
    Level("avx512-vnni", "x86_64_v4+avx512vnni", _V4 | {"avx512_vnni"}),
    Level(
        _SLOW_BF16,
        "x86_64_v4+avx512vnni+avx512bf16",
        _V4 | {"avx512_vnni", "avx512_bf16"},
        ("-DSLOW_BF16_DOT",),
    ),
    Level(_FAST_BF16, "x86_64_v4+avx512vnni+avx512bf16", _V4 | {"avx512_vnni", "avx512_bf16"}),
)
"""The best last. Where dot products of bfloat16 are slower than float32's, only their rounding is used."""
_ALLOWED = {
    "SSE41": 0,
    "AVX": 0,
    "AVX2": 1,
    "AVX2_VNNI": 2,
    "AVX2_VNNI_2": 2,
    "AVX512_CORE": 3,
    "AVX512_CORE_VNNI": 4,
}
"""How many of the levels are within a limit that is set for oneDNN; all within others."""


def best_level(environment: Mapping[str, str], *, offered: Collection[str], slow_bf16: bool) -> Level | None:
    """The best level that the processor offers, within the limits that are set for oneDNN or torch."""
    left_out = _FAST_BF16 if slow_bf16 else _SLOW_BF16
    within = LEVELS[: _ALLOWED.get(instruction_limit(environment), len(LEVELS))]
    found = [level for level in within if level.needs.issubset(offered) and level.name != left_out]
    return found[-1] if found else None
