"""A name on a hub is asked for once by each function, however often the folder is looked at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from foreign_models import foreign_folder
from small_models import small_model

import polyseme
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.saving import save
from polyseme.tasks.predicting import evaluate, predict

QUIET = {"threads": 1}


@pytest.mark.parametrize(
    ("model", "act"),
    [
        ("gpt2", lambda name, _: polyseme.generate(["好"], model=name, max_new_tokens=1, **QUIET)),
        ("BertForMaskedLM", lambda name, _: polyseme.fill("a[MASK]", model=name, **QUIET)),
        ("BertForMaskedLM", lambda name, text: polyseme.perplexity(text, model=name, **QUIET)),
        ("BertForMaskedLM", lambda name, _: polyseme.Embedder.load(name, **QUIET)),
        ("BertForSequenceClassification", lambda name, _: polyseme.Predictor.load(name, threads=1)),
        (
            "BertForSequenceClassification",
            lambda name, text: predict(text, model=name, out=text.with_suffix(".csv"), **QUIET),
        ),
        (
            "BertForSequenceClassification",
            lambda name, text: evaluate("classification", text, model=name, **QUIET),
        ),
    ],
)
def test_a_function_asks_the_hub_once(
    model: str, act: Callable[[str, Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    if model == "gpt2":
        save(load(small_model(tmp_path / "bare", model), heads=["causal-lm"]), folder)
    else:
        foreign_folder(folder, model, tokenizer=True)
    text = tmp_path / "text.tsv"
    text.write_text("text\tlabel\n这是中国\tLABEL_0\n", encoding="utf-8")
    asked = []

    def fetch(name: str, revision: str | None) -> Path:
        asked.append((name, revision))
        return folder

    monkeypatch.setattr("polyseme.checkpoints.huggingface.fetch", fetch)
    act("owner/name@v1", text)
    assert asked == [("owner/name", "v1")]
