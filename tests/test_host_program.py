"""What the library leaves as it was in the program that uses it."""

import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import SENTENCES, small_store, write_text
from small_models import characters, small_model

import polyseme

CALLS: dict[str, Callable[[Path], Any]] = {
    "recipes": lambda at: polyseme.recipes(),
    "show_machine": lambda at: polyseme.show_machine(),
    "show_progress": lambda at: polyseme.show_progress(False),
    "prepare": lambda at: polyseme.prepare([at / "text.txt"], tokenizer=at / "vocab", out=at / "store-2"),
    "learn_tokenizer": lambda at: polyseme.learn_tokenizer([at / "text.txt"], out=at / "v", vocab_size=300),
    "show_store": lambda at: polyseme.show_store(at / "store"),
    "show_masks": lambda at: polyseme.show_masks(at / "store", recipe="bert"),
    "show_tokens": lambda at: polyseme.show_tokens(SENTENCES[0], tokenizer=at / "vocab"),
    "pretrain": lambda at: polyseme.pretrain(
        "bert", at / "store", out=at / "p", size="tiny", steps=2, threads=3
    ),
    "distill": lambda at: polyseme.distill(
        str(at / "p"), at / "store", out=at / "d", size="tiny", steps=2, threads=3
    ),
    "load": lambda at: polyseme.load(at / "p", heads=["masked-lm"]),
    "save": lambda at: polyseme.save(polyseme.load(at / "bert"), at / "saved"),
    "convert": lambda at: polyseme.convert(at / "bert", at / "converted"),
    "show_model": lambda at: polyseme.show_model(at / "p"),
    "embed": lambda at: polyseme.embed(at / "lines.txt", model=at / "bert", out=at / "e.npy", threads=3),
    "Embedder": lambda at: polyseme.Embedder.load(at / "bert", threads=3).sentences(SENTENCES),
    "Embedder.words": lambda at: polyseme.Embedder.load(at / "bert", threads=3).words(SENTENCES[:2]),
    "fill": lambda at: polyseme.fill("人民___依法", model=at / "p", threads=3),
    "perplexity": lambda at: polyseme.perplexity(at / "text.txt", model=at / "p", most_tokens=20, threads=3),
    "generate": lambda at: polyseme.generate(["人民"], model=at / "g", max_new_tokens=2, threads=3),
    "finetune": lambda at: polyseme.finetune(
        "classification",
        train=at / "t.tsv",
        dev=at / "t.tsv",
        model=at / "bert",
        out=at / "f",
        epochs=1,
        threads=3,
    ),
    "predict": lambda at: polyseme.predict(at / "t.tsv", model=at / "f", out=at / "a.jsonl", threads=3),
    "Predictor": lambda at: polyseme.Predictor.load(at / "f", threads=3).predict(SENTENCES[:2]),
    "verify": lambda at: polyseme.verify(at / "f"),
    "evaluate": lambda at: polyseme.evaluate("classification", at / "t.tsv", model=at / "f", threads=3),
}
"""Every public function, each after those whose results it reads."""


def threads_elsewhere() -> int:
    """Threads that torch has in a thread that is started now."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def state() -> dict[str, Any]:
    """Everything that belongs to the program around the library."""
    return {
        "torch's threads": torch.get_num_threads(),
        "torch's threads in new threads": threads_elsewhere(),
        "torch's threads between operators": torch.get_num_interop_threads(),
        "torch's random numbers": torch.get_rng_state().tolist(),
        "torch's default type": torch.get_default_dtype(),
        "torch's precision": torch.get_float32_matmul_precision(),
        "torch's gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "torch's determinism": torch.are_deterministic_algorithms_enabled(),
        "NumPy's random numbers": [str(part) for part in np.random.get_state()],
        "NumPy's errors": np.geterr(),
        "Python's random numbers": random.getstate(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "logging": (logging.root.level, list(logging.root.handlers), logging.getLogger("polyseme").handlers),
        "warnings": (warnings.showwarning, list(warnings.filters)),
        "hooks": (sys.excepthook, threading.excepthook, sys.displayhook),
        "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("host")
    small_store(at)
    small_model(at, "bert")
    polyseme.pretrain("gpt2", at / "store", out=at / "g", size="tiny", steps=1)
    characters(at / "vocab")
    write_text(at / "text.txt", documents=5)
    (at / "lines.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    rows = [f"{number % 2}\t{text}" for number, text in enumerate(SENTENCES)]
    (at / "t.tsv").write_text("\n".join(["label\ttext_a", *rows]), encoding="utf-8")
    return at


@pytest.mark.parametrize("name", CALLS)
def test_nothing_of_the_program_around_is_changed(folder: Path, name: str) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(0)
        expected = state()
        CALLS[name](folder)
        found = state()
    finally:
        torch.set_num_threads(before)
    assert [what for what in expected if expected[what] != found[what]] == []


def test_every_public_function_is_among_them() -> None:
    classes = {"Embedder", "Filler", "Generator", "Store", "Tokenizer"}
    assert {name.split(".")[0] for name in CALLS} | classes >= set(polyseme.__all__)
