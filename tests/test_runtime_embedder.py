"""The embedder over packed rows: windows, empty and unknown texts, and every precision behind its gate."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reporters import Said
from rounding import through_a_network
from small_models import CHARACTERS, small_model

from polyseme import progress
from polyseme.checkpoints.loading import load
from polyseme.embedding.embedder import Embedder, Vectors
from polyseme.models.batch import Batch
from polyseme.models.pooling import pool
from polyseme.runtime.gate import lowest_cosine

POOLINGS = ["first", "last", "mean", "max", "mean-max", "pooler"]
ROOM = 46
"""Tokens of a text that one row of the small models holds."""


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def embedders(bert: Path) -> dict[str, Embedder]:
    return {pooling: Embedder.load(bert, threads=1, pooling=pooling) for pooling in POOLINGS}


def text(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list(CHARACTERS), length))


def near(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=through_a_network(theirs))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_texts_of_every_length_up_to_the_maximum_are_read_as_the_plain_network_reads_them(
    bert: Path, embedders: dict[str, Embedder], pooling: str
) -> None:
    model = load(bert)
    assert model.tokenizer is not None
    some = [text(length, seed=length) for length in range(ROOM + 1)]
    vectors = embedders[pooling].sentences(some)
    for vector, ids in zip(vectors, model.tokenizer.encode_batch(some), strict=True):
        row = torch.from_numpy(model.tokenizer.framed(ids).astype(np.int64))[None]
        with torch.no_grad():
            states = model.backbone(Batch(row))
        pooled = states.pooled if pooling == "pooler" else pool(states.last, None, pooling)
        assert pooled is not None
        near(vector, pooled[0].numpy())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_one_token_more_than_the_maximum_makes_two_windows(
    embedders: dict[str, Embedder], pooling: str
) -> None:
    reader = embedders[pooling]
    for length, rows in ((ROOM, 1), (ROOM + 1, 2), (3 * ROOM, 4)):
        read = reader.read([text(length), text(length)])
        assert len(read.rows) == 2 * rows
        assert read.rows.lengths.max() <= ROOM + 2
    longer = text(ROOM + 1)
    (tokens,) = reader.tokens([longer])
    assert "".join(tokens.texts) == longer
    states = embedders["mean"].tokens([longer])[0].vectors
    near(tokens.vectors, states)


@given(st.lists(st.integers(0, 130), min_size=1, max_size=12), st.randoms(), st.sampled_from(POOLINGS))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_batch_in_any_order_gives_each_text_its_own_vector(
    embedders: dict[str, Embedder], lengths: list[int], random: object, pooling: str
) -> None:
    some = [text(length, seed=length) for length in lengths]
    order = list(range(len(some)))
    random.shuffle(order)  # type: ignore[attr-defined]
    reader = embedders[pooling]
    alone = np.concatenate([reader.sentences([one]) for one in some])
    near(reader.sentences([some[n] for n in order]), alone[order])
    for one, pieces in zip(some, reader.tokens(some), strict=True):
        assert "".join(pieces.texts) == one
        near(pieces.vectors, reader.tokens([one])[0].vectors)


def test_empty_texts_and_texts_of_unknown_tokens_have_vectors(embedders: dict[str, Embedder]) -> None:
    strange = ["", " ", "\u1400", "\u1400 \u1401 \u1402" * 60, "[PAD][PAD]", "酒店"]
    for reader in embedders.values():
        vectors = reader.sentences(strange)
        assert np.isfinite(vectors).all()
        near(vectors[0], vectors[1])
        assert np.abs(vectors[0] - vectors[2]).max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "albert", "modernbert"])
@pytest.mark.parametrize("layers", ["-1", "0", "1,3", "mean:1:3"])
def test_layers_are_chosen_alike_for_texts_and_for_tokens(family: str, layers: str, tmp_path: Path) -> None:
    reader = Embedder.load(small_model(tmp_path, family), threads=1, layers=layers, pooling="max")
    some = [text(9), text(100), text(1)]
    for pieces, vector in zip(reader.tokens(some), reader.sentences(some), strict=True):
        assert pieces.vectors.shape[1] == vector.shape[0] == reader.width
        assert (pieces.vectors.max(axis=0) <= vector + through_a_network(vector)).all()


def test_texts_may_be_read_before_they_are_computed(embedders: dict[str, Embedder]) -> None:
    some = [text(length) for length in (3, 70, 0)]
    reader = embedders["mean"]
    np.testing.assert_array_equal(reader.vectors(reader.read(some)), reader.sentences(some))


@pytest.mark.parametrize("precision", ["bf16", "int8", "auto"])
def test_a_lower_precision_says_once_how_near_it_is(bert: Path, precision: str) -> None:
    some, said = [text(length, seed=length) for length in range(1, 100)], Said()
    with progress.reporting(said):
        reader = Embedder.load(bert, threads=1, precision=precision)
        first: Vectors = reader.sentences(some)
        reader.tokens(some)
        np.testing.assert_array_equal(reader.sentences(some), first)
    exact = Embedder.load(bert, threads=1).sentences(some)
    assert lowest_cosine(first, exact) >= (0.99 if precision == "int8" else 0.9998)
    assert len(said.lines) <= 1
    if reader.precision != "fp32":
        assert said.lines[0].startswith(f"{reader.precision}: cosine to fp32 at least 0.99")


def test_full_precision_says_nothing(bert: Path) -> None:
    said = Said()
    with progress.reporting(said):
        Embedder.load(bert, threads=1).sentences([text(5)])
    assert said.lines == []


def test_two_threads_give_the_vectors_of_one(bert: Path) -> None:
    some = [text(length, seed=length) for length in range(60)]
    one, two = (Embedder.load(bert, threads=threads).sentences(some) for threads in (1, 2))
    assert one.tobytes() == two.tobytes()


def test_reading_a_model_and_embedding_start_without_torchs_compiler(bert: Path) -> None:
    code = (
        "import sys; from polyseme.embedding.embedder import Embedder; "
        f"Embedder.load({str(bert)!r}, threads=1, precision='bf16').sentences(['酒店']); "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
