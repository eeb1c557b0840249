"""A compiled network gives what the plain one gives, whatever its choices and whatever is computed beside."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reporters import Said
from rounding import through_a_network
from runtime_paths import computing, needs_kernels

from polyseme import progress
from polyseme.checkpoints.formats import FORMATS
from polyseme.devices import processor
from polyseme.models.batch import Batch, States
from polyseme.models.batching import pad
from polyseme.models.pooling import POOLINGS, pool
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.records import from_plain
from polyseme.runtime.backbone import CompiledBackbone
from polyseme.runtime.encoder import CompiledEncoder, Reading, compiled
from polyseme.runtime.gate import LOWEST, Gate, lowest_cosine
from polyseme.runtime.packing import Rows
from polyseme.training.recipes import recipes, sized

CPU = torch.device("cpu")
MOST, LAYERS = 40, 3
SMALL = {
    "vocab_size": 14_000,  # more than the clusters of any recipe begin with
    "hidden_size": 32,
    "num_layers": LAYERS,
    "num_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": MOST,
}
ODD = {
    "shared, before and after": {"num_layers": 5, "distinct_layers": 2, "embedding": {"size": 8}},
    "clusters of narrow rows": {"embedding": {"adaptive": {"cutoffs": [50, 500], "divisor": 4}}},
    "windows": {
        "positions": "rotary",
        "attention": {"window": 6, "global_every": 2, "rotary": {"local_base": 100.0}},
        "type_vocab_size": 0,
    },
    "no layers": {"num_layers": 0},
    "no layers, normalised": {"num_layers": 0, "norm_position": "before", "final_norm": True},
    "padding in the middle of the vocabulary": {"embedding": {"position_offset": 6}, "padding_id": 5},
}
"""Combinations that no recipe has."""
NETWORKS = [*recipes(), *ODD]


@cache
def network(name: str, seed: int = 0) -> Transformer:
    """A random small network of a recipe, or of one of the odd combinations."""
    fields = {**ODD[name]} if name in ODD else {}
    if name in recipes():
        recipe = recipes()[name]
        fields = dict(sized(recipe, next(iter(recipe.sizes))).model)
    config = from_plain({**fields, **SMALL, **ODD.get(name, {})}, TransformerConfig, where=name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = build(config)
        for parameter in backbone.parameters():  # Fresh biases and norms would hide mistakes.
            parameter.data += torch.randn_like(parameter) * 0.1
    return backbone.eval()


def ids_of(lengths: list[int], *, seed: int = 0) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SMALL["vocab_size"], length).astype(np.int32) for length in lengths]


def plain(backbone: Transformer, ids: NDArray[np.int32], kinds: NDArray[np.int32] | None = None) -> States:
    """The plain network's states of one row alone."""
    types = None if kinds is None else torch.from_numpy(kinds.astype(np.int64))[None]
    with torch.no_grad():
        row = Batch(torch.from_numpy(ids.astype(np.int64))[None], token_type_ids=types)
        return backbone(row, every_layer=True)


def near(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    """Equal but for rounding: states without a norm may grow."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=through_a_network(theirs))


@cache
def encoder(name: str, **options: object) -> CompiledEncoder:
    return compiled(network(name), threads=1, **options)


def test_every_family_has_a_recipe_here() -> None:
    # mT5's network is that of T5 1.1.
    assert set(FORMATS) - {recipe.family for recipe in recipes().values()} <= {"mt5"}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_pooling_of_any_layers_is_the_plain_networks(name: str) -> None:
    backbone, last = network(name), network(name).config.num_layers
    rows = ids_of([*range(1, MOST + 1, 3), MOST, MOST, 2])
    states = [plain(backbone, ids) for ids in rows]
    packed = Rows.of(rows)
    choices = [(last,), (0,), tuple({0: 0, last // 2: 0, last: 0})]
    for numbers in choices:
        for how in ("join", "mean"):
            chosen = [[one.layers[number][0] for number in numbers] for one in states]
            whole = [
                torch.stack(of_row).mean(dim=0) if how == "mean" else torch.cat(of_row, dim=-1)
                for of_row in chosen
            ]
            for pooling in POOLINGS:
                ours = encoder(name, tile_tokens=100).vectors(packed, Reading(numbers, how, pooling))
                near(ours, np.stack([pool(one[None], None, pooling)[0].numpy() for one in whole]))
            near(encoder(name).states(packed, Reading(numbers, how)), torch.cat(whole).numpy())
    if backbone.config.pooler:
        pooled = [one.pooled[0].numpy() for one in states if one.pooled is not None]
        near(encoder(name).vectors(packed, Reading((last,), pooling="pooler")), np.stack(pooled))


@pytest.mark.parametrize("name", NETWORKS)
def test_without_compiled_kernels_nothing_else_is_computed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, reading = Rows.of(ids_of([*range(1, MOST + 1, 5), 2])), Reading((network(name).config.num_layers,))
    expected = encoder(name).states(rows, reading)
    monkeypatch.setattr("polyseme.runtime.states.library", lambda: None)
    near(compiled(network(name), threads=1, tile_tokens=90).states(rows, reading), expected)


@pytest.mark.parametrize("name", [name for name in NETWORKS if network(name).config.tells_segments])
def test_segments_are_told_apart(name: str) -> None:
    rows = ids_of([9, 4, MOST])
    kinds = [(np.arange(len(ids)) >= len(ids) // 2).astype(np.int32) for ids in rows]
    last = network(name).config.num_layers
    ours = encoder(name).states(Rows.of(rows, kinds), Reading((last,)))
    theirs = [plain(network(name), *pair).last[0] for pair in zip(rows, kinds, strict=True)]
    near(ours, torch.cat(theirs).numpy())
    if last:
        assert np.abs(ours - encoder(name).states(Rows.of(rows), Reading((last,)))).max() > 1e-3


@given(st.lists(st.integers(1, MOST), min_size=1, max_size=40), st.randoms(), st.integers(1, 300))
@settings(max_examples=25, deadline=None)
def test_a_row_has_the_same_vector_in_any_company(lengths: list[int], random: object, most: int) -> None:
    rows = ids_of(lengths, seed=len(lengths))
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for name in ("bert", "modernbert"):
        reading = Reading((LAYERS,), pooling="mean")
        alone = np.concatenate([encoder(name).vectors(Rows.of([ids]), reading) for ids in rows])
        other = compiled(network(name), threads=1, tile_tokens=most)
        near(other.vectors(Rows.of([rows[n] for n in order]), reading), alone[order])
        lower = compiled(network(name), precision="bf16", threads=1, tile_tokens=most)
        rough = np.concatenate([lower.vectors(Rows.of([ids]), reading) for ids in rows])
        together = lower.vectors(Rows.of([rows[n] for n in order]), reading)
        assert lowest_cosine(together, rough[order]) >= 0.9999


def test_only_the_counted_tokens_are_pooled() -> None:
    rows = ids_of([12, 5, 30])
    counted = np.asarray([[2, 9], [0, 1], [29, 30]])
    packed = replace(Rows.of(rows), counted=counted)
    for pooling in POOLINGS:
        ours = encoder("bert").vectors(packed, Reading((LAYERS,), pooling=pooling))
        for vector, ids, (begin, end) in zip(ours, rows, counted, strict=True):
            states = plain(network("bert"), ids).last[:, begin:end]
            near(vector, pool(states, None, pooling)[0].numpy())


def test_one_token_more_than_the_positions_is_refused() -> None:
    reading = Reading((LAYERS,), pooling="mean")
    assert encoder("bert").vectors(Rows.of(ids_of([MOST])), reading).shape == (1, 32)
    with pytest.raises(ValueError, match=r"a row has 41 tokens but this model reads at most 40"):
        encoder("bert").vectors(Rows.of(ids_of([3, MOST + 1])), reading)


def test_no_rows_give_no_vectors() -> None:
    reading = Reading((LAYERS,), pooling="mean-max")
    assert encoder("bert").vectors(Rows.of([]), reading).shape == (0, 64)
    assert encoder("bert").states(Rows.of([]), Reading((0, LAYERS))).shape == (0, 64)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_any_number_of_workers_gives_the_same_bytes(precision: str) -> None:
    rows = Rows.of(ids_of([int(n) for n in np.random.default_rng(5).integers(1, MOST, 90)]))
    reading = Reading((LAYERS,), pooling="mean")
    one, three = (
        compiled(network("bert"), precision=precision, threads=threads).vectors(rows, reading)
        for threads in (1, 3)
    )
    assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_lower_precisions_stay_near(name: str) -> None:
    rows = ids_of([*range(1, MOST, 4), MOST])
    reading = Reading((network(name).config.num_layers,), pooling="mean")
    exact = encoder(name).vectors(Rows.of(rows), reading)
    for precision, bound in (("bf16", 0.998), ("int8", 0.98)):
        assert (
            lowest_cosine(encoder(name, precision=precision).vectors(Rows.of(rows), reading), exact) > bound
        )


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "t5", "xlnet"])
def test_a_compiled_backbone_stands_in_for_the_plain_one(name: str) -> None:
    backbone = network(name)
    matrix, real = pad(ids_of([7, 1, MOST, 12]), padding=backbone.config.padding_id, most=MOST)
    batch = Batch(torch.from_numpy(matrix), attention_mask=torch.from_numpy(real))
    stand_in = CompiledBackbone(backbone, "fp32", threads=2, device=CPU)
    with torch.no_grad():
        ours, theirs = stand_in(batch, every_layer=True), backbone(batch, every_layer=True)
    for one, other in zip([ours.last, *ours.layers], [theirs.last, *theirs.layers], strict=True):
        assert one.shape == other.shape
        near(one[batch.attention_mask].numpy(), other[batch.attention_mask].numpy())
        assert not one[~batch.attention_mask].any()
    assert (ours.pooled is None) == (theirs.pooled is None)
    if ours.pooled is not None and theirs.pooled is not None:
        near(ours.pooled.numpy(), theirs.pooled.numpy())
    # Heads that change states before they are pooled find the pooler, and nothing else that learns.
    assert {name.partition(".")[0] for name, _ in stand_in.named_parameters()} <= {"pooler"}


def test_a_compiled_backbone_refuses_what_it_does_not_read() -> None:
    stand_in = CompiledBackbone(network("bert"), "fp32", threads=1, device=CPU)
    ids = torch.ones((2, 4), dtype=torch.int64)
    with pytest.raises(ValueError, match="leave document_ids, position_ids and decoder_input_ids out"):
        stand_in(Batch(ids, document_ids=ids))
    for left in ([0, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]):
        mask = torch.tensor([left, [1, 1, 1, 1]], dtype=torch.bool)
        with pytest.raises(ValueError, match="padded at their end only"):
            stand_in(Batch(ids, attention_mask=mask))


def gate(name: str, precision: str, instructions: set[str]) -> tuple[str, list[str]]:
    """The precision that is kept for a network on a processor with these instructions, and what was said."""
    here, said = replace(processor(), offered=frozenset(instructions), isa_limit=None), Said()
    with progress.reporting(said):
        made = Gate(network(name), precision, threads=1, device=CPU, on=here)  # type: ignore[arg-type]
        rows = Rows.of(ids_of([*range(1, MOST)]))
        for _ in range(2):
            made.settle(rows, Reading((LAYERS,), pooling="mean"))
    assert made.encoder.vectors(rows, Reading((LAYERS,), pooling="mean")).shape == (MOST - 1, 32)
    return made.encoder.precision, said.lines


MODERN = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16"}


@pytest.mark.parametrize(
    ("asked", "instructions", "kept"),
    [
        ("auto", MODERN, "bf16"),
        ("bf16", MODERN, "bf16"),
        ("int8", MODERN, "int8"),
        ("fp32", MODERN, "fp32"),
        ("auto", {"avx2"}, "fp32"),
        ("bf16", {"avx2"}, "fp32"),
        ("int8", {"sse4_2"}, "fp32"),
        ("int8", {"avx2", "avx512f", "avx512_vnni"}, "int8"),
    ],
)
def test_the_processor_decides_what_is_possible(asked: str, instructions: set[str], kept: str) -> None:
    precision, lines = gate("bert", asked, instructions)
    assert precision == kept
    if kept != "fp32":
        (line,) = lines
        assert line.startswith(f"{kept}: cosine to fp32 at least 0.99")
        assert line.endswith("on 32 of the texts")
    elif asked in ("bf16", "int8"):
        assert lines == [f"{asked} is not faster than fp32 on this CPU; using fp32"]
    else:
        assert lines == []


@needs_kernels
def test_within_avx2_eight_bits_need_our_kernels() -> None:
    assert gate("bert", "int8", {"avx2"})[0] == "int8"
    with computing("portable"):
        assert gate("bert", "int8", {"avx2"})[0] == "fp32"


def test_a_precision_that_is_too_rough_is_left_with_a_warning() -> None:
    precision, lines = gate("t5", "bf16", MODERN)  # Its states have no norm before the end, and grow.
    assert precision == "fp32"
    (line,) = lines
    assert line.startswith("bf16 is not good enough for this model: cosine to fp32 at least 0.99")
    assert line.endswith("below 0.9999; fp32 is used instead")


def test_an_eight_bit_network_that_is_too_rough_becomes_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOWEST, "int8", 0.999999)
    assert gate("bert", "int8", MODERN)[0] == "bf16"
    assert gate("bert", "int8", MODERN - {"avx512_bf16"})[0] == "fp32"


def test_the_lowest_cosine_is_that_of_the_worst_row() -> None:
    exact = np.eye(3, dtype=np.float32)
    assert lowest_cosine(exact * 5, exact) == pytest.approx(1.0)
    assert lowest_cosine(exact + np.float32([[0, 0, 0], [1, 0, 0], [0, 0, 0]]), exact) == pytest.approx(
        0.5**0.5
    )
    zeros = np.zeros((1, 3), dtype=np.float32)
    assert lowest_cosine(zeros, zeros) == 1.0
    assert lowest_cosine(zeros, exact[:1]) == 0.0
