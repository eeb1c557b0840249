"""The fused intent model: labels looked up by states, unknown ones, and the plain classifier inside it."""

import json
from pathlib import Path

import pytest
import torch
from small_models import small_model
from test_intents import FAST, parallel, travels

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Model
from polyseme.models.heads import ClassificationHead
from polyseme.models.label_attention import OUTSIDE_LABEL, UNKNOWN_LABEL, LabelAttention
from polyseme.models.transformer.config import TransformerConfig
from polyseme.records import from_plain
from polyseme.tasks.classification import Classification, Classifier
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.fused_intents import FusedClassifier, FusedIntents, FusedInventory
from polyseme.tasks.intent_settings import FusedIntentSettings
from polyseme.tasks.predicting import evaluate, predict
from polyseme.tasks.rows import collate

INVENTORY = FusedInventory(labels=("GO", "COME"), slots=("O", "[unknown]", "B-city", "I-city"))
CONFIG = TransformerConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8)


def task(**options: object) -> FusedIntents:
    return FusedIntents(from_plain(options, FusedIntentSettings, where="test"))


def attention(dropout: float = 0.0) -> LabelAttention:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = LabelAttention(CONFIG, num_labels=5, label_size=6, attention_size=4, dropout=dropout)
        for parameter in module.parameters():
            parameter.data += torch.randn_like(parameter)
        return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("fused")
    travels(target / "train", 160, seed=0)
    travels(target / "dev", 30, seed=1)
    small_model(target, "bert")
    return target


@pytest.fixture(scope="module")
def base(folder: Path) -> Model:
    return load(folder / "bert", fresh=["pooler"])


def test_a_state_finds_what_the_formula_says() -> None:
    module, states = attention().eval(), torch.randn(2, 5, 8)
    labels = torch.tensor([[0, 2, 3, 4, 1], [2, 0, 0, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    found = module(states, labels, mask)
    for text in range(2):
        real = int(mask[text].sum())
        vectors = module.labels.weight[labels[text, :real]]
        for place in range(real):
            query = module.query.weight @ states[text, place]
            weights = torch.softmax((vectors @ module.key.weight.T) @ query / 4**0.5, dim=0)
            expected = module.value.weight @ (weights @ vectors)
            assert torch.allclose(found[text, place], expected, atol=1e-5)


def test_labels_that_change_places_with_each_other_are_found_alike() -> None:
    module, states = attention().eval(), torch.randn(1, 6, 8)
    labels = torch.tensor([[0, 2, 3, 4, 1, 2]])
    mask = torch.tensor([[True, True, True, True, True, False]])
    order = torch.tensor([4, 2, 0, 1, 3, 5])
    assert torch.allclose(
        module(states, labels, mask), module(states, labels[:, order], mask[:, order]), atol=1e-6
    )


@pytest.mark.parametrize("label", [OUTSIDE_LABEL, UNKNOWN_LABEL])
def test_texts_without_any_known_label_are_read_and_only_padding_is_masked(label: int) -> None:
    module, states = attention().eval(), torch.randn(2, 4, 8)
    labels = torch.full((2, 4), label)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    found = module(states, labels, mask)
    expected = module.value(module.labels.weight[label])
    assert torch.allclose(found[mask], expected.expand(5, 8), atol=1e-6)
    assert torch.equal(module(states, labels.masked_fill(~mask, 3), mask)[mask], found[mask])


def test_labels_are_hidden_at_the_rate_in_training_only() -> None:
    module = attention(0.2)
    labels = torch.randint(0, 5, (200, 100))
    labelled = labels > UNKNOWN_LABEL
    torch.manual_seed(1)
    hidden = module.train()._hidden(labels)
    assert torch.equal(hidden[labels == OUTSIDE_LABEL], labels[labels == OUTSIDE_LABEL])
    assert (hidden[labelled] == OUTSIDE_LABEL).float().mean().item() == pytest.approx(0.2, abs=0.015)
    assert (hidden[labelled] == UNKNOWN_LABEL).float().mean().item() == pytest.approx(0.16, abs=0.015)
    assert torch.equal(module.eval()._hidden(labels), labels)


def test_without_values_it_is_the_plain_classifier(folder: Path, base: Model) -> None:
    examples = list(task().read(folder / "dev", labelled=True))
    fused = task().build(base.backbone, INVENTORY, reading={"pooling": "pooler"}).eval()
    assert isinstance(fused, FusedClassifier)
    plain = Classifier(base.backbone, fused.head, Classification().settings).eval()
    rows = [task().encode(e, base.tokenizer, INVENTORY, max_length=48)[0] for e in examples]
    batch = collate(rows, padding=0, config=base.backbone.config)
    with torch.no_grad():
        states = base.backbone(batch)
        fused.attention.labels.weight.normal_()
        assert not torch.allclose(fused.outputs(states, batch), plain.outputs(states, batch), atol=1e-3)
        fused.attention.value.weight.zero_()
        assert torch.equal(fused.outputs(states, batch), plain.outputs(states, batch))


def test_beside_is_one_linear_layer_over_both_states_next_to_each_other(base: Model, folder: Path) -> None:
    examples = list(task().read(folder / "dev", labelled=True))[:5]
    head = ClassificationHead(base.backbone.config, 2, "mean")
    fused = task().build(base.backbone, INVENTORY, reading={}, head=head).eval()
    rows = [task().encode(e, base.tokenizer, INVENTORY, max_length=48)[0] for e in examples]
    batch = collate(rows, padding=0, config=base.backbone.config)
    states = base.backbone(batch)
    found = fused.attention(states.last, batch.token_hints, batch.attention_mask)
    real = batch.attention_mask if batch.attention_mask is not None else torch.ones_like(batch.input_ids)
    both = torch.cat((states.last, found), dim=-1) * real[..., None]
    pooled = both.sum(dim=1) / real.sum(dim=1, keepdim=True)
    weight = torch.cat((head.dense.weight, fused.fusion.dense.weight), dim=1)
    assert torch.allclose(fused.outputs(states, batch), pooled @ weight.T + head.dense.bias, atol=1e-5)


def test_hints_reach_every_token_of_a_word_and_new_labels_are_unknown(base: Model, tmp_path: Path) -> None:
    path = parallel(tmp_path / "p", ("to mac 大", "O B-city B-star", "GO"))
    (example,) = task().read(path, labelled=True)
    (row,) = task().encode(example, base.tokenizer, INVENTORY, max_length=48)
    assert row.token_hints is not None
    assert row.token_hints.tolist() == [0, 0, 0, 2, 2, 2, 1, 0]


@pytest.mark.parametrize("fusion", ["beside", "added"])
def test_it_learns_and_its_folder_answers_as_in_training(fusion: str, folder: Path, tmp_path: Path) -> None:
    outcome = finetune(
        "fused-intents",
        train=folder / "train",
        dev=folder / "dev",
        model=folder / "bert",
        out=tmp_path / "tuned",
        epochs=4,
        fusion=fusion,
        **FAST,
    )
    report = evaluate("fused-intents", folder / "dev", model=tmp_path / "tuned", threads=1)
    assert report["accuracy"] == outcome.dev["accuracy"].mean
    answers = []
    for tokens in (1, 10_000):
        out = tmp_path / str(tokens)
        predict(folder / "dev", model=tmp_path / "tuned", out=out, batch_tokens=tokens, threads=1)
        answers.append([json.loads(line)["probabilities"] for line in out.read_text().splitlines()])
    for alone, together in zip(*answers, strict=True):
        assert alone == pytest.approx(together, abs=1e-5)


def test_slots_that_a_tagger_finds_stand_in_for_those_of_the_file(folder: Path, tmp_path: Path) -> None:
    options = {"train": folder / "train", "dev": folder / "dev", "model": folder / "bert", **FAST}
    finetune("intents", out=tmp_path / "tagger", epochs=3, **options)
    own = task(tagger=str(tmp_path / "tagger"))
    found = [e.tagged.entities for e in own.read(folder / "dev", labelled=True)]
    predict(folder / "dev", model=tmp_path / "tagger", out=tmp_path / "p", threads=1)
    said = [json.loads(line)["slots"] for line in (tmp_path / "p").read_text().splitlines()]
    assert [[(e.type, e.start, e.end) for e in one] for one in found] == [
        [(slot["type"], slot["start"], slot["end"]) for slot in one] for one in said
    ]
    assert any(found)
