"""Pre-training speed against the peers: BERT-mini, length 128, masked LM and next sentence.

    python bench/pretraining.py --text ../shared/data/corpus_zh/news \\
        --vocab ../shared/data/vocab/bert/google_zh_vocab.txt --tencentpretrain CHECKOUT

Every engine runs in a process of its own, one after the other, with the same text, vocabulary, length, batch
size, dropout and number of threads, over batches that it sees for the first time. Counted are tokens that are
not padding, with the time of the loader, the optimizer included, after some steps of warming up. transformers
is given our batches ready-made, so its loader costs nothing, and begins with our first weights. Afterwards
every engine's model is asked for the same masked tokens of documents that none was trained on, in fp32: the
held-out loss at equal tokens. TencentPretrain warms up over a tenth of the steps, falls in a straight
line and corrects no bias; its loss is to be compared with ours under that rule (polyseme-as-TencentPretrain).
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

CHANGES = (
    "training.batch_size=32", "training.length=128", "training.bias_correction=true",
    "sizes.mini.dropout=0.1", "sizes.mini.attention_dropout=0.1",
)  # fmt: skip
"""Dropout and bias correction as the peers have them: without the latter, BERT's own rule takes three times
larger first steps."""


class Setting:
    """What all engines share: the store, the first weights, and batches to learn and to be asked."""

    def __init__(self, store: str, *changes: str) -> None:
        import torch

        from polyseme.models.transformer.model import Transformer
        from polyseme.text.store import Store
        from polyseme.training.building import Pretraining, build_objective, model_config
        from polyseme.training.loader import split_documents
        from polyseme.training.recipes import changed, read_recipe

        self.store = Store.open(store)
        self.recipe = changed(read_recipe("bert"), (*CHANGES, *changes))
        self.config = model_config(self.recipe, "mini", self.store)
        self.objective = build_objective(self.recipe, self.config, self.store)
        torch.manual_seed(0)
        self.module = Pretraining(Transformer(self.config), self.objective).train()
        self.documents, self.kept = split_documents(self.store, held_out=0.05, most_tokens=64 * 32 * 128)

    def learned(self) -> Iterator[Any]:
        """The batches of training, made ahead."""
        from polyseme.training.loader import ahead

        yield from ahead(self._batches(self.documents))

    def held_out_loss(self, module: Any) -> float:
        """Masked-LM loss of one of our modules on documents that it was not trained on."""
        import torch

        total = predictions = 0.0
        module.eval()
        with torch.no_grad():
            for (batch, _), _ in zip(self._batches(self.kept), range(60), strict=False):
                loss = module(batch)
                total += float(loss.parts["masked-lm"]) * loss.predictions
                predictions += loss.predictions
        return total / predictions

    def write(self, folder: Path) -> None:
        """The first weights, as transformers lays them out."""
        from polyseme.checkpoints.model import Card, Model
        from polyseme.checkpoints.saving import save

        heads = dict(self.objective.heads)
        model = Model(self.module.backbone, Card(family="bert"), heads, self.store.tokenizer)
        save(model, folder, replace=True)

    def of_folder(self, folder: Path) -> Any:
        """Another engine's model, in our modules."""
        from polyseme.checkpoints.loading import load
        from polyseme.training.building import Pretraining

        model = load(folder, heads=["masked-lm", "next-sentence", "pooler"])
        for name, head in model.heads.items():
            self.objective.heads[name].load_state_dict(head.state_dict())
        return Pretraining(model.backbone, self.objective)

    def _batches(self, documents: Any) -> Iterator[Any]:
        from polyseme.training.loader import Loader, Position

        loader = Loader(self.store, self.objective.corruption, documents, 128, 32, seed=0)
        return loader.batches(Position(), lambda _: 0.0)


def run_ours(options: argparse.Namespace, *, as_tencentpretrain: bool = False) -> dict[str, float]:
    """Our loop, loader and optimizer; on request with the first steps and the schedule of TencentPretrain."""
    from polyseme.training.loop import Step, train
    from polyseme.training.optimizers import build_optimizers
    from polyseme.training.schedules import Schedule

    if as_tencentpretrain:
        setting = Setting(options.store, "training.bias_correction=false")
        schedule = Schedule("linear", options.steps, warmup=0.1)
    else:
        setting = Setting(options.store)
        schedule = Schedule("constant", options.steps, warmup=50)
    seen: list[tuple[int, float]] = []

    def after(step: Step) -> bool:
        seen.append((step.tokens, time.perf_counter()))
        return bool(step.number == options.steps)

    optimizers = build_optimizers(setting.module, setting.recipe.training)
    train(
        setting.module, (batch for batch, _ in setting.learned()), optimizers, factor=schedule, after=after,
        precision=options.precision,
    )  # fmt: skip
    return rate(seen) | {"held_out": setting.held_out_loss(setting.module)}


def run_transformers(options: argparse.Namespace) -> dict[str, float]:
    """`BertForPreTraining` with torch's fused AdamW, fed with our batches, made beforehand."""
    import torch
    from transformers import BertForPreTraining

    from polyseme.training.schedules import Schedule

    setting = Setting(options.store)
    schedule = Schedule("constant", options.steps, warmup=50)
    first, trained = Path(options.work, "first"), Path(options.work, f"transformers-{options.precision}")
    setting.write(first)
    ready = [batch for (batch, _), _ in zip(setting.learned(), range(options.steps), strict=False)]
    model = BertForPreTraining.from_pretrained(first).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01, fused=True)
    seen = []
    for number, batch in enumerate(ready):
        labels = torch.full(batch.input_ids.shape, -100)
        labels.view(-1)[batch.predicted] = batch.labels
        mask = batch.attention_mask if batch.attention_mask is not None else torch.ones_like(batch.input_ids)
        optimizer.param_groups[0]["lr"] = 1e-4 * schedule(number)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bf16"):
            output = model(
                input_ids=batch.input_ids, attention_mask=mask, token_type_ids=batch.token_type_ids,
                labels=labels, next_sentence_label=batch.pair_labels,
            )  # fmt: skip
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen.append((int(mask.sum()), time.perf_counter()))
    model.save_pretrained(trained)
    return rate(seen) | {"held_out": setting.held_out_loss(setting.of_folder(trained))}


def run_tencentpretrain(options: argparse.Namespace) -> dict[str, float]:
    """TencentPretrain's own commands; its tokens a second count padding, which is taken out here."""
    import pickle

    checkout, work = Path(options.tencentpretrain), Path(options.work)
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    data, model = work / "dataset.pt", work / "model.bin"
    common = ["--vocab_path", options.vocab, "--dataset_path", str(data), "--data_processor", "bert"]
    subprocess.run(
        [sys.executable, "preprocess.py", "--corpus_path", options.plain, *common, "--processes_num", "1",
         "--seq_length", "128", "--dynamic_masking", "--dup_factor", "1"],
        cwd=checkout, env=environment, check=True, capture_output=True,
    )  # fmt: skip
    real = total = 0
    with data.open("rb") as file:  # made by the command above, on this machine
        for _ in range(2_000):
            (_, padding), *_ = pickle.load(file)
            real, total = real + 128 - padding, total + 128
    found = subprocess.run(
        [sys.executable, "pretrain.py", *common, "--config_path", "models/bert/mini_config.json",
         "--output_model_path", str(model), "--total_steps", str(options.steps), "--report_steps", "10",
         "--batch_size", "32", "--learning_rate", "1e-4", "--save_checkpoint_steps", str(options.steps)],
        cwd=checkout, env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    log = found.stdout + found.stderr
    rates = [float(rate) for rate in re.findall(r"\|\s*([\d.]+) tokens/s", log)]
    later = rates[len(rates) // 3 :]
    setting = Setting(options.store)
    folder = work / "tencentpretrain"
    subprocess.run(
        [sys.executable, "scripts/convert_bert_from_tencentpretrain_to_huggingface.py", "--layers_num", "4",
         "--type", "bert", "--input_model_path", f"{model}-{options.steps}", "--output_model_path",
         str(work / "pytorch_model.bin")],
        cwd=checkout, env=environment, check=True, capture_output=True,
    )  # fmt: skip
    setting.write(folder)
    (folder / "model.safetensors").unlink()
    shutil.move(work / "pytorch_model.bin", folder / "pytorch_model.bin")
    return {
        "tokens_per_second": statistics.median(later) * real / total,
        "held_out": setting.held_out_loss(setting.of_folder(folder)),
    }


def rate(seen: list[tuple[int, float]]) -> dict[str, float]:
    """Tokens a second over all but the first tenth of the steps."""
    first = max(3, len(seen) // 10)
    tokens = sum(count for count, _ in seen[first + 1 :])
    return {"tokens_per_second": tokens / (seen[-1][1] - seen[first][1])}


ENGINES: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "polyseme": run_ours,
    "transformers": run_transformers,
    "TencentPretrain": run_tencentpretrain,
    "polyseme-as-TencentPretrain": partial(run_ours, as_tencentpretrain=True),
}
CELLS = [
    "polyseme:bf16", "polyseme:fp32", "transformers:bf16", "transformers:fp32", "TencentPretrain:fp32",
    "polyseme-as-TencentPretrain:bf16",
]  # fmt: skip


def worker(options: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(options.threads)
    print(json.dumps(ENGINES[options.worker](options)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--vocab", required=True)
    parser.add_argument("--tencentpretrain", help="a checkout of TencentPretrain, to measure it too")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--cells", nargs="+", default=CELLS, help="engine:precision (all of them)")
    parser.add_argument("--threads", type=int, default=2)
    for hidden in ("worker", "store", "work", "plain"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="fp32", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return

    from polyseme.text.preparing import prepare
    from polyseme.text.reading import TextSettings, read_documents

    with tempfile.TemporaryDirectory() as folder:
        store, plain = Path(folder, "store"), Path(folder, "plain.txt")
        vocab = str(Path(options.vocab).resolve())
        prepare(options.text, tokenizer=vocab, out=store, workers=2)
        learned = set(Setting(str(store)).documents.tolist())
        with plain.open("w", encoding="utf-8") as file:
            for number, document in enumerate(read_documents(options.text, TextSettings())):
                if number in learned:
                    file.write("\n".join(document.lines) + "\n\n")
        rows = {}
        for engine, precision in (cell.split(":") for cell in options.cells):
            if engine == "TencentPretrain" and not options.tencentpretrain:
                continue
            command = [
                sys.executable, __file__, "--worker", engine, "--precision", precision, "--store", str(store),
                "--work", folder, "--plain", str(plain), "--text", "-", "--vocab", vocab,
                "--steps", str(options.steps), "--threads", str(options.threads),
                "--tencentpretrain", str(Path(options.tencentpretrain or ".").resolve()),
            ]  # fmt: skip
            environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                print(f"{engine} {precision} failed:\n{done.stderr[-3000:]}", file=sys.stderr)
                continue
            rows[engine, precision] = json.loads(done.stdout.splitlines()[-1])
            print(engine, precision, rows[engine, precision], file=sys.stderr, flush=True)
    print(f"{date.today()}, {platform.machine()}, {options.threads} threads, torch {version('torch')}, "
          f"transformers {version('transformers')}, {options.steps} steps\n")  # fmt: skip
    print(
        "| engine | precision | tokens/s | polyseme bf16 is faster | held-out loss |\n|---|---|---|---|---|"
    )
    best = rows["polyseme", "bf16"]["tokens_per_second"]
    for (engine, precision), row in rows.items():
        speed = row["tokens_per_second"]
        print(f"| {engine} | {precision} | {speed:,.0f} | {best / speed:.2f} × | {row['held_out']:.3f} |")


if __name__ == "__main__":
    main()
