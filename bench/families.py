"""Does every recipe learn? Each at its tiny size, on Chinese text, for a few minutes.

    python bench/families.py --data ../shared/data --out FOLDER

For each recipe: a vocabulary of its own kind, a store, and a run of its tiny size, of whose end the table
tells the held-out loss beside that of word frequencies on the same targets, and how well tokens and pairs are
told apart. Distillation learns from the run of bert, the cut models take their layers from a deeper run of
roberta-wwm-ext, macbert reads word vectors that are made here from counts of neighbours, and transformer
reads pairs of texts. Every row keeps its result in FOLDER; the same command goes on where it stopped, and a
run that was cut off goes on too.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

CORPORA = ("wiki_sample", "clue_sample", "tech")
ORDERED_CORPORA = ("news",)
"""For sentence order: of the corpora, the one in which a small network sees it, since news begin alike."""
VOCABULARY = 8000
VOCABULARIES = {"transformer-xl": 20_000}
"""Whole words need more of them, and its clusters do too."""
SIZE = "tiny"
LAYERS = {"rbt3": 3, "rbt4": 4, "rbt6": 6, "rbtl3": 3}
"""Models that begin with so many layers of a larger one."""
LEARNED, DETECTED, ORDERED = 0.3, 0.65, 0.6
"""What must be reached: nats below word frequencies, ROC-AUC, balanced accuracy."""
HALVED = 0.5
"""The share of its first distances to the teacher at which a student that reads no targets must end."""


class Study:
    """The rows of the table, each made once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.data, self.out = Path(options.data), Path(options.out)
        self.texts = [str(self.data / "corpus_zh" / name) for name in options.corpora]

    def row(self, name: str) -> dict[str, Any]:
        """The result of one recipe, from its file where it was finished before."""
        from polyseme.training.recipes import read_recipe

        path = self.out / "rows" / f"{name}.json"
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text())
            return found
        recipe = read_recipe(name)
        store = self.store(name, recipe)
        begin, before = time.perf_counter(), processor_seconds()
        outcome = self.train(name, store)
        if not outcome.finished:
            raise SystemExit(f"{name} was stopped; the same command goes on")
        journal = [json.loads(line) for line in (outcome.folder / "journal.jsonl").read_text().splitlines()]
        result = {
            "parameters": parameters(outcome.folder),
            "steps": outcome.steps,
            "tokens": max((line["tokens"] for line in journal if line["kind"] == "train"), default=0),
            "losses": outcome.losses,
            "began": next(line["parts"] for line in journal if line["kind"] == "train"),
            "vocabulary": next(iter(outcome.losses)) if outcome.unigram is not None else None,
            "unigram": outcome.unigram,
            "measures": outcome.measures,
            "minutes": self.options.minutes,
            "seconds": round(time.perf_counter() - begin),
            "processor_minutes": round((processor_seconds() - before) / 60, 1),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
        return result

    def train(self, name: str, store: Path) -> Any:
        """The run of a recipe, as a user would start it."""
        import polyseme
        from polyseme.training.recipes import read_recipe

        common: dict[str, Any] = {
            "out": self.out / "runs" / name, "minutes": self.options.minutes, "seed": 0,
            "threads": self.options.threads, "size": SIZE,
        }  # fmt: skip
        if any("distillation" in entry["name"] for entry in read_recipe(name).objectives):
            self.row("bert")
            return polyseme.distill(str(self.out / "runs" / "bert"), store, recipe=name, **common)
        if name in LAYERS:
            deep = self.out / "runs" / "deep"
            change = (f"model.num_layers={max(LAYERS.values())}",)
            polyseme.pretrain("roberta-wwm-ext", store, **common | {"out": deep, "change": change})
            common |= {"from_model": str(deep), "layers": tuple(range(LAYERS[name]))}
        if name == "macbert":
            common |= {"change": (f"objectives.0.similar.vectors={self.vectors()}",)}
        return polyseme.pretrain(name, store, **common)

    def store(self, name: str, recipe: Any) -> Path:
        """The corpus by a vocabulary of the recipe's kind; recipes that want the same share it."""
        import polyseme

        wanted = dict(recipe.tokenizer) | {"vocab_size": VOCABULARIES.get(name, VOCABULARY)}
        texts, more = self.texts, {"phrases": "statistics"}
        objectives = {entry["name"] for entry in recipe.objectives}
        if "translation" in objectives:
            texts, more = [str(self.data / "parallel" / "classical_modern_zh")], {"format": "pairs"}
        elif "sentence-order" in objectives:
            texts, more = [str(self.data / "corpus_zh" / name) for name in ORDERED_CORPORA], {}
        mark = hashlib.sha256(json.dumps([wanted, texts], sort_keys=True).encode()).hexdigest()[:12]
        vocabulary, store = self.out / f"vocabulary-{mark}", self.out / f"store-{mark}"
        if not vocabulary.exists():
            pairs = {name: value for name, value in more.items() if name == "format"}
            polyseme.learn_tokenizer(texts, out=vocabulary, **wanted, **pairs)
        if not store.exists():
            polyseme.prepare(texts, tokenizer=vocabulary, out=store, workers=2, **more)
        return store

    def vectors(self) -> Path:
        """Word vectors from counts of neighbours: positive mutual information, decomposed."""
        path = self.out / "vectors.txt"
        if not path.exists():
            write_vectors(self.texts, path)
        return path


def write_vectors(texts: list[str], path: Path, *, most: int = 8000, size: int = 64, window: int = 3) -> None:
    """Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization", section 3.3."""
    from collections import Counter

    from polyseme.text.reading import TextSettings, read_documents
    from polyseme.text.words import word_cutter

    cut = word_cutter("rjieba")
    lines = [cut(line) for document in read_documents(texts, TextSettings()) for line in document.lines]
    counts = Counter(word for line in lines for word in line if len(word) > 1)
    words = [word for word, _ in counts.most_common(most)]
    ids = {word: number for number, word in enumerate(words)}
    table = np.zeros((len(words), len(words)), dtype=np.float32)
    for line in lines:
        row = np.array([ids[word] for word in line if word in ids], dtype=np.int64)
        for distance in range(1, window + 1):
            np.add.at(table, (row[:-distance], row[distance:]), 1.0)
    table += table.T
    shares = table.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(table * table.sum() / (shares * shares.T))
    information[~np.isfinite(information) | (information < 0)] = 0.0
    rng = np.random.default_rng(0)
    basis = information @ rng.standard_normal((len(words), 2 * size)).astype(np.float32)
    for _ in range(4):
        basis = information @ np.linalg.qr(basis)[0]
    left, values, _ = np.linalg.svd(basis, full_matrices=False)
    vectors = left[:, :size] * np.sqrt(values[:size])
    rows = (
        f"{word} " + " ".join(f"{v:.4f}" for v in vector) for word, vector in zip(words, vectors, strict=True)
    )
    path.write_text(f"{len(words)} {size}\n" + "\n".join(rows) + "\n", encoding="utf-8")


def parameters(folder: Path) -> int:
    """Numbers in the model's file."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="np") as file:
        return sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118


def processor_seconds() -> float:
    """Of all cores together, which is what a run costs whatever else the machine does."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def reached(row: dict[str, Any]) -> bool:
    """Whether the row learned what it must."""
    if row["vocabulary"] is None:
        return all(value <= HALVED * row["began"][part] for part, value in row["losses"].items())
    below = row["unigram"] - row["losses"][row["vocabulary"]] >= LEARNED
    told = [
        value >= (DETECTED if name.endswith("roc-auc") else ORDERED)
        for name, value in row["measures"].items()
    ]
    return below and all(told)


def since(row: dict[str, Any], part: str) -> str:
    """Where a loss began that has no word frequencies beside it."""
    return "" if row["vocabulary"] else f" (from {row['began'][part]:.3f})"


def show(rows: dict[str, dict[str, Any]]) -> None:
    """The table, as it is printed in BENCHMARKS.md."""
    titles = (
        "recipe",
        "parameters",
        "minutes (of a core)",
        "steps",
        "tokens",
        "held-out losses",
        "word frequencies",
    )
    print(f"| {' | '.join(titles)} | measures | learned |")
    print("|---|---:|---:|---:|---:|---|---:|---|---|")
    for name, row in rows.items():
        losses = ", ".join(f"{part} {value:.3f}{since(row, part)}" for part, value in row["losses"].items())
        measures = ", ".join(f"{part} {value:.3f}" for part, value in row["measures"].items())
        fields = (
            name,
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['minutes']:g}"
            + (f" ({row['processor_minutes']:g})" if "processor_minutes" in row else ""),
            f"{row['steps']:,}",
            f"{row['tokens'] / 1e6:.2f} M",
            losses,
            "" if row["unigram"] is None else f"{row['unigram']:.3f}",
            measures,
            "yes" if reached(row) else "NO",
        )
        print(f"| {' | '.join(fields)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--corpora", nargs="+", default=CORPORA)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--recipes", nargs="+", help="only these")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))

    from polyseme.training.recipes import recipes

    study = Study(options)
    rows = {}
    for name in options.recipes or recipes():
        rows[name] = study.row(name)
        print(f"{name}: {rows[name]}", flush=True)
    print(f"\n{date.today()}, {platform.machine()}, {options.threads} threads, torch {version('torch')}, "
          f"size {SIZE}\n")  # fmt: skip
    show(rows)


if __name__ == "__main__":
    main()
