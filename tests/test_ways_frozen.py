"""Features of a frozen network: the right layers, mixed rightly, computed once, and the network untouched."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from small_models import small_model
from test_finetuning import reviews

from polyseme.checkpoints.loading import load
from polyseme.errors import PolysemeWarning, SettingsError
from polyseme.integrity import write_checked
from polyseme.models.batch import Batch
from polyseme.tasks.finetuning import Outcome, finetune
from polyseme.tasks.predicting import evaluate
from polyseme.tasks.rows import collate
from polyseme.tasks.task import Row
from polyseme.tasks.ways.extractor import Cache, Extractor
from polyseme.tasks.ways.layers import FrozenLayers, ScalarMix
from polyseme.tasks.ways.readers import READERS
from polyseme.tasks.ways.settings import FeatureSettings

SMALL = {"filters": 8, "lstm_size": 12, "lstm_layers": 1}
SIX = ("0", "-2", "-1", "weighted:-3:-1", "-3:-1", "weighted:1:-1")
"""BERT's table, for a model of three layers."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("frozen")
    reviews(target / "train.tsv", 96, seed=0)
    reviews(target / "dev.tsv", 32, seed=1)
    small_model(target, "bert", dropout=0.3, attention_dropout=0.3)
    return target


def tuned(folder: Path, out: Path | None, **options: object) -> Outcome:
    return finetune(
        "classification",
        train=folder / "train.tsv",
        dev=folder / "dev.tsv",
        model=folder / "bert",
        out=out,
        **{
            "way": "frozen",
            "epochs": 6,
            "threads": 1,
            "precision": "fp32",
            "head_learning_rate": 0.01,
            **SMALL,
            **options,
        },
    )


def test_a_scalar_mix_is_the_sum_of_the_published_equation() -> None:
    torch.manual_seed(0)
    layers = [torch.randn(2, 5, 4) for _ in range(3)]
    mix = ScalarMix(3)
    assert torch.allclose(mix(layers), sum(layers) / 3, atol=1e-6)
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([0.3, -1.0, 2.0]))
        mix.scale.fill_(1.7)
        powers = [float(np.exp(w)) for w in (0.3, -1.0, 2.0)]
        expected = torch.zeros(2, 5, 4)
        for power, states in zip(powers, layers, strict=True):
            expected += 1.7 * power / sum(powers) * states
        assert torch.allclose(mix(layers), expected, atol=1e-6)


def test_the_choices_read_the_layers_that_they_name(folder: Path) -> None:
    """Layer 0 is the embeddings' output; a sum over all layers leaves it out."""
    backbone = load(folder / "bert").backbone
    batch = Batch(torch.randint(5, 90, (3, 9)))
    states = backbone(batch, every_layer=True).layers
    expected = {
        "0": states[0],
        "-2": states[2],
        "-1": states[3],
        "-3:-1": torch.cat(states[1:], dim=-1),
        "sum:1:-1": states[1] + states[2] + states[3],
        "mean:0:1": (states[0] + states[1]) / 2,
    }
    for written, tensor in expected.items():
        (found,) = Extractor(backbone, FrozenLayers(written, num_layers=3))(batch)
        assert torch.allclose(found, tensor, atol=1e-6), written
    found = Extractor(backbone, FrozenLayers("weighted:1:-1", num_layers=3))(batch)
    assert all(torch.equal(a, b) for a, b in zip(found, states[1:], strict=True))


@pytest.mark.parametrize("written", ["-1", "-2:-1", "weighted:0:-1"])
def test_cached_features_equal_computed_ones(folder: Path, tmp_path: Path, written: str) -> None:
    model, rng = load(folder / "bert"), np.random.default_rng(0)
    config = model.backbone.config
    rows = [Row(rng.integers(5, 90, n).astype(np.int32)) for n in (1, 4, 9, 9, 30, 2)]
    rows.append(Row(rows[2].input_ids, np.array([0] * 4 + [1] * 5, np.int32)))
    extractor = Extractor(model.backbone, FrozenLayers(written, num_layers=3))
    options = {"padding": 0, "config": config, "batch_tokens": 40, "device": torch.device("cpu")}

    def cache(of: list[Row]) -> Cache:
        made = Cache(extractor, tmp_path, precision="fp32", stored="fp32")
        made.fill(of, **options)
        return made

    cached = cache(rows)
    for chosen in ([0, 4], [2, 6], [3, 1, 5], [6]):
        batch = collate([rows[n] for n in chosen], padding=0, config=config)
        real = batch.attention_mask if batch.attention_mask is not None else batch.input_ids >= 0
        for ours, theirs in zip(cached(batch), extractor(batch), strict=True):
            assert torch.allclose(ours[real], theirs[real], atol=1e-5)
    (file,) = tmp_path.glob("*.bin")
    content = file.read_bytes()
    # A killed call leaves more bytes than it noted; the next one writes them anew.
    note = file.with_suffix(".json")
    written_before = json.loads(note.read_text())
    size = written_before["bytes"] * 30 // 64
    found = {"batches": 1, "bytes": size, "xxh3": xxhash.xxh3_128_hexdigest(content[:size])}
    write_checked(note, json.dumps(found).encode())
    file.write_bytes(content[: len(content) // 2] + b"broken")
    cache(rows)
    assert file.read_bytes() == content
    for damaged in (note, file):
        whole = damaged.read_bytes()
        damaged.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.warns(PolysemeWarning, match="is damaged; its features are computed again"):
            cache(rows)
        assert damaged.read_bytes() == whole
    unknown = collate([Row(np.array([5, 6, 7], np.int32))], padding=0, config=config)
    assert torch.equal(cached(unknown)[0], extractor(unknown)[0])


@pytest.mark.parametrize("head", READERS)
def test_a_reader_does_not_see_padding_and_gives_each_token_a_state(head: str) -> None:
    torch.manual_seed(0)
    reader = READERS[head](6, FeatureSettings(**SMALL))
    states = torch.randn(2, 9, 6)
    real = torch.arange(9) < torch.tensor([[9], [5]])
    states = states.masked_fill(~real[..., None], 0.0)
    together, alone = reader(states, real), reader(states[1:, :5], real[1:, :5])
    assert together.shape == (2, 9, reader.size)
    assert torch.allclose(together[1, :5], alone[0], atol=1e-6)


def test_convolutions_equal_a_loop_over_windows() -> None:
    torch.manual_seed(0)
    reader = READERS["cnn"](6, FeatureSettings(filters=2))
    states = torch.randn(1, 7, 6)
    found = reader(states, torch.ones(1, 7, dtype=torch.bool))[0]
    column = 0
    for width, filters in zip((3, 4, 5), reader.filters, strict=True):
        for number in range(2):
            for place in range(7):
                total = filters.bias[number].clone()
                for offset in range(width):
                    if 0 <= place + offset - (width - 1) // 2 < 7:
                        total += (
                            filters.weight[number, :, offset] @ states[0, place + offset - (width - 1) // 2]
                        )
                assert torch.allclose(found[place, column], total.relu(), atol=1e-5)
            column += 1


@pytest.mark.parametrize(
    ("layers", "head"), [*((layers, "linear") for layers in SIX), ("-1", "cnn"), ("0", "bilstm")]
)
def test_the_head_learns_the_network_rests_and_the_folder_answers(
    folder: Path, tmp_path: Path, layers: str, head: str
) -> None:
    before = load(folder / "bert").backbone.state_dict()
    outcome = tuned(folder, tmp_path / "out", layers=layers, feature_head=head, seeds=(1, 2))
    after = load(tmp_path / "out").backbone.state_dict()
    assert set(before) - set(after) == {"pooler.weight", "pooler.bias"}
    assert all(torch.equal(after[name], before[name]) for name in after)
    journal = [json.loads(line) for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()]
    assert journal[5]["loss"] < journal[0]["loss"]
    report = evaluate("classification", folder / "dev.tsv", model=tmp_path / "out", threads=1)
    assert report["accuracy"] == outcome.dev["accuracy"].of_seeds[outcome.best_seed - 1]


def test_features_that_were_kept_are_not_computed_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tuned(folder, None, feature_cache=str(tmp_path))
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(kept) == 2
    monkeypatch.setattr(Extractor, "__call__", lambda *arguments: pytest.fail("computed again"))
    second = tuned(folder, None, feature_cache=str(tmp_path))
    assert first.dev == second.dev
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "-9"}, "layer -9 does not exist"),
        ({"layers": "best"}, "'best' names no layer"),
        ({"pooling": "pooler"}, "cannot pool by 'pooler'"),
        ({"lm_weight": 0.5}, "lm_weight trains the network itself"),
    ],
)
def test_what_does_not_fit_is_named(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        tuned(folder, None, **options)
