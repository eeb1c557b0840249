"""A process that is forked while the library has threads computes with threads of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpora import SENTENCES
from small_models import small_model

import polyseme

SCRIPT = """
import os, signal, sys, threading
import numpy as np
import torch
import polyseme

torch.set_num_threads(2)
encoder, classifier, folder = sys.argv[1:]
texts = ["今天天气很好我们去公园吧" * 3] * 300
embedder = polyseme.Embedder.load(encoder, threads=2)
before = embedder.sentences(texts)
one = embedder.sentences(texts[:1])
polyseme.predict(f"{folder}/texts.tsv", model=classifier, out=f"{folder}/before.jsonl", threads=2)
(torch.randn(2000, 2000) + 1).sum()  # torch has threads now that a fork lacks

def embeds(threads=None):
    assert np.array_equal(embedder.sentences(texts), before)
    assert np.array_equal(embedder.sentences(texts[:1]), one)

def loads_and_embeds():
    assert np.array_equal(polyseme.Embedder.load(encoder, threads=2).sentences(texts), before)

def predicts():
    polyseme.predict(f"{folder}/texts.tsv", model=classifier, out=f"{folder}/after.jsonl", threads=2)
    assert open(f"{folder}/after.jsonl").read() == open(f"{folder}/before.jsonl").read()

def in_a_fork(work, exit=os._exit):
    child = os.fork()
    if not child:
        signal.alarm(30)
        work()
        exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(work.__name__, "hangs" if status == -signal.SIGALRM else status)

in_a_fork(embeds)
in_a_fork(embeds, sys.exit)
in_a_fork(loads_and_embeds)
in_a_fork(predicts)
stop = threading.Event()

def compute():
    while not stop.is_set():
        embedder.sentences(texts[:40])
        embedder.sentences(texts[:1])

busy = threading.Thread(target=compute)
busy.start()
for _ in range(5):
    in_a_fork(embeds)
stop.set()
busy.join()
embeds()
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("forking")
    rows = [f"{number % 2}\t{text}" for number, text in enumerate(SENTENCES)]
    (folder / "texts.tsv").write_text("\n".join(["label\ttext_a", *rows * 20]) + "\n", encoding="utf-8")
    encoder = small_model(folder, "bert")
    polyseme.finetune(
        "classification",
        train=folder / "texts.tsv",
        dev=folder / "texts.tsv",
        model=encoder,
        out=folder / "classifier",
        epochs=1,
        limit=8,
    )
    return [str(encoder), str(folder / "classifier"), str(folder)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("kernels", ["auto", "onednn", "torch"])
def test_a_forked_process_embeds_and_predicts(models: list[str], kernels: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *models],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"POLYSEME_KERNELS": kernels, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert (
        done.stdout.split()
        == ["embeds", "0"] * 2
        + ["loads_and_embeds", "0", "predicts", "0"]
        + [
            "embeds",
            "0",
        ]
        * 5
    ), done.stderr
    assert Path(models[2], "after.jsonl").stat().st_size > 0
