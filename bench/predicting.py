"""Classes of many short texts: ours beside the pipeline of transformers, in one run with equal threads.

    python bench/predicting.py --data ../shared/data --out FOLDER
    python bench/predicting.py --data ../shared/data --out FOLDER --texts 2000 --shape small

The texts are headlines (THUCNews), repeated until there are enough. The classifier has a published shape and
is fine-tuned for a moment only, since speed does not depend on what it knows; --model takes another folder.
The pipeline first chooses the fastest of its batch sizes on a part of the texts, truncation on. Then both
read the texts in turns, block by block, each beginning every second block; what is told is the median of the
blocks' rates and of their ratios, how often both choose the same class, and how far their probabilities are
apart. The tokenizer's time counts on both sides, loading and warming up do not.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, int]] = {
    "base": {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "intermediate_size": 3072},
    "small": {"hidden_size": 512, "num_layers": 4, "num_heads": 8, "intermediate_size": 2048},
}
BATCHES = (1, 8, 32, 128)
"""Batch sizes that the pipeline may choose from."""
Answers = list[tuple[str, float]]
"""Class and probability of each text."""


def headlines(data: Path) -> list[tuple[str, str]]:
    """Texts with the name of their class."""
    folder = data / "tasks_zh" / "thucnews_headlines"
    names = (folder / "class.txt").read_text(encoding="utf-8").split()
    lines = [line for part in ("dev", "test") for line in (folder / f"{part}.txt").open(encoding="utf-8")]
    pairs = [line.rstrip("\n").rsplit("\t", 1) for line in lines]
    return [(text, names[int(number)]) for text, number in pairs]


def classifier(shape: str, labelled: Sequence[tuple[str, str]], *, data: Path, out: Path) -> Path:
    """A fine-tuned folder of this shape, made at the first call."""
    tuned = out / f"{shape}-tuned"
    if tuned.exists():
        return tuned
    import torch

    from polyseme.checkpoints.model import Card, Model
    from polyseme.models.transformer.building import build
    from polyseme.models.transformer.config import TransformerConfig
    from polyseme.tasks.finetuning import finetune
    from polyseme.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(data / "vocab" / "bert" / "google_zh_vocab.txt")
    torch.manual_seed(0)
    network = build(TransformerConfig(vocab_size=tokenizer.vocab_size, **SHAPES[shape]))
    file = out / "headlines.tsv"
    file.write_text("".join(f"{text}\t{name}\n" for text, name in labelled[:96]), encoding="utf-8")
    model = Model(network, Card(family="bert"), {}, tokenizer)
    options = {"epochs": 1, "batch_size": 16, "max_length": 64, "learning_rate": 5e-5, "header": "no"}
    finetune("classification", train=file, dev=file, model=model, out=tuned, **options)
    return tuned


def ours(folder: Path, precision: str, *, threads: int) -> Callable[[Sequence[str]], Answers]:
    """The answers of `predict`, without its files."""
    from polyseme.tasks.labelled_texts import LabelledText
    from polyseme.tasks.predicting import Answerer

    answerer = Answerer(folder, precision=precision, threads=threads)

    def answer(texts: Sequence[str]) -> Answers:
        found = answerer.answers([LabelledText(text, None, None, where="") for text in texts])
        return [(one.labels[0], one.probabilities[one.labels[0]]) for one in found]

    return answer


def theirs(folder: Path, batch: int) -> Callable[[Sequence[str]], Answers]:
    """The answers of the pipeline with one of its batch sizes."""
    import transformers

    transformers.logging.set_verbosity_error()
    pipeline = transformers.pipeline("text-classification", model=str(folder), device="cpu", batch_size=batch)

    def answer(texts: Sequence[str]) -> Answers:
        return [(one["label"], one["score"]) for one in pipeline(list(texts), truncation=True)]

    return answer


def seconds(answer: Callable[[Sequence[str]], Answers], texts: Sequence[str]) -> tuple[float, Answers]:
    begin = time.perf_counter()
    answers = answer(texts)
    return time.perf_counter() - begin, answers


def best_pipeline(folder: Path, texts: Sequence[str]) -> tuple[int, dict[int, float]]:
    """The fastest batch size, and the texts a second of each."""
    rates = {}
    for batch in BATCHES:
        answer = theirs(folder, batch)
        answer(texts[: 2 * batch])
        rates[batch] = len(texts) / seconds(answer, texts)[0]
        print(f"  pipeline, batch {batch:>3}: {rates[batch]:,.0f} texts/s", flush=True)
    return max(rates, key=rates.__getitem__), rates


def compare(ways: dict[str, Callable[[Sequence[str]], Answers]], blocks: Sequence[Sequence[str]]) -> Any:
    """Rates, ratios and agreement of the first way with each of the others, block by block in turns."""
    for answer in ways.values():
        answer(blocks[0])
    reference, *others = ways
    rates: dict[str, list[float]] = {name: [] for name in ways}
    same = dict.fromkeys(others, 0)
    apart = dict.fromkeys(others, 0.0)
    for number, block in enumerate(blocks):
        names = [*ways][number % len(ways) :] + [*ways][: number % len(ways)]
        found = {name: seconds(ways[name], block) for name in names}
        for name in ways:
            rates[name].append(len(block) / found[name][0])
        for name in others:
            pairs = list(zip(found[reference][1], found[name][1], strict=True))
            same[name] += sum(a[0] == b[0] for a, b in pairs)
            apart[name] = max([apart[name], *(abs(a[1] - b[1]) for a, b in pairs if a[0] == b[0])])
    total = sum(map(len, blocks))
    return {
        name: {
            "texts_per_second": round(statistics.median(rates[name]), 1),
            "times_the_pipeline": round(
                statistics.median(a / b for a, b in zip(rates[name], rates[reference], strict=True)), 3
            ),
            "same_class": same[name] / total if name in same else 1.0,
            "probability_apart": apart.get(name, 0.0),
        }
        for name in ways
    }


def processor() -> str:
    """The processor's name as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with tasks_zh and vocab")
    parser.add_argument("--out", type=Path, required=True, help="where models and results go")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--blocks", type=int, default=10, help="turns that each side takes")
    parser.add_argument("--shape", choices=SHAPES, default="base")
    parser.add_argument("--model", type=Path, help="a classifier's folder instead, of ours or transformers'")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "int8"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if options.threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    import torch

    torch.set_num_threads(options.threads)
    labelled = headlines(options.data)
    folder = options.model or classifier(options.shape, labelled, data=options.data, out=options.out)
    texts = list(itertools.islice(itertools.cycle([text for text, _ in labelled]), options.texts))
    print(f"{processor()}, {options.threads} threads, {len(texts):,} texts, {folder.name}")
    batch, rates = best_pipeline(folder, texts[: max(128, min(2048, len(texts) // 10))])
    torch.set_num_threads(options.threads)
    ways = {f"pipeline, batch {batch}": theirs(folder, batch)}
    ways |= {f"polyseme, {name}": ours(folder, name, threads=options.threads) for name in options.precisions}
    size = -(-len(texts) // options.blocks)
    found = compare(ways, [texts[start : start + size] for start in range(0, len(texts), size)])
    print(f"\n{'':24} {'texts/s':>9} {'× pipeline':>11} {'same class':>11} {'p apart':>9}")
    for name, row in found.items():
        print(
            f"{name:24} {row['texts_per_second']:9,.0f} {row['times_the_pipeline']:11.2f} "
            f"{row['same_class']:11.4%} {row['probability_apart']:9.1e}"
        )
    result = {
        "processor": processor(),
        "threads": options.threads,
        "torch": torch.__version__,
        "texts": len(texts),
        "model": folder.name,
        "batch_sizes": rates,
        "ways": found,
    }
    (options.out / "predicting.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
