"""Which objective makes most of the same compute? Eight ways to pre-train one small network.

    python bench/equal_compute.py --data ../shared/data --out FOLDER

Every model has 4 layers of 256 (T5's decoder and ELECTRA's generator come on top and are paid for), the same
text, pieces of text and modern training settings, and as many steps as a budget of floating-point operations
allows, counted over the forward and backward passes of real batches. Each is then fine-tuned on some labels
of ChnSentiCorp, at each rate of a short grid with three seeds; the test scores of the rate with the best mean
on dev are told. A cell keeps its result in FOLDER, and the same command goes on where it stopped.
"""

import argparse
import json
import os
import platform
import resource
import statistics
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

CORPORA = ("wiki_sample", "clue_sample", "tech", "news")
MODELS = {
    "BERT": "bert",
    "BERT-wwm": "bert-wwm",
    "ERNIE": "ernie",
    "ALBERT": "albert",
    "ELECTRA": "electra",
    "XLNet": "xlnet",
    "T5's encoder": "t5",
    "GPT, left to right": "gpt2",
}
SIZE = "mini"
SAME = (
    "model.num_layers=4", "model.hidden_size=256", "model.num_heads=4", "model.intermediate_size=1024",
    "model.dropout=0.0", "model.attention_dropout=0.0", "training.length=128", "training.batch_size=32",
    "training.accumulation=1", "training.optimizer=muon", "training.learning_rate=1e-3",
    "training.matrix_learning_rate=2e-3", "training.weight_decay=0.1", "training.bias_correction=true",
    "training.epsilon=1e-8", "training.schedule=warmup-stable-decay", "training.warmup=0.05",
    "training.cooldown=0.4", "training.clip=1.0",
)  # fmt: skip
"""What all models share, whatever their recipes say; betas are AdamW's own."""
PIECES = {"kind": "unigram", "vocab_size": 8000, "lowercase": True}
RATES, SEEDS = (2e-4, 6e-4), (0, 1, 2)
DEV_EVERY = 4
"""Of dev only every fourth text chooses rate and epoch: answering all would cost more than the training."""
COUNTED = 3
"""Batches over which operations are counted."""


class Study:
    """The cells of the table, each made once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.data, self.out = Path(options.data), Path(options.out)
        self.texts = [str(self.data / "corpus_zh" / name) for name in options.corpora]

    def cell(self, recipe: str, budget: float) -> dict[str, Any]:
        """One model at one budget: pre-trained, then fine-tuned at each rate; that with the best mean on dev
        counts."""
        run = self.out / "runs" / f"{recipe}-{budget:g}"
        cell = self.kept(f"{run.name}", lambda: self.pretrain(recipe, run, budget))
        tuned = {
            rate: self.kept(f"{run.name}-{rate:g}", lambda rate=rate: self.finetune(run, rate))
            for rate in RATES
        }
        rate = max(RATES, key=lambda rate: tuned[rate]["dev"])
        seconds = sum(part["cpu_seconds"] for part in (cell, *tuned.values()))
        return cell | tuned[rate] | {"rate": rate, "cpu_seconds": seconds}

    def kept(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A result from its file, or from doing the work now."""
        path = self.out / "cells" / f"{name}.json"
        if not path.exists():
            before = cpu_seconds()
            made = work()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(made | {"cpu_seconds": round(cpu_seconds() - before)}))
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def recipe(self, name: str) -> Any:
        from polyseme.training.recipes import changed, read_recipe, sized

        return changed(sized(read_recipe(name), SIZE), SAME)

    def store(self, name: str) -> Path:
        """The corpus in the same pieces, framed as the recipe's family frames texts."""
        import polyseme

        own = {
            key: value
            for key, value in self.recipe(name).tokenizer.items()
            if key.endswith("_token") or key in ("frame", "sentinels")
        }
        wanted = PIECES | own | ({} if own.get("unknown_token") else {"unknown_token": "[UNK]"})
        mark = "-".join(str(value) for _, value in sorted(own.items())) or "bert"
        folder = "".join(letter if letter.isalnum() else "_" for letter in mark)
        vocabulary, store = self.out / f"vocabulary-{folder}", self.out / f"store-{folder}"
        if not vocabulary.exists():
            polyseme.learn_tokenizer(self.texts, out=vocabulary, **wanted)
        if not store.exists():
            polyseme.prepare(
                self.texts,
                tokenizer=vocabulary,
                out=store,
                workers=self.options.threads,
                phrases="statistics" if mark == "bert" else "none",  # only ERNIE reads them
            )
        return store

    def cost(self, name: str) -> dict[str, float]:
        """Operations and tokens of a step, parameters of the vectors' network and of all that learns."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from polyseme.text.store import Store
        from polyseme.training.building import Pretraining, begin, build_objective
        from polyseme.training.loader import Loader, Position, split_documents
        from polyseme.training.loop import count_tokens
        from polyseme.training.settings import PretrainSettings

        torch.set_num_threads(self.options.threads)
        store, recipe = Store.open(self.store(name)), self.recipe(name)
        backbone, _, _ = begin(recipe, store, PretrainSettings())
        objective = build_objective(recipe, backbone.config, store)
        objective.join(backbone, fresh=True)
        module = Pretraining(backbone, objective).train()
        documents, _ = split_documents(store, held_out=0.05, most_tokens=1 << 18)
        training = recipe.training
        loader = Loader(store, objective.corruption, documents, training.length, training.batch_size, 0)
        flops, tokens = [], []
        for (batch, _), _ in zip(loader.batches(Position(), lambda _: 0.5), range(COUNTED), strict=False):
            with FlopCounterMode(display=False) as counter:
                module(batch).total.backward()
            flops.append(counter.get_total_flops())
            tokens.append(count_tokens(batch))
        return {
            "flops_per_step": statistics.fmean(flops),
            "tokens_per_step": statistics.fmean(tokens),
            "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            "learned": sum(parameter.numel() for parameter in module.parameters()),
        }

    def pretrain(self, name: str, run: Path, budget: float) -> dict[str, Any]:
        """As many steps as the budget allows."""
        import polyseme

        cost = self.cost(name)
        steps = max(1, round(budget * 1e12 / cost["flops_per_step"]))
        outcome = polyseme.pretrain(
            name, self.store(name), out=run, size=SIZE, steps=steps, seed=0, change=SAME,
            threads=self.options.threads,
        )  # fmt: skip
        if not outcome.finished:
            raise SystemExit(f"{name} was stopped; the same command goes on")
        tokens = round(steps * cost["tokens_per_step"])
        return cost | {"steps": steps, "tokens": tokens, "losses": dict(outcome.losses)}

    def finetune(self, run: Path, rate: float) -> dict[str, Any]:
        """Accuracy on dev, its mean over the seeds, and on the test set."""
        import polyseme

        folder = self.data / "tasks_zh" / "chnsenticorp"
        files = {part: next(folder.glob(f"{part}.tsv*")) for part in ("train", "test")}
        files["dev"] = self.out / "dev.tsv"
        if not files["dev"].exists():
            header, *rows = (folder / "dev.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
            files["dev"].write_text(header + "".join(rows[::DEV_EVERY]), encoding="utf-8")
        found = polyseme.finetune(
            "classification", model=run, out=None, text_column="text_a", limit=self.options.labels,
            epochs=self.options.epochs, batch_size=16, max_length=128, threads=self.options.threads,
            learning_rate=rate, embedding_learning_rate=1e-3, seeds=SEEDS, **files,
        )  # fmt: skip
        return {"dev": found.dev["accuracy"].mean, "test": list(found.test["accuracy"].of_seeds)}


def cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def show(cells: dict[tuple[str, float], dict[str, Any]]) -> None:
    """The table, as it is printed in BENCHMARKS.md."""
    print("| model | TFLOP | steps | tokens | parameters (all that learns) | rate | test accuracy | behind |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for (model, budget), cell in cells.items():
        of_budget = [other for (_, same), other in cells.items() if same == budget]
        best = max(of_budget, key=lambda other: statistics.fmean(other["test"]))
        scores = [100 * score for score in cell["test"]]
        print(
            f"| {model} | {budget:g} | {cell['steps']:,} | {cell['tokens'] / 1e6:.2f} M "
            f"| {cell['parameters'] / 1e6:.2f} M ({cell['learned'] / 1e6:.2f} M) | {cell['rate']:g} "
            f"| {statistics.fmean(scores):.1f} ± {statistics.stdev(scores):.1f} "
            f"| {'' if cell is best else behind(cell['test'], best['test'])} |"
        )
    hours = sum(cell["cpu_seconds"] for cell in cells.values()) / 3600
    print(f"\n{hours:.1f} CPU hours in all")


def behind(scores: list[float], best: list[float]) -> str:
    """How far the mean is below the best one; within two standard errors of the difference, no evidence."""
    apart = 100 * (statistics.fmean(best) - statistics.fmean(scores))
    errors = [statistics.variance(of_seeds) / len(of_seeds) for of_seeds in (scores, best)]
    interval = 200 * sum(errors) ** 0.5
    return f"{apart:.1f} ± {interval:.1f}" if apart > interval else "no evidence"


def draw(cells: dict[tuple[str, float], dict[str, Any]], path: Path) -> None:
    """Accuracy over compute: a curve for each model, its seeds as points."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, model in enumerate(dict.fromkeys(model for model, _ in cells)):
        budgets = sorted(budget for name, budget in cells if name == model)
        scores = [[100 * score for score in cells[model, budget]["test"]] for budget in budgets]
        axes.plot(budgets, [statistics.fmean(of_seeds) for of_seeds in scores], f"C{number}-", label=model)
        for budget, of_seeds in zip(budgets, scores, strict=True):
            axes.plot([budget] * len(of_seeds), of_seeds, f"C{number}.", markersize=4)
    axes.set_xscale("log")
    axes.set_xticks(sorted({b for _, b in cells}), [f"{b:g}" for b in sorted({b for _, b in cells})])
    axes.minorticks_off()
    axes.set_xlabel("TFLOP of pre-training")
    axes.set_ylabel("ChnSentiCorp, test accuracy, %")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, format="svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--corpora", nargs="+", default=CORPORA)
    parser.add_argument("--budgets", type=float, nargs="+", default=[7.5, 15.0, 30.0], help="in TFLOP")
    parser.add_argument("--labels", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="+", default=list(MODELS.values()))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    study, cells = Study(options), {}
    for budget in options.budgets:
        for model, recipe in MODELS.items():
            if recipe in options.models:
                cells[model, budget] = study.cell(recipe, budget)
                print(f"{model}, {budget:g} TFLOP: {cells[model, budget]}", flush=True)
    print(f"\n{date.today()}, {platform.machine()}, {options.threads} threads, torch {version('torch')}, "
          f"{options.labels} labels, {options.epochs} epochs\n")  # fmt: skip
    show(cells)
    drawn = {key: cell for key, cell in cells.items() if key[1]}  # 0 TFLOP are random weights.
    if drawn:
        draw(drawn, study.out / "equal-compute.svg")


if __name__ == "__main__":
    main()
