"""Small jobs of `embed` for the tests: texts, a reporter that remembers, processes that can be killed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from reporters import Said
from small_models import CHARACTERS

import polyseme

HERE = {"PYTHONPATH": str(Path(polyseme.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
TINY = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "intermediate_size": 16}
BLOCK = 64
"""Rows of a block in these tests; a job for use has more."""
LINES = 12_000

FORKING = """
import json, os, sys
import torch
torch.set_num_threads(1)
from polyseme.embedding import embedding
from polyseme.embedding.embedding import embed
embedding._TEXTS = int(sys.argv[1])
embedding.load(sys.argv[2])
for line in sys.stdin:
    words = json.loads(line)
    child = os.fork()
    if child == 0:
        embed(words.pop("text"), **words)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Loads torch and what torch loads late, then runs each job that it is given in a process of its own."""


def some_lines(count: int, *, seed: int = 0) -> list[str]:
    """Texts of 0 to 19 characters; many stand there twice."""
    rng = np.random.default_rng(seed)
    letters = np.array(list(CHARACTERS))
    return ["".join(rng.choice(letters, rng.integers(20))) for _ in range(count)]


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


class Recorder(Said):
    """Remembers of each bar its total and how far it came, too."""

    def __init__(self) -> None:
        super().__init__()
        self.bars: list[list[float | None]] = []

    @contextmanager
    def bar(self, label: str, *, total: float | None, unit: str) -> Iterator["Recorder"]:
        self.bars.append([total, 0])
        yield self

    def advance(self, amount: float = 1, *, total: float | None = None, **figures: float | str) -> None:
        self.bars[-1][1] = (self.bars[-1][1] or 0) + amount


class Runner:
    """Jobs in processes of their own, started one after the other."""

    def __init__(self, model: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKING, str(BLOCK), str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **HERE},
        )

    def start(self, text: Path, **words: Any) -> int:
        assert self.process.stdin
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in words.items()}
        self.process.stdin.write(json.dumps({"text": str(text), "threads": 1, **plain}) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def status(self) -> int:
        """Of the job that was started last, once it has ended."""
        return int(self._line())

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()


def done(out: Path) -> int:
    """Blocks that the journal of an unfinished job counts."""
    journal = out.with_name(f".{out.name}.embedding") / "journal"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0
