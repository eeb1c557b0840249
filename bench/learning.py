"""Is what a small machine learns in twenty minutes real, and of use? (slow: about 2.5 CPU hours)

    python bench/learning.py --data ../shared/data --out runs/learning

Pre-trains `modernbert-wwm` mini for 20 minutes on five Chinese corpora, then asks on ChnSentiCorp:
(a) how far below the unigram level is the held-out loss; (b) what do frozen, mean-pooled states hold, beside
the untrained network's; (c) gone on for 5 minutes on the text of the train split, does fine-tuning beat the
same network from random weights, at 500 labels and at all, with rates, pooling and epochs of both chosen on
dev from one grid, over 3 seeds, with TF-IDF beside them.

Every cell leaves its result in the folder, and the same command goes on where it stopped. The test file is
read once for each chosen cell, after the choice.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from polyseme import progress
from polyseme.checkpoints.loading import load
from polyseme.cli.reporter import TerminalReporter
from polyseme.embedding.embedder import Embedder
from polyseme.evaluation.baselines import tfidf
from polyseme.evaluation.probe import probe
from polyseme.files import write_whole
from polyseme.models.transformer.model import Transformer
from polyseme.seeding import derived
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.labelled_texts import LabelledText, read_labelled
from polyseme.tasks.settings import ClassificationSettings
from polyseme.tasks.subsets import subset
from polyseme.text.preparing import prepare
from polyseme.text.store import Store
from polyseme.text.tokenizer_learning import learn_tokenizer
from polyseme.training.building import Pretraining, build_objective
from polyseme.training.held_out import held_out_batches, unigram_level
from polyseme.training.journal import read_journal
from polyseme.training.loader import Loader, copies_of, split_documents
from polyseme.training.loop import mean_loss
from polyseme.training.pretraining import HELD_OUT_ROWS, pretrain
from polyseme.training.recipes import read_recipe

RECIPE = "modernbert-wwm"
CORPORA = {"news": 1, "tech": 1, "law": 1, "wiki_sample": 8, "clue_sample": 8}
"""How often each corpus is read: the two small mixed ones have 4 % of the text, and 26 % of this."""
SEEDS = (1, 2, 3)
SIZES: dict[str, int | None] = {"500": 500, "all": None}
EPOCHS = {"500": 10, "all": 3}
SEARCH_EPOCHS = {"500": 10, "all": 1}
"""Fewer where an epoch is long; the chosen point is then trained for `EPOCHS`."""
GRID: tuple[dict[str, Any], ...] = (
    {"learning_rate": 6e-4, "embedding_learning_rate": 1e-3, "pooling": "mean"},
    {"learning_rate": 2e-4, "embedding_learning_rate": 1e-3, "pooling": "mean"},
    {"learning_rate": 6e-4, "embedding_learning_rate": 3e-3, "pooling": "mean"},
    {"learning_rate": 6e-4, "embedding_learning_rate": 1e-3, "pooling": "first"},
)
"""The best epoch on dev is kept too, so the number of epochs is searched within each point."""
ADAPTATION = ("training.warmup=20", "training.batch_size=16")


class Study:
    """The folder of a study: each step's result is kept, and a step that is there is not done again."""

    def __init__(self, data: Path, folder: Path, *, threads: int | None) -> None:
        self.corpora = [
            str(data / "corpus_zh" / name) for name, times in CORPORA.items() for _ in range(times)
        ]
        self.task = {
            split: data / "tasks_zh" / "chnsenticorp" / f"{split}.tsv" for split in ("train", "dev", "test")
        }
        self.task = {split: _packed(path) for split, path in self.task.items()}
        self.folder, self.threads = folder, threads

    def kept(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a step, from its file or from doing it now."""
        path = self.folder / "cells" / f"{name}.json"
        if not path.exists():
            begin = time.process_time()
            result = work()
            write_whole(path, msgspec.json.encode(result | {"cpu_seconds": time.process_time() - begin}))
        found: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        return found

    def pretrained(self, minutes: float) -> Path:
        """The general model, from text to weights."""
        store, model = self.folder / "zh.store", self.folder / "model"

        def work() -> dict[str, Any]:
            if not (self.folder / "vocab").exists():
                learn_tokenizer(self.corpora, out=self.folder / "vocab", **read_recipe(RECIPE).tokenizer)
            if not store.exists():
                prepare(self.corpora, tokenizer=self.folder / "vocab", out=store, workers=2)
            return {"steps": pretrain(RECIPE, store, out=model, size="mini", minutes=minutes).steps}

        self.kept("pretrained", work)
        return model

    def adapted(self, model: Path, minutes: float) -> Path:
        """The model after some minutes more on the task's own training text, labels unseen."""
        text, store, adapted = (self.folder / name for name in ("task.txt", "task.store", "adapted"))

        def work() -> dict[str, Any]:
            lines = [example.text.replace("\n", " ") for example in self.examples("train")]
            write_whole(text, "\n".join(lines) + "\n")
            if not store.exists():
                prepare([text], tokenizer=model, out=store, workers=2, format="lines")
            options = {"minutes": minutes, "from_model": str(model), "change": ADAPTATION}
            return {"steps": pretrain(RECIPE, store, out=adapted, **options).steps}

        self.kept("adapted", work)
        return adapted

    def examples(self, split: str) -> list[LabelledText]:
        return list(read_labelled(self.task[split], ClassificationSettings(), labelled=True))

    def held_out(self, model: Path) -> dict[str, Any]:
        """Loss on the documents that were held out, copies of what was trained on left aside."""

        def work() -> dict[str, Any]:
            recipe, store = read_recipe(RECIPE), Store.open(self.folder / "zh.store")
            trained = load(model, heads=["masked-lm"])
            objective = build_objective(recipe, trained.backbone.config, store)
            objective.heads["masked-lm"].load_state_dict(trained.heads["masked-lm"].state_dict())
            training = recipe.training
            learned, kept = split_documents(
                store, held_out=training.held_out, most_tokens=HELD_OUT_ROWS * training.length
            )
            kept = np.setdiff1d(kept, copies_of(store, learned))
            batches = held_out_batches(
                Loader(store, objective.corruption, kept, training.length, training.batch_size, seed=0)
            )
            module = Pretraining(trained.backbone, objective)
            losses = mean_loss(module, module, batches, precision="fp32", device="cpu")
            return {
                "loss": losses["masked-lm"],
                "unigram": unigram_level(store, batches),
                "documents": len(kept),
                "steps": read_journal(model / "journal.jsonl")[-1]["step"],
            }

        return self.kept("held-out", work)

    def probes(self, model: Path) -> dict[str, dict[str, Any]]:
        """Frozen states of the model and of the same network untrained, under a linear classifier."""
        trained = load(model)
        torch.manual_seed(derived(0, "weights") % 2**63)
        network = Transformer(trained.backbone.config).eval()
        models = {"pretrained": trained, "untrained": dataclasses.replace(trained, backbone=network)}

        def measure(name: str, layers: str) -> dict[str, Any]:
            embedder = Embedder(
                models[name], pooling="mean", layers=layers, precision="fp32", threads=self.threads
            )
            scores = probe(embedder, *(self.examples(split) for split in ("train", "dev", "test")))
            return {"dev": scores.dev, "test": scores.test}

        every = ",".join(str(number) for number in range(trained.backbone.config.num_layers + 1))
        cells = [
            (which, layers, name) for which, layers in (("last", "-1"), ("joined", every)) for name in models
        ]
        return {
            f"{which}-{name}": self.kept(f"probe-{which}-{name}", partial(measure, name, layers))
            for which, layers, name in cells
        }

    def cell(self, arm: str, size: str, point: dict[str, Any], seed: int, *, test: bool) -> dict[str, Any]:
        """One fine-tuning: an arm, a number of labels, a grid point, a seed."""
        where = {"pretrained": "model", "adapted": "adapted", "random": "model"}[arm]

        def work() -> dict[str, Any]:
            outcome = finetune(
                "classification",
                train=self.task["train"], dev=self.task["dev"], test=self.task["test"] if test else None,
                model=self.folder / where, out=None, fresh=arm == "random", limit=SIZES[size],
                epochs=(EPOCHS if test else SEARCH_EPOCHS)[size], seeds=(seed,), max_length=256,
                threads=self.threads, **point,
            )  # fmt: skip
            return {
                "dev": outcome.dev["accuracy"].mean,
                "test": outcome.test["accuracy"].mean if test else None,
                "tokens_per_second": outcome.tokens_per_second,
            }

        named = "-".join(f"{value}" for value in point.values())
        return self.kept(f"{size}-{arm}-{named}-seed{seed}{'-test' if test else ''}", work)

    def chosen(self, arm: str, size: str) -> dict[str, Any]:
        """The grid point that is best on dev, with the first seed."""
        return max(GRID, key=lambda point: self.cell(arm, size, point, SEEDS[0], test=False)["dev"])

    def scores(self, arm: str, size: str) -> list[float]:
        """Test accuracy of the chosen point over the seeds."""
        point = self.chosen(arm, size)
        return [self.cell(arm, size, point, seed, test=True)["test"] for seed in SEEDS]

    def tfidf(self, size: str) -> dict[str, Any]:
        """Character n-grams with a linear model, on the same training texts."""

        def work() -> dict[str, Any]:
            train = self.examples("train")
            if SIZES[size] is not None:
                train = subset(
                    train, [example.labels for example in train], share=None, limit=SIZES[size], seed=0
                )
            scores = tfidf(train, self.examples("dev"), self.examples("test"))
            return {"dev": scores.dev["accuracy"], "test": (scores.test or {})["accuracy"]}

        return self.kept(f"tfidf-{size}", work)


def report(study: Study, arms: list[str], sizes: list[str]) -> Iterator[str]:
    """The lines of the study's tables, as Markdown."""
    held = study.held_out(study.folder / "model")
    gap = held["unigram"] - held["loss"]
    yield f"(a) held-out masked LM {held['loss']:.3f} nats after {held['steps']:,} steps;"
    yield f"    word frequencies alone {held['unigram']:.3f}; {gap:.2f} nats below"
    yield f"    ({held['documents']:,} documents of which no copy was trained on)\n"
    probes = study.probes(study.folder / "model")
    yield "(b) frozen states, mean-pooled, linear classifier, test accuracy (dev):"
    for name, found in probes.items():
        yield f"    {name} {100 * found['test']['accuracy']:.1f} ({100 * found['dev']['accuracy']:.1f})"
    yield ""
    if not sizes:
        return
    yield "| labels | start | grid point (rate, embeddings, pooling) | test accuracy, 3 seeds |"
    yield "|---|---|---|---|"
    for size in sizes:
        for arm in arms:
            values = [100 * value for value in study.scores(arm, size)]
            point = ", ".join(str(value) for value in study.chosen(arm, size).values())
            spread = f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"
            yield f"| {size} | {arm} | {point} | {spread} |"
        yield f"| {size} | TF-IDF, linear | C on dev | {100 * study.tfidf(size)['test']:.1f} |"


def _packed(path: Path) -> Path:
    return path if path.exists() else path.with_name(path.name + ".xz")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--adapt-minutes", type=float, default=5.0)
    parser.add_argument("--arms", nargs="+", default=["adapted", "random"])
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), help="500 all; none: (a) and (b) only")
    parser.add_argument("--threads", type=int, help="threads of fine-tuning, to run two arms side by side")
    options = parser.parse_args()
    study = Study(options.data, options.out, threads=options.threads)
    with progress.reporting(TerminalReporter()):
        model = study.pretrained(options.minutes)
        study.adapted(model, options.adapt_minutes)
        lines = list(report(study, options.arms, options.sizes))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
