"""Small random models of transformers, saved as folders, for the tests of checkpoints."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polyseme.models.batch import Batch

VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"的一是在不了有和人这中大为上个国我以要他",
    "a",
    "##a",
    "b",
]
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}


CLEAN = ("missing_keys", "unexpected_keys", "mismatched_keys")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks of this size only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def redraw(module: nn.Module, seed: int) -> None:
    """Every parameter from N(0, 0.2): with norms at 1 and biases at 0 half of all mistakes stay hidden."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def foreign(name: str, seed: int = 0, **changes: Any) -> Any:
    """One of transformers' models by the name of its class, with every parameter redrawn."""
    import transformers

    sizes: dict[str, Any] = SIZES | {"pad_token_id": 0}
    if name.startswith("Modern"):
        special = {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
        config = transformers.ModernBertConfig(
            **sizes | {"global_attn_every_n_layers": 1} | special | changes
        )
    else:
        config = transformers.BertConfig(**sizes | changes)
    model = getattr(transformers, name)(config).eval()
    redraw(model, seed)
    return model


def foreign_folder(
    folder: Path, name: str, seed: int = 0, *, tokenizer: bool = False, **changes: Any
) -> Path:
    """The folder that transformers writes for such a model."""
    foreign(name, seed, **changes).save_pretrained(folder)
    if tokenizer:
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


def change_settings(folder: Path, **changes: Any) -> None:
    """Rewrite keys of a folder's config.json; None takes a key out."""
    path = folder / "config.json"
    plain = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in plain.items() if value is not None}))


def padded_batch(seed: int, vocab_size: int, types: int, longest: int) -> Batch:
    """Rows of unlike length, padded on the right."""
    rng = np.random.default_rng(seed)
    rows, length = int(rng.integers(2, 5)), int(rng.integers(3, longest + 1))
    mask = np.arange(length) < rng.integers(1, length + 1, size=(rows, 1))
    mask[0] = True
    return Batch(
        input_ids=torch.from_numpy(rng.integers(0, vocab_size, (rows, length))),
        attention_mask=torch.from_numpy(mask),
        token_type_ids=torch.from_numpy(rng.integers(0, types, (rows, length))) if types else None,
    )


def inputs_of(batch: Batch) -> dict[str, torch.Tensor]:
    """The batch as transformers takes it."""
    assert batch.attention_mask is not None
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    return inputs if batch.token_type_ids is None else inputs | {"token_type_ids": batch.token_type_ids}


def assert_close(ours: Tensor, reference: Tensor) -> None:
    assert ours.dtype == reference.dtype
    bound = 1e-9 if ours.dtype == torch.float64 else 1e-5 * reference.abs().max().item()
    assert (ours - reference).abs().max().item() <= bound


def read_back(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The folder in transformers, where nothing may be missing or left over."""
    import transformers

    found, info = getattr(transformers, kind).from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert {key: list(info[key]) for key in CLEAN} == {key: [] for key in CLEAN}
    return found.eval()
