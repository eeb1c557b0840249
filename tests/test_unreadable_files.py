"""A file of a model that may not be read is named with that reason, and not as damaged."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from foreign_models import foreign_folder
from safetensors.torch import load_file

from polyseme.checkpoints.loading import load
from polyseme.errors import PolysemeError


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root may read everything; another user may not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "config.json", "vocab.txt"],
)
def test_a_file_without_permission_is_named_with_the_reason(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    folder = foreign_folder(tmp_path / "bert", "BertModel", tokenizer=True)
    weights = folder / "model.safetensors"
    if name == "pytorch_model.bin":
        torch.save(load_file(weights), folder / name)
        weights.unlink()
    if name == "model.safetensors.index.json":
        weights.unlink()
        (folder / name).write_text("{}")
    for file in folder.iterdir():
        file.chmod(0 if file.name == name else 0o644)
    folder.chmod(0o755)
    monkeypatch.chdir(folder)  # The folders above belong to the user who runs the tests.
    load_as_nobody = pytest.raises(PolysemeError, match=rf"{name} cannot be read: Permission denied$")
    request.getfixturevalue("nobody")
    with load_as_nobody:
        load(".")
