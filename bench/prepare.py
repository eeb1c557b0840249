"""How fast is `prepare`, how much memory do all of its processes take, and are its bytes always the same?

    python bench/prepare.py --megabytes 1000
    python bench/prepare.py --megabytes 30 --workers 1 2 3 --text FILE...

The text is made first: real Chinese sentences of the corpora, put together anew in random order such that
no two lines are equal, and none a line of the corpora. Memory is sampled while `polyseme prepare` runs:
the sum over its process and all below it of PSS (pages shared between processes count once) and of RSS
(they count in each).
"""

import argparse
import contextlib
import itertools
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from polyseme.text.normalising import Repeats
from polyseme.text.reading import read_documents
from polyseme.text.sentences import sentences
from polyseme.text.store import Store

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CORPORA = ("news", "tech", "law", "wiki_sample", "clue_sample")
VOCABULARY = DATA / "vocab" / "bert" / "google_zh_vocab.txt"
SECONDS_BETWEEN_SAMPLES = 0.2
ROW = "{:>7} {:>8} {:>7} {:>6} {:>8} {:>8}  {}"


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="prepare-") as name:
        folder = Path(name)
        text = folder / "text.txt"
        lines = make_text(text, options.text, num_bytes=options.megabytes * 1_000_000, seed=options.seed)
        size = text.stat().st_size
        print(f"{size / 1e6:.0f} MB of text, {lines:,} lines, no two equal")
        print(ROW.format("workers", "seconds", "CPU, s", "MB/s", "PSS, MB", "RSS, MB", "fingerprint"))
        fingerprints = set()
        for workers in options.workers:
            store = folder / f"store-{workers}"
            seconds, busy, proportional, resident = measured(
                _command(text, options.tokenizer, store, workers)
            )
            fingerprint = Store.open(store, check=True).fingerprint
            fingerprints.add(fingerprint)
            figures = (f"{seconds:.1f}", f"{busy:.1f}", f"{size / 1e6 / seconds:.1f}")
            peaks = (f"{proportional / 1e6:.0f}", f"{resident / 1e6:.0f}")
            print(ROW.format(workers, *figures, *peaks, fingerprint[:16]), flush=True)
            shutil.rmtree(store)
        print("the bytes are the same" if len(fingerprints) == 1 else "THE BYTES DIFFER")
        sys.exit(len(fingerprints) != 1)


def make_text(path: Path, sources: list[Path], *, num_bytes: int, seed: int) -> int:
    """Write documents of 2 to 20 lines of 1 to 6 sentences; returns the number of lines."""
    repeats = Repeats()
    found = []
    for document in read_documents(sources):
        for line in document.lines:
            repeats.seen(line)
            found += [line[start:stop] for start, stop in sentences(line)]
    rng = random.Random(seed)
    lines = written = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        while written < num_bytes:
            for _ in range(rng.randint(2, 20)):
                line = "".join(rng.choices(found, k=rng.randint(1, 6)))
                while repeats.seen(line):
                    line += rng.choice(found)
                written += len(line.encode()) + 1
                lines += 1
                file.write(line + "\n")
            file.write("\n")
    return lines


def measured(command: list[str]) -> tuple[float, float, int, int]:
    """Seconds, seconds of CPU of all processes, and the peaks of the sums of PSS and of RSS in bytes."""
    peaks = [0, 0]
    busy = -cpu_seconds()
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peaks = list(map(max, peaks, memory(process.pid)))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_BETWEEN_SAMPLES)
        seconds = time.perf_counter() - begin
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with {process.returncode}")
    return seconds, busy + cpu_seconds(), peaks[0], peaks[1]


def cpu_seconds() -> float:
    """What the processes that have ended below this one took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(root: int) -> tuple[int, int]:
    """The PSS and the RSS of a process and all below it, in bytes."""
    proportional = resident = 0
    for pid in _below(root):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            sizes = {name: int(size) * 1024 for name, size, *_ in map(str.split, lines)}
            proportional += sizes["Pss:"]
            resident += sizes["Rss:"]
    return proportional, resident


def _below(root: int) -> Iterator[int]:
    yield root
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{root}/task").iterdir():
            children = (path / "children").read_text().split()
            yield from itertools.chain.from_iterable(map(_below, map(int, children)))


def _command(text: Path, tokenizer: Path, store: Path, workers: int) -> list[str]:
    """The command as a user gives it."""
    arguments = [str(text), "--tokenizer", str(tokenizer), "--out", str(store), "--workers", str(workers)]
    return [sys.executable, "-m", "polyseme", "prepare", *arguments, "--quiet"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    corpora = [DATA / "corpus_zh" / name for name in CORPORA]
    parser.add_argument("--megabytes", type=int, default=1000, help="of text to make (1000)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers to try (1 2)")
    parser.add_argument("--text", type=Path, nargs="+", default=corpora, help="where sentences come from")
    parser.add_argument("--tokenizer", type=Path, default=VOCABULARY, help="BERT's Chinese vocabulary")
    parser.add_argument("--folder", type=Path, help="for text and stores, about 3 times --megabytes")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
