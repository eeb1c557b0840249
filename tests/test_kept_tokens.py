"""Marks of entities are found in texts where a user lets them through, and a fine-tuned model keeps them."""

import json
from pathlib import Path

from small_models import small_model

import polyseme
from polyseme.checkpoints.loading import load
from polyseme.embedding.embedder import Embedder
from polyseme.integrity import accept_folder


def marked_model(folder: Path) -> Path:
    """A model whose tokenizer names its letters q and z as additional special tokens."""
    path = small_model(folder, "bert")
    settings = json.loads((path / "tokenizer_config.json").read_text())
    settings["additional_special_tokens"] = ["q", "z"]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    accept_folder(path)
    return path


def test_an_embedder_finds_the_special_tokens_that_it_is_told_to_keep(tmp_path: Path) -> None:
    model = marked_model(tmp_path)
    plain = Embedder.load(model, threads=1)
    kept = Embedder.load(model, threads=1, keep_special_tokens=("q", "z"))
    assert plain.tokenizer.tokens(plain.tokenizer.encode("q酒店z").ids) == ["[UNK]", "酒", "店", "[UNK]"]
    assert kept.tokenizer.tokens(kept.tokenizer.encode("q酒店z").ids) == ["q", "酒", "店", "z"]
    assert (plain.sentences(["q酒店z"]) != kept.sentences(["q酒店z"])).any()


def test_a_fine_tuned_model_keeps_them(tmp_path: Path) -> None:
    lines = "".join("q酒店z很好\t好\nq房间z很差\t差\n" for _ in range(4))
    (tmp_path / "train.tsv").write_text(lines, encoding="utf-8")
    out = tmp_path / "out"
    polyseme.finetune(
        "classification",
        train=tmp_path / "train.tsv",
        dev=tmp_path / "train.tsv",
        model=marked_model(tmp_path),
        out=out,
        epochs=1,
        threads=1,
        keep_special_tokens=("q", "z"),
    )
    (folder,) = [path.parent for path in out.rglob("tokenizer.json")]
    tokenizer = load(folder).tokenizer
    assert tokenizer is not None
    assert tokenizer.tokens(tokenizer.encode("q酒店z").ids) == ["q", "酒", "店", "z"]
