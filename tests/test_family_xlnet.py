"""XLNet: the numbers of transformers, both streams of them, with memory and with padding on either side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import (
    assert_close,
    change_settings,
    inputs_of,
    one_thread,
    padded_batch,
    read_back,
    redraw,
)
from safetensors.torch import load_file
from torch import Tensor

from polyseme.checkpoints.loading import heads_in, load
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.saving import files_of, save
from polyseme.errors import CheckpointError
from polyseme.models.batch import Batch
from polyseme.models.transformer.config import AttentionChoices, RelativeChoices, TransformerConfig
from polyseme.models.transformer.memory import read_on
from polyseme.models.transformer.streams import ask

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here
DTYPES = [torch.float32, torch.float64]


def choices(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(300 + seed)
    heads = int(rng.choice([1, 2, 4]))
    return {
        "vocab_size": int(rng.integers(30, 90)),
        "n_head": heads,
        "d_model": heads * 2 * int(rng.integers(2, 9)),
        "n_layer": int(rng.integers(1, 4)),
        "d_inner": int(rng.integers(8, 80)),
        "ff_activation": ["gelu", "gelu_new", "relu", "silu"][seed % 4],
        "layer_norm_eps": float(rng.choice([1e-12, 1e-5, 1e-3])),
        "clamp_len": int(rng.choice([-1, 3, 8])),
        "mem_len": int(rng.integers(1, 9)),
        "pad_token_id": int(rng.integers(0, 30)),
    }


@pytest.fixture
def exact_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference leaves distances in float32, which its two streams then cannot multiply in float64."""
    kind = transformers.models.xlnet.modeling_xlnet.XLNetModel
    plain = kind.relative_positional_encoding
    monkeypatch.setattr(
        kind, "relative_positional_encoding", lambda self, *a, **k: plain(self, *a, **k).to(self.dtype)
    )


def foreign(name: str, seed: int, **changes: Any) -> Any:
    model = getattr(transformers, name)(transformers.XLNetConfig(**changes)).eval()
    redraw(model, seed)
    return model


def read_whole(folder: Path, dtype: torch.dtype) -> Any:
    """The folder in transformers, whose loader would narrow the tensors of this family to float32."""
    model = read_back("XLNetLMHeadModel", folder).to(dtype)
    left = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert left.missing_keys == ["lm_loss.weight"]
    assert not left.unexpected_keys
    return model


def drawn_order(batch: Batch, seed: int) -> tuple[Tensor, Tensor]:
    """What each token must not see, `[batch, length, length]`, and three different targets a row.

    Everyone sees the first token of a row, since the reference looks everywhere where nothing may be seen.
    """
    rng = np.random.default_rng(seed)
    rows, length = batch.input_ids.shape
    hidden = rng.random((rows, length, length)) < 0.4
    hidden[:, :, 0] = False
    targets = np.stack([rng.permutation(length)[:3] for _ in range(rows)])
    return torch.from_numpy(hidden), torch.from_numpy(targets)


def assert_agree(ours: Model, theirs: Any, batch: Batch, seed: int) -> None:
    """One stream, both streams, and both behind a memory: the same states of every layer, the same logits."""
    table, head = ours.backbone.embeddings.tokens.weight, ours.heads["permutation-lm"]
    hidden, targets = drawn_order(batch, seed)
    mapping = torch.nn.functional.one_hot(targets, batch.input_ids.size(1)).to(table.dtype)
    order = {"perm_mask": hidden.to(table.dtype), "target_mapping": mapping}
    inputs = inputs_of(batch) | {"attention_mask": batch.attention_mask.to(table.dtype)}  # type: ignore[union-attr]
    with torch.no_grad():
        expected = theirs(**inputs, output_hidden_states=True, use_mems=True)
        states, memory = read_on(ours.backbone, batch, every_layer=True)
        assert_close(head(states.last, table), expected.logits)
        for mine, other in zip(states.layers, expected.hidden_states, strict=True):
            assert_close(mine, other)
        plain = ours.backbone(batch, every_layer=True)
        assert all(torch.equal(a, b) for a, b in zip(plain.layers, states.layers, strict=True))
        for mine, other in zip(memory, expected.mems, strict=True):
            assert_close(mine, other.transpose(0, 1))

        for behind, mems in ((), None), (memory, expected.mems):
            said = theirs(**inputs, **order, mems=mems, output_hidden_states=True, use_mems=True)
            query, content, after = ask(
                ours.backbone, batch, targets, hidden=hidden, memory=behind, every_layer=True
            )
            both = [one for pair in zip(content.layers, query.layers, strict=True) for one in pair]
            for mine, other in zip(both, said.hidden_states, strict=True):
                assert_close(mine, other)
            assert_close(head(query.last, table), said.logits)
            for mine, other in zip(after, said.mems, strict=True):
                assert_close(mine, other.transpose(0, 1))
            short, _, _ = ask(ours.backbone, batch, targets, hidden=hidden, memory=behind)
            assert torch.equal(short.last, query.last)


@pytest.mark.usefixtures("exact_reference")
@pytest.mark.parametrize("seed", range(10))
def test_a_folder_means_the_same_here_and_in_transformers(seed: int, tmp_path: Path) -> None:
    chosen = choices(seed)
    batch = padded_batch(seed, chosen["vocab_size"], 3, 14)
    for dtype in DTYPES:
        theirs = foreign("XLNetLMHeadModel", seed, **chosen).to(dtype)
        theirs.save_pretrained(tmp_path / f"theirs-{dtype}")
        ours = load(tmp_path / f"theirs-{dtype}", heads=["permutation-lm"], dtype=dtype)
        assert_agree(ours, theirs, batch, seed)

        save(ours, tmp_path / f"ours-{dtype}")
        assert_agree(ours, read_whole(tmp_path / f"ours-{dtype}", dtype), batch, seed)
        found = load(tmp_path / f"ours-{dtype}", heads=["permutation-lm"], dtype=dtype)
        assert found.backbone.config == ours.backbone.config
        assert files_of(found) == files_of(ours)


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("XLNetModel", []),
        ("XLNetLMHeadModel", ["permutation-lm"]),
        ("XLNetForSequenceClassification", ["classification"]),
    ],
)
def test_every_set_of_heads_goes_there_and_back(kind: str, heads: list[str], tmp_path: Path) -> None:
    foreign(kind, 4, **choices(4)).save_pretrained(tmp_path / "theirs")
    assert heads_in(tmp_path / "theirs") == heads
    ours = load(tmp_path / "theirs", heads=heads)
    save(ours, tmp_path / "ours")
    theirs = read_back(kind, tmp_path / "ours")
    reference = getattr(transformers, kind).from_pretrained(tmp_path / "theirs").state_dict()
    assert theirs.state_dict().keys() == reference.keys()
    assert all(torch.equal(tensor, reference[name]) for name, tensor in theirs.state_dict().items())
    assert type(transformers.AutoModel.from_pretrained(tmp_path / "ours")).__name__ == "XLNetModel"


@pytest.mark.parametrize("problem", ["single", "multi"])
def test_a_classifier_keeps_its_scores_and_the_names_of_its_classes(problem: str, tmp_path: Path) -> None:
    labels = ["好", "坏", "neutral"]
    named = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: n for n, label in enumerate(labels)},
        "problem_type": f"{problem}_label_classification",
    }
    chosen = choices(6) | named
    theirs = foreign("XLNetForSequenceClassification", 6, **chosen)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs", heads=["classification"])
    assert (ours.card.labels, ours.card.problem) == (labels, problem)
    batch = padded_batch(6, chosen["vocab_size"], 3, 12)
    save(ours, tmp_path / "ours")
    for reference in (theirs, read_back("XLNetForSequenceClassification", tmp_path / "ours")):
        assert reference.config.id2label == dict(enumerate(labels))
        with torch.no_grad():
            scores = ours.heads["classification"](ours.backbone(batch), batch.attention_mask)
            # The reference reads the very last state, so its rows are padded on the left.
            assert_close(scores, reference(**inputs_of(turned(batch))).logits)


def turned(batch: Batch) -> Batch:
    """The same rows, padded on the left."""
    assert batch.attention_mask is not None
    gaps = (~batch.attention_mask).sum(dim=1).tolist()

    def move(tensor: Tensor) -> Tensor:
        return torch.stack([row.roll(gap) for row, gap in zip(tensor, gaps, strict=True)])

    assert batch.token_type_ids is not None
    return Batch(move(batch.input_ids), move(batch.attention_mask), move(batch.token_type_ids))


@pytest.mark.parametrize("seed", range(5))
def test_the_side_of_the_padding_does_not_matter(seed: int, tmp_path: Path) -> None:
    chosen = choices(seed)
    theirs = foreign("XLNetLMHeadModel", seed, **chosen)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path).backbone
    batch = padded_batch(seed, chosen["vocab_size"], 3, 14)
    other = turned(batch)
    with torch.no_grad():
        right, left = ours(batch).last, ours(other).last
        reference = theirs(**inputs_of(other), output_hidden_states=True).hidden_states[-1]
    assert batch.attention_mask is not None
    assert other.attention_mask is not None
    assert (right[batch.attention_mask] - left[other.attention_mask]).abs().max() <= 1e-6 * 20
    assert_close(right[batch.attention_mask], reference[other.attention_mask])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attn_type", "uni", "attn_type is 'uni'"),
        ("bi_data", True, "bi_data is True"),
        ("d_head", 3, "d_head is 3"),
        ("summary_activation", "gelu", "summary_activation is 'gelu'"),
        ("untie_r", False, "untie_r is False"),
    ],
)
def test_what_is_not_computed_is_refused(key: str, value: Any, message: str, tmp_path: Path) -> None:
    foreign("XLNetModel", 0, **choices(0)).save_pretrained(tmp_path)
    change_settings(tmp_path, **{key: value})
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_position": "before", "final_norm": True}, "norm_position 'after'"),
        ({"type_vocab_size": 2}, "type_vocab_size 0"),
        (
            {"attention": AttentionChoices(relative=RelativeChoices(memory=3, same_length=True))},
            "same_length",
        ),
        (
            {"attention": AttentionChoices(causal=True, relative=RelativeChoices(query_stream=True))},
            "any order of the tokens",
        ),
        ({"positions": "none"}, "attention.relative is for relative positions"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    plain: dict[str, Any] = {
        "vocab_size": 9,
        "positions": "relative",
        "type_vocab_size": 0,
        "attention": AttentionChoices(relative=RelativeChoices(clamp=4)),
    }
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**plain | changes)
