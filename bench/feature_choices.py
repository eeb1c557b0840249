"""What a frozen network knows, and what pre-training is worth: BERT's own table, and curves over the labels.

    python bench/feature_choices.py --data ../shared/data --out FOLDER --zh MODEL [--en MODEL]
        [--studies choices labels] [--only peoples-daily …] [--share 1.0] [--seeds 0 1 2]

`choices`: the six ways to read a frozen network of Devlin et al. 2019 (table 7: a BiLSTM on the embeddings,
the second-to-last layer, the last, weighted sums of the last four and of all, the last four side by side),
and a mix of all with the embeddings (ELMo), beside fine-tuning: entity F1 on Wikigold and a part of
People's Daily.

`labels`: the same network, pre-trained and from random weights, on 1, 3, 10, 30 and 100 % of the labels of
ChnSentiCorp, beside TF-IDF over characters with a linear model; the same texts for all three.

Each cell (data, way, seed) is a process of its own, keeps its result in FOLDER, and the same command goes on
where it stopped; a killed cell goes on too. Splits are those of bench/task_splits.py. Features of a data set
are computed once for each choice and removed after its last seed. English is all-MiniLM-L6-v2 without --en.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks import DATA, RATES, minilm, parts

TAGGED = ("wikigold", "peoples-daily")
JUDGED = ("chnsenticorp",)
FROZEN: dict[str, Any] = {
    "way": "frozen", "feature_head": "bilstm", "lstm_layers": 2, "lstm_size": 128, "epochs": 8, "patience": 2,
    "head_learning_rate": 2e-3,
}  # fmt: skip
CHOICES: dict[str, dict[str, Any]] = {
    "fine-tuning": {},
    "embeddings": {"layers": "0"} | FROZEN,
    "second-to-last": {"layers": "-2"} | FROZEN,
    "last": {"layers": "-1"} | FROZEN,
    "weighted sum of last four": {"layers": "weighted:-4:-1"} | FROZEN,
    "last four side by side": {"layers": "-4:-1"} | FROZEN,
    "weighted sum of all": {"layers": "weighted:1:-1"} | FROZEN,
    "mix of all and embeddings": {"layers": "weighted:0:-1"} | FROZEN,
}
THINNED = {"wikigold": 1.0, "peoples-daily": 0.25}
"""The share of the sentences of bench/tasks.py that the choices are compared on: about 1,400 and 500."""
BATCHES: dict[str, dict[str, Any]] = {"wikigold": {}, "peoples-daily": {"batch_size": 8, "epochs": 5}}
"""Small ones for few sentences: a BiLSTM needs some hundred steps before it finds anything."""
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
EPOCHS = {0.01: 8, 0.03: 6, 0.1: 5, 0.3: 3, 1.0: 2}
"""So that a small part is seen often enough; the best epoch on dev is kept."""
KINDS: dict[str, dict[str, Any]] = {"pre-trained": {}, "random weights": {"fresh": True}}
BASELINE = "TF-IDF, linear"


def work(options: argparse.Namespace, study: str, data: str, name: str, seed: int) -> dict[str, Any]:
    """One cell, computed here."""
    begin = time.perf_counter()
    found = STUDIES[study][2](options, data, name, seed)
    return found | {"seconds": round(time.perf_counter() - begin, 1)}


def chosen_features(options: argparse.Namespace, data: str, name: str, seed: int) -> dict[str, Any]:
    """One way to read the network, on one data set."""
    more = CHOICES[name]
    cache = {"feature_cache": str(cache_of(options, data, name))} if more else {}
    steps = BATCHES[data] if more else {}
    return tuned(options, data, seed, more | steps | cache | {"share": THINNED[data] * options.share})


def part_of_labels(options: argparse.Namespace, data: str, name: str, seed: int) -> dict[str, Any]:
    """One share of the labels, for a network or for the baseline; `name` is `kind at share`."""
    kind, _, written = name.rpartition(" at ")
    share = float(written)
    if kind == BASELINE:
        return linear(options, data, share * options.share, seed)
    more = {"epochs": EPOCHS[share], "batch_size": 16, "max_length": 64, "subset_seed": seed}
    return tuned(options, data, seed, KINDS[kind] | more | {"share": share * options.share})


def tuned(options: argparse.Namespace, name: str, seed: int, more: dict[str, Any]) -> dict[str, Any]:
    """Dev and test scores of one fine-tuning."""
    import polyseme

    data = DATA[name]
    model = options.zh if data.language == "zh" else (options.en or minilm())
    chosen = RATES[data.language] | dict(data.options) | {"threads": options.threads, "skip_bad": True}
    chosen = {name: value for name, value in chosen.items() if name != "limit"} | more
    paths = parts(data, Path(options.data), Path(options.out) / "data" / name)
    place = Path(options.out) / "runs" / "-".join(options.worker).replace(" ", "-")
    outcome = polyseme.finetune(data.task, model=model, out=place, seeds=(seed,), **paths, **chosen)
    shutil.rmtree(place)
    return {
        "examples": outcome.examples,
        "dev": {name: score.mean for name, score in outcome.dev.items()},
        "test": {name: score.mean for name, score in outcome.test.items()},
    }


def linear(options: argparse.Namespace, name: str, share: float, seed: int) -> dict[str, Any]:
    """The baseline on the very texts that the networks see."""
    from polyseme.evaluation.baselines import tfidf
    from polyseme.tasks.subsets import subset
    from polyseme.tasks.task import make_task

    data = DATA[name]
    paths = parts(data, Path(options.data), Path(options.out) / "data" / name)
    task = make_task(data.task, {})
    read = {part: list(task.read(path, labelled=True)) for part, path in paths.items()}
    strata = [task.stratum(example) for example in read["train"]]
    train = subset(read["train"], strata, share=share, limit=None, seed=seed)
    scores = tfidf(train, read["dev"], read["test"])
    return {"examples": len(train), "dev": scores.dev, "test": scores.test}


def cache_of(options: argparse.Namespace, data: str, name: str) -> Path:
    return Path(options.out) / "features" / f"{data}-{name.replace(' ', '-')}"


def of_labels() -> list[str]:
    return [f"{kind} at {share}" for share in SHARES for kind in (*KINDS, BASELINE)]


STUDIES: dict[str, Any] = {
    "choices": (TAGGED, list(CHOICES), chosen_features, "f1"),
    "labels": (JUDGED, of_labels(), part_of_labels, "accuracy"),
}
"""Data sets, names of the cells, what computes one, and the score that is told."""


def cell(options: argparse.Namespace, study: str, data: str, name: str, seed: int) -> dict[str, Any]:
    """The result of a cell, from its file or from a process that computes it now."""
    path = (
        Path(options.out) / "cells" / f"{study}-{data}-{name.replace(' ', '-').replace(',', '')}-{seed}.json"
    )
    if not path.exists():
        print(f"{study}: {data}, {name}, seed {seed}", file=sys.stderr)
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", study, data, name, str(seed)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(done.stdout.splitlines()[-1])
        os.replace(temporary, path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def table(options: argparse.Namespace, study: str) -> None:
    """All cells of a study as a table, and as a picture."""
    sets, names, _, score = STUDIES[study]
    sets = [data for data in sets if not options.only or data in options.only]
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    seconds: dict[str, float] = {}
    for data in sets:
        for name in names:
            cells = [cell(options, study, data, name, seed) for seed in options.seeds]
            shutil.rmtree(cache_of(options, data, name), ignore_errors=True)
            scores[name][data] = [one["test"][score] for one in cells]
            seconds[name] = seconds.get(name, 0.0) + sum(one["seconds"] for one in cells)
    print(f"\n{study}: test {score}, mean ± deviation over the seeds {' '.join(map(str, options.seeds))}\n")
    print("| |", " | ".join(sets), "| seconds |")
    print("| --- |" + " ---: |" * (len(sets) + 1))
    for name in names:
        print(
            f"| {name} |",
            " | ".join(_in_words(scores[name][data]) for data in sets),
            f"| {seconds[name]:.0f} |",
        )
    PICTURES[study](Path(options.out) / f"{study}.svg", sets, scores, score)


def _in_words(values: list[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{deviation}"


def bars(path: Path, sets: list[str], scores: dict[str, dict[str, list[float]]], score: str) -> None:
    """One bar a choice, its seeds as points."""
    figure, axes = _figure(len(sets))
    names = list(scores)[::-1]
    for axis, data in zip(axes, sets, strict=True):
        means = [100 * statistics.fmean(scores[name][data]) for name in names]
        axis.barh(names, means, color=["#4878a8" if name != "fine-tuning" else "#c06040" for name in names])
        for row, name in enumerate(names):
            axis.plot(
                [100 * value for value in scores[name][data]],
                [row] * len(scores[name][data]),
                "k.",
                markersize=3,
            )
        axis.set_xlim(max(0, min(means) - 10), 100)
        axis.set_title(data)
        axis.set_xlabel(f"test {score}")
    figure.savefig(path, format="svg")


def curves(path: Path, sets: list[str], scores: dict[str, dict[str, list[float]]], score: str) -> None:
    """One curve for each network and for the baseline, with the seeds' deviation."""
    figure, axes = _figure(len(sets))
    for axis, data in zip(axes, sets, strict=True):
        for kind in (*KINDS, BASELINE):
            values = [[100 * value for value in scores[f"{kind} at {share}"][data]] for share in SHARES]
            spread = [statistics.stdev(of_share) if len(of_share) > 1 else 0.0 for of_share in values]
            axis.errorbar(
                [100 * share for share in SHARES], [statistics.fmean(v) for v in values], spread,
                marker="o", markersize=3, capsize=2, label=kind,
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_xticks([100 * share for share in SHARES], [f"{100 * share:g}" for share in SHARES])
        axis.set_title(data)
        axis.set_xlabel("labels seen, %")
        axis.set_ylabel(f"test {score}, %")
        axis.legend()
    figure.savefig(path, format="svg")


def _figure(count: int) -> tuple[Any, list[Any]]:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(6 * count, 3.6), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


PICTURES = {"choices": bars, "labels": curves}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--zh", required=True, help="the model for Chinese")
    parser.add_argument("--en", help="the model for English instead of all-MiniLM-L6-v2")
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--only", nargs="+", choices=[*TAGGED, *JUDGED], help="these data sets alone")
    parser.add_argument("--share", type=float, default=1.0, help="of the training examples, for a short look")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        study, data, name, seed = options.worker
        print(json.dumps(work(options, study, data, name, int(seed))))
        return
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {version('torch')}")
    print("command:", " ".join(sys.argv))
    for study in options.studies:
        table(options, study)


if __name__ == "__main__":
    main()
