"""Transformer-XL: the numbers of its last release in transformers, and segments that are one long text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import one_thread, redraw
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import files_of, save
from polyseme.errors import CheckpointError
from polyseme.models.adaptive import AdaptiveLMHead
from polyseme.models.batch import Batch
from polyseme.models.heads import ClassificationHead
from polyseme.models.transformer.config import (
    AdaptiveChoices,
    AttentionChoices,
    EmbeddingChoices,
    RelativeChoices,
    TransformerConfig,
)
from polyseme.models.transformer.memory import Memory, read_on
from polyseme.models.transformer.model import Transformer

assert one_thread  # a fixture, used by every test here
CASES = ("plain", "slices", "tables", "shared", "short")
SEGMENTS = range(3)


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    """Written by tests/golden/make_transfo_xl_golden.py with transformers 4.35.2."""
    with np.load(Path(__file__).parent / "data" / "transfo_xl.npz") as file:
        return dict(file)


def golden_folder(golden: dict[str, NDArray[Any]], case: str, folder: Path) -> Path:
    """The case's model as the folder that transformers would have written."""
    folder.mkdir()
    (folder / "config.json").write_text(str(golden[f"{case}.config"]))
    start = f"{case}.weights."
    save_file(
        {
            name.removeprefix(start): torch.from_numpy(a)
            for name, a in golden.items()
            if name.startswith(start)
        },
        folder / "model.safetensors",
    )
    return folder


def small(**changes: Any) -> TransformerConfig:
    return TransformerConfig(
        **{
            "vocab_size": 31,
            "hidden_size": 12,
            "num_layers": 3,
            "num_heads": 2,
            "intermediate_size": 20,
            "type_vocab_size": 0,
            "activation": "relu",
            "layer_norm_eps": 1e-5,
            "positions": "relative",
            "pooler": False,
            "embedding": EmbeddingChoices(norm=False, scaled=True),
            "attention": AttentionChoices(causal=True, relative=RelativeChoices(memory=16)),
            **changes,
        }
    )


@pytest.mark.parametrize("case", CASES)
def test_states_and_losses_are_those_of_transformers_over_segments(
    case: str, golden: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    ours = load(golden_folder(golden, case, tmp_path / "theirs"), heads=["adaptive-lm"])
    head = ours.heads["adaptive-lm"]
    assert isinstance(head, AdaptiveLMHead)
    memory: Memory = ()
    for segment in SEGMENTS:
        ids = torch.from_numpy(golden[f"{case}.{segment}.ids"])
        with torch.no_grad():
            states, memory = read_on(ours.backbone, Batch(ids), memory, every_layer=True)
            costs = head.costs(
                states.last[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ours.backbone.embeddings.tokens
            )
            alone = ours.backbone(Batch(ids), every_layer=True)
        for layer, found in enumerate(states.layers):
            expected = torch.from_numpy(golden[f"{case}.{segment}.states.{layer}"])
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
            if segment == 0:  # The plain call begins with the model's own start: zeros.
                assert torch.equal(alone.layers[layer], found)
        losses = torch.from_numpy(golden[f"{case}.{segment}.losses"])
        assert (costs.view_as(losses) - losses).abs().max() <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_a_folder_goes_there_and_back_bit_for_bit(
    case: str, golden: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    theirs = golden_folder(golden, case, tmp_path / "theirs")
    ours = load(theirs, heads=["adaptive-lm"])
    save(ours, tmp_path / "ours")
    before, after = load_file(theirs / "model.safetensors"), load_file(tmp_path / "ours/model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    # What is not written is the other end of a tie, or no weight.
    kept = {tensor.data_ptr() for tensor in ours.backbone.state_dict().values()}
    assert len(kept) + len(ours.heads["adaptive-lm"].state_dict()) >= len(after)
    left = before.keys() - after.keys()
    assert all(
        name == "transformer.pos_emb.inv_freq" or any(torch.equal(before[name], t) for t in after.values())
        for name in left
    )
    old, new = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours"))
    shared = {"architectures", "torch_dtype", "transformers_version", *new} & old.keys()
    same = {key for key in shared if key in new and old[key] == new[key]}
    assert {"cutoffs", "div_val", "d_head", "mem_len", "clamp_len", "same_length", "untie_r"} <= same
    again = load(tmp_path / "ours", heads=["adaptive-lm"])
    assert again.backbone.config == ours.backbone.config
    assert files_of(again) == files_of(ours)


def test_two_ends_of_a_tie_that_differ_are_refused(golden: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    for name in ("crit.out_projs.1", "crit.out_layers.1.weight", "transformer.layers.1.dec_attn.r_w_bias"):
        folder = golden_folder(golden, "shared", tmp_path / name)
        tensors = load_file(folder / "model.safetensors")
        save_file(tensors | {name: tensors[name] + 1}, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=f"{name} differs from"):
            load(folder, heads=["adaptive-lm"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pre_lnorm", True, "pre_lnorm is True"),
        ("d_embed", 4, "d_embed is 4 and d_model 8"),
        ("attn_type", 2, "attn_type is 2"),
        ("cutoffs", [9, 4], "cutoffs must be above 0 and ascend"),
        ("proj_share_all_but_first", False, "proj_share_all_but_first is False"),
    ],
)
def test_what_is_not_computed_is_refused(
    key: str, value: Any, message: str, golden: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    folder = golden_folder(golden, "tables", tmp_path / "theirs")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize("seed", range(10))
def test_segments_behind_an_empty_memory_are_one_long_text(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cutoffs = [(), (9,), (5, 20)][seed % 3]
    adaptive = AdaptiveChoices(cutoffs=cutoffs, divisor=2 if cutoffs and seed % 2 else 1)
    relative = RelativeChoices(memory=16, untied=seed % 2 == 0, clamp=[None, 3][seed % 2])
    config = small(
        embedding=EmbeddingChoices(norm=False, scaled=True, adaptive=adaptive),
        attention=AttentionChoices(causal=True, head_size=5, relative=relative),
    )
    model = Transformer(config).double().eval()
    redraw(model, seed)
    ids = torch.from_numpy(rng.integers(0, 31, (3, 16)))
    with torch.no_grad():
        whole = model(Batch(ids), every_layer=True)
        memory: Memory = ()
        parts = []
        for first, stop in ((0, 5), (5, 12), (12, 16)):
            states, memory = read_on(model, Batch(ids[:, first:stop]), memory, every_layer=True)
            parts.append(states.layers)
    for layer, expected in enumerate(whole.layers):
        assert (torch.cat([part[layer] for part in parts], dim=1) - expected).abs().max() <= 1e-12


def test_with_same_length_a_token_sees_as_many_as_are_remembered() -> None:
    relative = RelativeChoices(memory=4, same_length=True)
    model = Transformer(
        small(num_layers=1, attention=AttentionChoices(causal=True, relative=relative))
    ).eval()
    redraw(model, 3)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        before = model(Batch(ids)).last
        for place in range(10):
            changed = ids.clone()
            changed[0, place] = 20
            moved = (model(Batch(changed)).last != before).any(dim=-1)[0]
            assert moved.nonzero()[:, 0].tolist() == list(range(place, min(10, place + 4)))


def test_no_token_sees_a_later_one() -> None:
    for seed in range(5):
        model = Transformer(small()).eval()
        redraw(model, seed)
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, 31, (2, 9), generator=generator)
        with torch.no_grad():
            _, memory = read_on(model, Batch(ids))
            for place in range(9):
                changed = ids.clone()
                changed[:, place] = (changed[:, place] + 1) % 31
                one, _ = read_on(model, Batch(ids), memory)
                other, _ = read_on(model, Batch(changed), memory)
                assert torch.equal(one.last[:, :place], other.last[:, :place])
                assert not torch.equal(one.last[:, place], other.last[:, place])


def test_memory_carries_no_gradient_and_is_as_long_as_it_is_set() -> None:
    model = Transformer(small(attention=AttentionChoices(causal=True, relative=RelativeChoices(memory=7))))
    memory: Memory = ()
    for _ in range(3):
        _, memory = read_on(model, Batch(torch.arange(10).view(2, 5)), memory)
    assert [tuple(states.shape) for states in memory] == [(2, 7, 12)] * 3
    assert not any(states.requires_grad for states in memory)


def test_a_model_without_distances_has_no_memory() -> None:
    config = TransformerConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8)
    with pytest.raises(ValueError, match="this model's are 'learned'"):
        read_on(Transformer(config), Batch(torch.zeros(1, 3, dtype=torch.long)))


def test_a_classifier_reads_the_last_token_and_keeps_its_scores(tmp_path: Path) -> None:
    config = small()
    backbone, head = Transformer(config), ClassificationHead(config, 3, "last", bias=False)
    redraw(backbone, 1)
    redraw(head, 2)
    card = Card(family="transfo-xl", labels=["a", "b", "c"], problem="single")
    save(Model(backbone, card, {"classification": head}), tmp_path / "model")
    ours = load(tmp_path / "model", heads=["classification"])
    ids = torch.arange(12).view(2, 6)
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    with torch.no_grad():
        states = ours.backbone(Batch(ids, attention_mask=mask))
        scores = ours.heads["classification"](states, mask)
        alone = ours.backbone(Batch(ids[1:, :4])).last[:, -1]
        expected = alone @ ours.heads["classification"].dense.weight.T  # type: ignore[union-attr, operator]
    assert (scores[1] - expected[0]).abs().max() <= 1e-6
    assert json.loads((tmp_path / "model/config.json").read_text())["architectures"] == [
        "TransfoXLForSequenceClassification"
    ]
