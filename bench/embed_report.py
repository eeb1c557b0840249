"""The tables and the picture of bench/embed.py."""

import os
import platform
import statistics
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from embed_models import LATENCY, PROFILES, QUALITY

Result = dict[str, Any]
OURS = "polyseme"
PRECISIONS = ("fp32", "bf16", "int8")
PACKAGES = (
    "polyseme", "torch", "transformers", "sentence-transformers", "tokenizers", "onnxruntime", "openvino",
    "nncf", "numpy",
)  # fmt: skip
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
TITLES = {
    "minilm-en": "all-MiniLM-L6-v2, English",
    "bert-base-zh": "BERT-base shape, Chinese (random weights)",
    "small-zh": "4 layers of 512, Chinese (random weights)",
}
COLORS = {
    "polyseme": ("#7fb2e5", "#2f7fc9", "#0b3d75"),
    "sentence-transformers": ("#d9d9d9", "#a6a6a6", "#737373"),
    "onnxruntime": ("#f5c98a", "#e39a34", "#b36b00"),
    "openvino": ("#b5dba8", "#6fb35c", "#3b7d2a"),
}
"""One colour an engine, darker as the numbers get fewer bits."""
LINES = {"fp32": ":", "bf16": "--", "int8": "-"}


def report(results: list[Result], *, threads: int, folder: Path) -> str:
    """All tables, which are also kept in the folder beside the picture."""
    parts = [machine(threads), *(_table(result) for result in results)]
    text = "\n\n".join(parts)
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    draw([result for result in results if result["profile"] in PROFILES], folder)
    return text


def machine(threads: int) -> str:
    """The date, the processor, what it can do, and the versions."""
    versions = ", ".join(f"{package} {_version(package)}" for package in PACKAGES)
    flags = _processor().get("flags", "").split()
    return (
        f"{date.today()}, {_name()}, {os.cpu_count()} cores, {threads} threads for every engine, "
        f"{' '.join(flag for flag in FLAGS if flag in flags)}; Python {platform.python_version()}, {versions}"
    )


def _name() -> str:
    """The processor, with the numbers that tell its generation where a virtual machine hides the name."""
    found = _processor()
    if "model name" not in found:
        return platform.machine()
    return f"{found['model name']} (family {found['cpu family']}, model {found['model']})"


def _processor() -> dict[str, str]:
    """What Linux tells of the first core."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def ratio(engines: dict[str, Result], ours: str, other: str) -> float | None:
    """How many times faster `ours` is: the median over rounds of the quotient of both times in a round."""
    mine, its = (engines.get(name, {}).get("seconds") for name in (ours, other))
    if not mine or not its or ours == other:
        return None
    return statistics.median(_seconds(b) / _seconds(a) for a, b in zip(mine, its, strict=True))


def _seconds(turn: float | list[float]) -> float:
    """Of a turn over single texts, the median of its calls."""
    return statistics.median(turn) if isinstance(turn, list) else turn


def rate(result: Result, engine: str) -> float:
    """Tokens a second, by the median round."""
    return float(result["tokens"] / statistics.median(result["engines"][engine]["seconds"]))


def _measured(result: Result) -> dict[str, Result]:
    return {engine: row for engine, row in result["engines"].items() if "refused" not in row}


def _table(result: Result) -> str:
    made = {LATENCY: _latency, QUALITY: _quality}.get(result["profile"], _throughput)
    limited = ", instructions limited to AVX2 where the engine has a switch" if result["avx2"] else ""
    refused = [
        f"{engine}: {row['refused']}"
        for engine, row in result["engines"].items()
        if "refused" in row and not engine.startswith("limit")
    ]
    lines = [f"### {TITLES[result['model']]}: {result['profile']}{limited}", "", *made(result)]
    if result["avx2"]:
        lines += ["", *(f"- {engine}: {row['instructions']}" for engine, row in _measured(result).items())]
    return "\n".join(lines + [""] * bool(refused) + [f"- left out: {line}" for line in refused])


def _throughput(result: Result) -> list[str]:
    engines = _measured(result)
    tokens, texts = result["tokens"], result["texts"]
    lines = [
        f"{texts:,} texts, {tokens / texts:.1f} tokens on average, {result['settings']['rounds']} rounds",
        "",
        "| engine | tokens/s | texts/s | tokens/CPU s | peak MiB | lowest cosine | mean cosine | our fp32 × "
        "| our bf16 × | our int8 × | setting |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for engine, row in engines.items():
        speed = rate(result, engine)
        kept = f"{row['lowest']:.5f} | {row['mean']:.5f}" if "lowest" in row else " | "
        lines.append(
            f"| {engine} | {speed:,.0f} | {speed * texts / tokens:,.1f} | "
            f"{tokens / statistics.median(row['cpu']):,.0f} | {row['memory']:,.0f} | {kept} | "
            f"{_ratios(engines, engine)} | {row['setting']} |"
        )
    return [*lines, *_best(result)]


def _best(result: Result) -> list[str]:
    """The fastest of ours beside the fastest of the peers."""
    engines = _measured(result)
    ours = [engine for engine in engines if engine.startswith(OURS)]
    peers = [engine for engine in engines if not engine.startswith((OURS, "limit"))]
    if not ours or not peers:
        return []
    mine, its = (max(names, key=lambda name: rate(result, name)) for names in (ours, peers))
    return ["", f"{mine} is {ratio(engines, mine, its):.2f} × the fastest peer, {its}."]


def _latency(result: Result) -> list[str]:
    engines = _measured(result)
    lines = ["| engine | median ms | calls | our fp32 × | our bf16 × | our int8 × | setting |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for engine, row in engines.items():
        calls = [second for turn in row["seconds"] for second in turn]
        lines.append(
            f"| {engine} | {statistics.median(calls) * 1000:.2f} | {len(calls)} | "
            f"{_ratios(engines, engine)} | {row['setting']} |"
        )
    return lines


def _quality(result: Result) -> list[str]:
    lines = ["| engine | Spearman × 100 | points lost to plain fp32 | lowest cosine |", "|---|---|---|---|"]
    for engine, row in _measured(result).items():
        if "spearman" in row:
            lost = row["reference"] - row["spearman"]
            lines.append(f"| {engine} | {row['spearman']:.2f} | {lost:+.2f} | {row['lowest']:.4f} |")
    return lines


def _ratios(engines: dict[str, Result], engine: str) -> str:
    found = [ratio(engines, f"{OURS}:{precision}", engine) for precision in PRECISIONS]
    return " | ".join("" if value is None else f"{value:.2f}" for value in found)


def draw(results: list[Result], folder: Path) -> None:
    """Tokens a second by engine and profile, a panel a model; the limits as lines over each group."""
    if not results:
        return
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture without matplotlib: pip install 'polyseme[plots]'")
        return
    models = list(dict.fromkeys(result["model"] for result in results))
    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(10, 3.6 * len(models) + 1), layout="constrained")
        settings = results[0]["settings"]
        limited = ", instructions limited to AVX2 where there is a switch" if results[0]["avx2"] else ""
        figure.suptitle(f"{_name()}, {settings['threads']} threads{limited}", fontsize=10)
        panels = figure.subplots(len(models), squeeze=False)[:, 0]
        for panel, model in zip(panels, models, strict=True):
            _panel(panel, [result for result in results if result["model"] == model])
            panel.set_title(TITLES[model], loc="left")
        shown: dict[str, Any] = {}
        for panel in panels:
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
                shown.setdefault(label, handle)
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, frameon=False)
        for suffix in ("svg", "png"):
            figure.savefig(folder / f"embed.{suffix}", dpi=150)


def _panel(panel: Any, results: list[Result]) -> None:
    names = list(dict.fromkeys(name for result in results for name in _measured(result)))
    bars = [name for name in names if not name.startswith("limit")]
    width = 0.8 / max(len(bars), 1)
    for place, result in enumerate(results):
        for number, engine in enumerate(bars):
            if engine not in _measured(result):
                continue
            family, precision = engine.split(":")
            left = place - 0.4 + width * (number + 0.5)
            speed = rate(result, engine)
            panel.bar(
                left, speed, width * 0.92, color=COLORS[family][PRECISIONS.index(precision)],
                edgecolor="black", linewidth=1.2 if family == OURS else 0,
                label=engine.replace(":", " "),
            )  # fmt: skip
            if family == OURS:
                panel.annotate(f"{speed:,.0f}", (left, speed), (0, 3), textcoords="offset points",
                               ha="center", va="bottom", rotation=90, fontsize=7, zorder=5,
                               bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # fmt: skip
        for precision, line in LINES.items():
            if f"limit:{precision}" in _measured(result):
                panel.hlines(
                    rate(result, f"limit:{precision}"), place - 0.45, place + 0.45, colors="#b22222",
                    linestyles=line, label=f"matrix products alone, {precision}",
                )  # fmt: skip
    panel.set_xticks(range(len(results)), [result["profile"] for result in results])
    panel.set_xlabel("length of the texts (tokens, about)")
    panel.set_ylabel("tokens per second")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    panel.margins(y=0.2)
    panel.spines[["top", "right"]].set_visible(False)
