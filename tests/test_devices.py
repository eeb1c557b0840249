"""What a processor offers and what a container leaves of it, from recorded files."""

import json
from pathlib import Path

import pytest
import torch

from polyseme.cli import main
from polyseme.devices import (
    InferencePrecision,
    Processor,
    pick_inference_precision,
    processor,
    read_processor,
    usable_cores,
)
from polyseme.inspection.machine import show_machine
from polyseme.runtime.native.building import instruction_flags
from polyseme.threads import default_threads

TREES = Path(__file__).parent / "data" / "cgroups"
ZEN5 = "avx2 avx512f avx512_bf16 avx512_vnni avx_vnni sse4_2"
SKYLAKE = "avx2 avx512f"
ALDER_LAKE = "avx2 avx_vnni"
RAPIDS_WITHOUT_AMX = "avx2 avx512f avx512_bf16 avx512_vnni avx_vnni avx512_fp16"
SAPPHIRE_RAPIDS = f"{RAPIDS_WITHOUT_AMX} amx_bf16 amx_tile amx_int8"
CPU = torch.device("cpu")


def recorded(tree: str) -> Processor:
    return read_processor(cgroups=TREES / tree / "cgroup", proc=TREES / tree / "proc", environ={})


def with_flags(
    tmp_path: Path, flags: str, *, line: str = "flags", maker: str = "AuthenticAMD", **environ: str
) -> Processor:
    (tmp_path / "cpuinfo").write_text(
        f"processor\t: 0\nvendor_id\t: {maker}\nmodel name\t: Some Processor\n{line}\t\t: {flags}\n\n"
        f"processor\t: 1\n{line}\t: 1\n"
    )
    return read_processor(cgroups=tmp_path, proc=tmp_path, environ=environ)


@pytest.mark.parametrize(
    ("tree", "quota"),
    [
        ("none", None),
        ("unlimited", None),
        ("half", 0.5),
        ("one-and-a-half", 1.5),
        ("nested", 0.75),
        ("v1", 2.5),
        ("v1-unlimited", None),
        ("broken", None),
    ],
)
def test_the_quota_is_the_tightest_on_the_way_to_the_root(tree: str, quota: float | None) -> None:
    assert recorded(tree).quota == quota


def test_half_a_core_is_one_thread_and_the_record_says_that_it_is_half() -> None:
    half = recorded("half")
    assert (half.quota, half.threads) == (0.5, 1)


@pytest.mark.parametrize(
    ("allowed", "quota", "threads"), [(4, None, 4), (4, 1.5, 2), (4, 9.0, 4), (1, 1.5, 1)]
)
def test_threads_are_what_affinity_and_quota_leave(allowed: int, quota: float | None, threads: int) -> None:
    some = Processor("", 8, allowed, quota, None, None, frozenset(), None)
    assert some.threads == threads


@pytest.mark.parametrize(
    ("tree", "limit"),
    [
        ("none", None),
        ("unlimited", None),
        ("half", 512 << 20),
        ("nested", 4 << 30),
        ("v1", 2 << 30),
        ("v1-unlimited", None),
        ("broken", None),
    ],
)
def test_the_memory_is_the_machine_s_unless_a_group_grants_less(tree: str, limit: int | None) -> None:
    found = recorded(tree)
    assert found.memory_limit == limit
    if tree != "broken":
        assert found.memory == 16303428 * 1024
        assert found.usable_memory == (limit or found.memory)


@pytest.mark.parametrize(
    ("flags", "bf16", "int8"),
    [
        (ZEN5, True, True),
        (SKYLAKE, False, True),
        (ALDER_LAKE, False, True),
        (SAPPHIRE_RAPIDS, True, True),
        ("sse4_2", False, False),
    ],
)
def test_instructions_say_which_products_are_in_hardware(
    tmp_path: Path, flags: str, bf16: bool, int8: bool
) -> None:
    found = with_flags(tmp_path, flags)
    assert (found.has_bf16, found.has_int8) == (bf16, int8)
    assert found.name == "Some Processor"
    assert found.offered == set(flags.split()) - {"sse4_2"}


@pytest.mark.parametrize(
    ("maker", "flags", "limit", "bf16"),
    [
        ("GenuineIntel", RAPIDS_WITHOUT_AMX, "", False),
        ("GenuineIntel", SAPPHIRE_RAPIDS, "", True),
        ("GenuineIntel", SAPPHIRE_RAPIDS, "AVX512_CORE_FP16", False),
        ("GenuineIntel", "avx2 avx512f avx512_bf16 avx512_vnni", "", True),
        ("AuthenticAMD", RAPIDS_WITHOUT_AMX, "", True),
    ],
)
def test_intel_s_bf16_counts_only_where_amx_multiplies_it(
    tmp_path: Path, maker: str, flags: str, limit: str, bf16: bool
) -> None:
    found = with_flags(tmp_path, flags, maker=maker, ONEDNN_MAX_CPU_ISA=limit)
    assert found.has_bf16 == bf16
    assert pick_inference_precision("auto", CPU, found) == ("bf16" if bf16 else "fp32")
    if not bf16:
        assert pick_inference_precision("bf16", CPU, found) == "fp32"
        assert pick_inference_precision("int8", CPU, found) == "int8"
    assert ("-DSLOW_BF16_DOT" in instruction_flags({}, slow_bf16=found.has_slow_bf16_dot)) == (
        maker == "GenuineIntel" and "avx512_fp16" in flags
    )


def test_arm_names_its_instructions_features(tmp_path: Path) -> None:
    found = with_flags(tmp_path, "fp asimd asimddp i8mm bf16 sve", line="Features")
    assert found.has_bf16
    assert found.has_int8


def test_nothing_is_guessed_where_the_system_tells_nothing(tmp_path: Path) -> None:
    found = read_processor(cgroups=tmp_path, proc=tmp_path, environ={})
    assert (found.offered, found.has_bf16, found.has_int8) == (frozenset(), False, False)
    assert pick_inference_precision("auto", CPU, found) == "fp32"


@pytest.mark.parametrize(
    ("limit", "bf16", "int8"),
    [
        ("AVX2", False, True),
        ("avx2", False, True),
        ("AVX", False, False),
        ("AVX2_VNNI", False, True),
        ("AVX512_CORE", False, True),
        ("AVX512_CORE_VNNI", False, True),
        ("AVX512_CORE_BF16", True, True),
        ("ALL", True, True),
        ("", True, True),
        ("AVX3", True, True),
    ],
)
@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_the_limit_set_for_onednn_takes_instructions_away(
    tmp_path: Path, variable: str, limit: str, bf16: bool, int8: bool
) -> None:
    found = with_flags(tmp_path, SAPPHIRE_RAPIDS, **{variable: limit})
    assert (found.has_bf16, found.has_int8) == (bf16, int8)
    assert "amx_tile" in found.offered


@pytest.mark.parametrize(
    ("flags", "name", "picked"),
    [
        (ZEN5, "auto", "bf16"),
        (ZEN5, "fp32", "fp32"),
        (ZEN5, "bf16", "bf16"),
        (ZEN5, "int8", "int8"),
        (SKYLAKE, "auto", "fp32"),
        (SKYLAKE, "bf16", "fp32"),
        (SKYLAKE, "int8", "int8"),
        ("sse4_2", "int8", "fp32"),
        (ALDER_LAKE, "int8", "int8"),
        (ALDER_LAKE, "auto", "fp32"),
    ],
)
def test_the_precision_is_the_one_asked_for_or_the_next_best(
    tmp_path: Path, flags: str, name: InferencePrecision, picked: str
) -> None:
    assert pick_inference_precision(name, CPU, with_flags(tmp_path, flags)) == picked


def test_without_our_kernels_only_full_dot_products_of_bytes_count(tmp_path: Path) -> None:
    for flags, picked in ((SKYLAKE, "fp32"), (ALDER_LAKE, "int8"), (ZEN5, "int8")):
        found = with_flags(tmp_path, flags)
        assert pick_inference_precision("int8", CPU, found, has_kernels=False) == picked


def test_this_machine_can_be_read_and_is_read_once() -> None:
    assert processor() is processor()
    assert 1 <= usable_cores() == processor().threads <= processor().allowed <= processor().cores


@pytest.mark.parametrize(
    ("flags", "limit", "precision", "why"),
    [
        (ZEN5, "", "bf16", "the processor multiplies bf16"),
        (RAPIDS_WITHOUT_AMX, "", "fp32", "without AMX this processor multiplies bf16 more slowly than fp32"),
        (SKYLAKE, "", "fp32", "the processor has no instructions that multiply bf16"),
        (ZEN5, "AVX2", "fp32", "ONEDNN_MAX_CPU_ISA=AVX2 leaves no instructions that multiply bf16"),
        (SKYLAKE, "AVX512_CORE", "fp32", "the processor has no instructions that multiply bf16"),
        ("", "", "fp32", "the system does not tell which instructions the processor has"),
    ],
)
def test_the_machine_says_which_precision_auto_takes_and_why(
    tmp_path: Path, flags: str, limit: str, precision: str, why: str
) -> None:
    maker = "GenuineIntel" if flags == RAPIDS_WITHOUT_AMX else "AuthenticAMD"
    found = show_machine(with_flags(tmp_path, flags, maker=maker, ONEDNN_MAX_CPU_ISA=limit))
    assert (found.precision, found.why) == (precision, why)
    assert found.forbidden == ([] if limit != "AVX2" else sorted(set(ZEN5.split()) - {"avx2", "sse4_2"}))


def test_show_machine_speaks_to_people_and_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "machine"]) == 0
    shown = capsys.readouterr().out
    assert f"threads       {default_threads()}" in shown
    assert "\nquota " in shown
    assert main(["show", "machine", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["threads"] == default_threads()
    assert set(told["instructions"]) == processor().instructions
