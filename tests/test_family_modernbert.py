"""ModernBERT as published, with local layers between global ones, here and in transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import (
    assert_close,
    assert_there_and_back,
    change_settings,
    exact_reference,
    foreign,
    foreign_folder,
    one_thread,
)

from polyseme.checkpoints.loading import load
from polyseme.models.batch import Batch

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here
assert exact_reference


def choices(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(700 + seed)
    heads = int(rng.choice([1, 2, 4]))
    return {
        "vocab_size": int(rng.integers(30, 90)),
        "num_attention_heads": heads,
        "hidden_size": heads * 2 * int(rng.integers(2, 9)),
        "num_hidden_layers": int(rng.integers(2, 7)),
        "intermediate_size": int(rng.integers(8, 80)),
        "max_position_embeddings": 64,
        "global_attn_every_n_layers": int(rng.integers(2, 5)),
        "local_attention": int(rng.integers(2, 12)),
        "global_rope_theta": float(rng.choice([10_000.0, 160_000.0])),
        "local_rope_theta": float(rng.choice([100.0, 10_000.0])),
    }


@pytest.mark.usefixtures("exact_reference")
@pytest.mark.parametrize("seed", range(10))
def test_a_folder_means_the_same_here_and_in_transformers(seed: int, tmp_path: Path) -> None:
    assert_there_and_back(
        "ModernBertForMaskedLM",
        ["masked-lm"],
        tmp_path,
        seed,
        longest=40,
        types=0,
        real_only=True,
        **choices(seed),
    )


@pytest.mark.usefixtures("exact_reference")
@pytest.mark.parametrize("seed", range(10))
def test_packed_texts_get_the_states_that_transformers_gives_each_alone(seed: int, tmp_path: Path) -> None:
    theirs = foreign("ModernBertForMaskedLM", seed, **choices(seed))
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path, heads=["masked-lm"])
    rng = np.random.default_rng(seed)
    lengths = [int(length) for length in rng.integers(1, 20, 3)]
    texts = [torch.from_numpy(rng.integers(0, 30, length)) for length in lengths]
    documents = torch.repeat_interleave(torch.arange(1, 4), torch.tensor(lengths))
    with torch.no_grad():
        states = ours.backbone(Batch(torch.cat(texts)[None], document_ids=documents[None])).last[0]
        logits = ours.heads["masked-lm"](states, ours.backbone.embeddings.tokens.weight)
        expected = torch.cat([theirs(text[None]).logits[0] for text in texts])
    assert_close(logits, expected)


def test_the_published_settings_are_read(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path, "ModernBertModel", num_hidden_layers=5, global_attn_every_n_layers=3)
    new = load(folder).backbone.config.attention
    # As releases of transformers before 5 write the same.
    change_settings(
        folder, layer_types=None, rope_parameters=None, global_attn_every_n_layers=3, local_attention=128,
        global_rope_theta=160_000.0, local_rope_theta=10_000.0,
    )  # fmt: skip
    assert load(folder).backbone.config.attention == new
    assert (new.window, new.global_every) == (128, 3)
    assert (new.rotary.base, new.rotary.local_base) == (160_000.0, 10_000.0)
    change_settings(folder, global_attn_every_n_layers=None, local_attention=None, global_rope_theta=None,
                    local_rope_theta=None)  # fmt: skip
    assert load(folder).backbone.config.attention == new


def test_one_base_for_all_layers_is_said_once(tmp_path: Path) -> None:
    same = {"global_rope_theta": 500.0, "local_rope_theta": 500.0, "global_attn_every_n_layers": 2}
    rotary = load(foreign_folder(tmp_path, "ModernBertModel", **same)).backbone.config.attention.rotary
    assert (rotary.base, rotary.local_base) == (500.0, None)
