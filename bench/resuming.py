"""How long does a killed run take to go on: at position 10,000 beside position 10?

    python bench/resuming.py --text ../shared/data/corpus_zh/wiki_sample \\
        --vocab ../shared/data/vocab/bert/google_zh_vocab.txt

A tiny network is trained to each position and stopped by SIGTERM. Each stopped run is then copied and resumed
several times, the two in turns, each time in a process of its own; measured is the time from the call of
`pretrain` to the end of its first step, imports left out. Resuming is seeking, so the ratio should be near 1.
"""

import argparse
import contextlib
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

CHANGES = (
    "training.length=32",
    "training.batch_size=2",
    "training.optimizer=adamw",
    "training.held_out=0.05",
)


class Stopping:
    """A reporter that remembers when the first step was done, and ends the run by a signal after some."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done = steps, 0
        self.first: float | None = None

    @contextlib.contextmanager
    def bar(self, label: str, *, total: float | None, unit: str) -> Iterator["Stopping"]:
        yield self

    def advance(self, amount: float = 1, *, total: float | None = None, **figures: float | str) -> None:
        self.first = self.first or time.perf_counter()
        self.done += 1
        if self.done == self.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    def say(self, line: str) -> None:
        pass

    note = say


def worker(options: argparse.Namespace) -> None:
    """Train or resume the run in `options.run` for so many steps, and print the seconds to the first one."""
    from polyseme import progress
    from polyseme.training.pretraining import pretrain

    reporter = Stopping(options.worker)
    begin = time.perf_counter()
    with progress.reporting(reporter):
        pretrain(
            "modernbert-wwm", options.store, out=options.run, size="tiny", steps=2 * options.far,
            save_steps=2 * options.far, change=CHANGES, threads=1,
        )  # fmt: skip
    assert reporter.first is not None, "the run was already over"
    print(reporter.first - begin)


def in_process(options: argparse.Namespace, store: Path, run: Path, steps: int) -> float:
    """The answer of a `worker` process."""
    command = [
        sys.executable, __file__, "--worker", str(steps), "--store", str(store), "--run", str(run),
        "--far", str(options.far), "--text", "-", "--vocab", "-",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a run failed:\n{done.stderr[-3000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--vocab", required=True)
    parser.add_argument("--near", type=int, default=10)
    parser.add_argument("--far", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    for hidden in ("store", "run"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return

    from polyseme.text.preparing import prepare

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store")
        prepare(options.text, tokenizer=str(Path(options.vocab).resolve()), out=store, workers=2)
        stopped = {position: Path(folder, f"at-{position}") for position in (options.near, options.far)}
        for position, run in stopped.items():
            in_process(options, store, run, position)
        seconds: dict[int, list[float]] = {position: [] for position in stopped}
        for _ in range(options.repeat):
            for position, run in stopped.items():
                copy = Path(shutil.copytree(run, Path(folder, "copy")))
                seconds[position].append(in_process(options, store, copy, 1))
                shutil.rmtree(copy)
    print(f"{date.today()}, {platform.machine()}, torch {version('torch')}, {options.repeat} resumes each\n")
    print("| position | seconds to the first step, median | least | most |\n|---:|---:|---:|---:|")
    for position, values in seconds.items():
        print(f"| {position:,} | {statistics.median(values):.3f} | {min(values):.3f} | {max(values):.3f} |")
    ratio = statistics.median(seconds[options.far]) / statistics.median(seconds[options.near])
    print(f"\nratio of the medians: {ratio:.2f}")


if __name__ == "__main__":
    main()
