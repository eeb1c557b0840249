"""Does a long job stay as it began? Memory and rate of `embed` by tenths of ten million short texts.

    python bench/long_job.py --text ../shared/data/corpus_zh/wiki_sample [--texts 10_000_000]

A pool of short sentences is taken from the named text, and a file of texts is drawn from it, two sentences
each, so that hardly one stands there twice. A tiny network of random weights then embeds the file, so that
what is measured is the job: reading, cutting into tokens, batches, writing, journal. The resident memory is
looked at after every block, and the highest of a tenth counts. The rate is told by the clock and, since a
machine may do other things too, beside a fixed piece of work that is done after every block.
"""

import argparse
import contextlib
import itertools
import platform
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from polyseme import embed, progress, save
from polyseme.checkpoints.model import Card, Model
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.text.reading import read_lines
from polyseme.text.sentences import sentences
from polyseme.text.tokenizer import Tokenizer

POOL, LONGEST, DRAWN = 50_000, 15, 10_000
"""Sentences to draw from; characters of the longest; texts that are written at once."""
NEAR = 0.05
"""What counts as flat and as constant."""


class Note(NamedTuple):
    """What was so after a block."""

    texts: int
    memory: int
    clock: float
    processor: float
    fixed: float
    """Seconds of the processor that the fixed pieces of work took until now."""


class Watch:
    """A reporter that notes texts done, memory and time after each block."""

    def __init__(self) -> None:
        self.done, self.fixed, self._counts = 0, 0.0, False
        self.notes: list[Note] = []
        self._numbers = np.random.default_rng(0).random(50_000)

    @contextlib.contextmanager
    def bar(self, label: str, *, total: float | None, unit: str) -> Iterator["Watch"]:
        self._counts = unit == "texts"  # A large file is looked through before, which counts bytes.
        if self._counts:
            self._note()
        yield self

    def advance(self, amount: float = 1, *, total: float | None = None, **figures: float | str) -> None:
        if self._counts:
            self.done += int(amount)
            self._note()

    def say(self, line: str) -> None:
        print(line)

    note = say

    def _note(self) -> None:
        before = time.process_time()
        np.sort(self._numbers)
        self.fixed += time.process_time() - before
        self.notes.append(Note(self.done, resident(), time.perf_counter(), time.process_time(), self.fixed))


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def pool_of(text: str) -> list[str]:
    """The first short sentences of the text."""
    pool: dict[str, None] = {}
    for line in read_lines(text):
        for begin, end in sentences(line):
            if 2 <= end - begin <= LONGEST:
                pool[line[begin:end].strip()] = None
        if len(pool) >= POOL:
            break
    return list(pool)


def write_texts(path: Path, pool: list[str], *, texts: int) -> None:
    """A text a line, drawn from the pool; never more than some thousands of them are held."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, texts, DRAWN):
            drawn = rng.integers(len(pool), size=(min(DRAWN, texts - start), 2))
            file.writelines(f"{pool[first]} {pool[second]}\n" for first, second in drawn)


def write_model(folder: Path, pool: list[str], *, hidden_size: int, num_layers: int) -> Path:
    """A model folder of random weights over the characters of the pool."""
    characters = [c for c, _ in Counter("".join(pool)).most_common(8000) if not c.isspace()]
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz0123456789" if c not in characters]
    pieces = [
        *characters,
        *letters,
        *(f"##{c}" for c in [*characters, *letters] if c.isascii() and c.isalnum()),
    ]
    folder.mkdir()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.load(folder)
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=hidden_size // 32,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=128,
    )
    save(Model(Transformer(config), Card(family="bert"), tokenizer=tokenizer), folder / "model")
    return folder / "model"


def tenths(watch: Watch, texts: int) -> list[tuple[float, float, float]]:
    """Highest memory in MB, texts a second, and texts in the time of a fixed piece of work, of each tenth."""
    notes = watch.notes
    ends = [max(n for n, note in enumerate(notes) if note.texts <= texts * k // 10) for k in range(11)]
    rows = []
    for begin, end in itertools.pairwise(ends):
        first, last = notes[begin], notes[end]
        done, fixed = last.texts - first.texts, last.fixed - first.fixed
        memory = max(note.memory for note in notes[begin + 1 : end + 1]) / 1e6
        own = last.processor - first.processor - fixed
        rows.append((memory, done / (last.clock - first.clock), done / own * fixed / (end - begin)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="a file or folder with sentences")
    parser.add_argument("--texts", type=int, default=10_000_000)
    parser.add_argument("--suffix", choices=[".parquet", ".npy", ".jsonl"], default=".parquet")
    parser.add_argument("--hidden-size", type=int, default=32)
    parser.add_argument("--num-layers", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", type=Path, help="where the texts and vectors go; usually a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        pool = pool_of(options.text)
        write_texts(folder / "texts", pool, texts=options.texts)
        model = write_model(
            folder / "tiny", pool, hidden_size=options.hidden_size, num_layers=options.num_layers
        )
        watch = Watch()
        with progress.reporting(watch):
            embed(
                folder / "texts",
                model=model,
                out=folder / f"vectors{options.suffix}",
                precision=options.precision,
                threads=options.threads,
            )
        size = (folder / f"vectors{options.suffix}").stat().st_size
    rows = tenths(watch, options.texts)
    print(f"{date.today()}, {platform.processor() or platform.machine()}, torch {version('torch')}")
    print(f"{options.texts:,} texts, {size / 1e6:,.0f} MB of vectors in {options.suffix}\n")
    print("| tenth | memory, MB | texts/s | texts beside fixed work |\n| ---: | ---: | ---: | ---: |")
    for number, (memory, clock, beside) in enumerate(rows, 1):
        print(f"| {number} | {memory:,.1f} | {clock:,.0f} | {beside:,.1f} |")
    grown = rows[-1][0] / rows[0][0] - 1
    drift, own_drift = (rows[-1][column] / rows[0][column] - 1 for column in (1, 2))
    print(
        f"\nmemory {grown:+.1%} from the first to the last tenth: {'flat' if grown <= NEAR else 'NOT FLAT'}"
    )
    constant = "constant" if abs(drift) <= NEAR else "NOT CONSTANT"
    print(f"rate {drift:+.1%} by the clock ({own_drift:+.1%} beside fixed work): {constant}")
    sys.exit(0 if grown <= NEAR and abs(drift) <= NEAR else 1)


if __name__ == "__main__":
    main()
