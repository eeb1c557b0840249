"""What a clone without git-lfs leaves in place of a file is named as such, whichever file it is."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import foreign_folder

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.readers.tensorflow import checkpoint_files
from polyseme.errors import PolysemeError
from polyseme.tasks.labelled_texts import read_labelled
from polyseme.tasks.settings import ClassificationSettings
from polyseme.text.reading import TextSettings, read_documents
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.unit_lists import read_unit_list
from polyseme.text.vectors import read_vectors
from polyseme.text.words import read_dictionary

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'1' * 64}\nsize 109540\n"


def assert_named(path: Path, act: Callable[[], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(POINTER)
    with pytest.raises(PolysemeError) as caught:
        act()
    message = re.sub(r"^\S+?: (?=\S+ is a Git)", "", str(caught.value))
    assert message == (
        f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in {path.parent}"
    )


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "task.safetensors",
        "vocab.txt",
        "tokenizer_config.json",
        "tokenizer.json",
        "polyseme.json",
        "modules.json",
    ],
)
def test_in_a_folder_of_transformers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = foreign_folder(tmp_path, "BertModel", tokenizer=True)
    assert_named(folder / name, lambda: load(folder))


@pytest.mark.parametrize(
    ("name", "present"),
    [
        ("pytorch_model.bin", ("config.json",)),
        ("model.safetensors.index.json", ("config.json",)),
        ("bert_model.ckpt.index", ()),
        ("model.pdparams", ()),
        ("params/word_embedding", ()),
        ("uer.bin", ()),
        ("params_shapes.json", ()),
    ],
)
def test_as_the_only_weights(name: str, present: tuple[str, ...], tmp_path: Path) -> None:
    for other in present:
        (tmp_path / other).write_text('{"model_type": "bert"}')
    assert_named(tmp_path / name, lambda: load(tmp_path))


def test_in_the_shards_of_a_checkpoint(tmp_path: Path) -> None:
    for name, content in checkpoint_files({"a": torch.zeros(2)}, "bert_model.ckpt").items():
        (tmp_path / name).write_bytes(content)
    assert_named(tmp_path / "bert_model.ckpt.data-00000-of-00001", lambda: load(tmp_path))


def test_a_pointer_beside_the_file_that_is_read_does_not_matter(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = foreign_folder(tmp_path, "BertModel")
    (folder / "pytorch_model.bin").write_text(POINTER)
    load(folder)


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "spiece.model", "merges.txt"])
def test_as_a_tokenizer(name: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    assert_named(tmp_path / name, lambda: Tokenizer.load(tmp_path))


@pytest.mark.parametrize(
    "act",
    [
        lambda path: list(read_documents([path], TextSettings())),
        lambda path: list(read_labelled(path, ClassificationSettings(), labelled=True)),
        lambda path: list(read_vectors(path)),
        lambda path: read_dictionary(path),
        lambda path: read_unit_list(path, str),
    ],
    ids=["text", "table", "vectors", "dictionary", "phrases"],
)
def test_as_data(act: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    assert_named(path, lambda: act(path))
