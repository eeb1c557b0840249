"""Distillation: soft targets, states and scores against their definitions, and which tokens are hidden."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import small_store
from foreign_models import foreign
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from polyseme.checkpoints.loading import load
from polyseme.models.batch import Batch
from polyseme.models.heads import MaskedLMHead
from polyseme.models.soft_targets import Scorer, soft_divergence
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.looking import attention_scores
from polyseme.models.transformer.model import Transformer
from polyseme.objectives.contract import Companion
from polyseme.objectives.distillation import (
    Distillation,
    DistillationSettings,
    draw_by_weight,
    spread,
    take_weights,
)
from polyseme.objectives.hidden_distillation import (
    HiddenDistillation,
    HiddenDistillationSettings,
    compare_scores,
    map_layers,
)
from polyseme.objectives.rows import lay_out
from polyseme.seeding import RowGenerator
from polyseme.text.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("distillation"))


def config(store: Store, **changes: Any) -> TransformerConfig:
    fields = {
        "vocab_size": store.vocab_size,
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 96,
        "pooler": False,
    }
    return TransformerConfig(**(fields | changes))


def drawn(config: TransformerConfig, seed: int) -> Companion:
    """A network and its head, with every parameter redrawn."""
    torch.manual_seed(seed)
    backbone, head = Transformer(config), MaskedLMHead(config)
    with torch.no_grad():
        for module in (backbone, head):
            for parameter in module.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return Companion(backbone.eval(), {"masked-lm": head.eval()})


def batch_of(store: Store, objective: Any) -> Batch:
    samples = objective.corruption.plan(store, np.arange(store.num_documents), length=96, seed=1, epoch=0)
    chosen = np.arange(6)
    rows = lay_out(store, samples, chosen, length=96)
    arrays = objective.corruption(rows, RowGenerator(chosen, 1, "corruption", 0))
    return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def taught(
    store: Store, student: TransformerConfig, teacher: Companion, *, fresh: bool = True, **settings: Any
) -> tuple[Transformer, Distillation]:
    own = drawn(student, 1)
    objective = Distillation(DistillationSettings(**settings), student, store)
    objective.heads["masked-lm"].load_state_dict(own.heads["masked-lm"].state_dict())
    objective.adopt("teacher", teacher)
    objective.join(own.backbone, fresh=fresh)
    objective.eval()
    return own.backbone, objective


def test_the_divergence_is_that_of_the_published_code_and_its_gradient_too() -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        rows, size, wide, words = 7, 5, 6, 150_000 if seed == 0 else 11
        student = [
            torch.randn(shape, dtype=torch.float64) for shape in ((rows, size), (words, size), (words,))
        ]
        teacher = [
            torch.randn(shape, dtype=torch.float64) for shape in ((rows, wide), (words, wide), (words,))
        ]
        kept = torch.tensor([1, 1, 0, 1, 1, 1, 0], dtype=torch.float64)
        ours, theirs = ([part.clone().requires_grad_() for part in student] for _ in range(2))
        found = soft_divergence(Scorer(*ours), Scorer(*teacher), kept / kept.sum(), temperature=2.0)
        scores = F.linear(*theirs[:2], theirs[2])[kept > 0]
        wanted = F.kl_div(
            F.log_softmax(scores / 2, dim=-1),
            F.softmax(F.linear(*teacher)[kept > 0] / 2, dim=-1),
            reduction="batchmean",
        )
        wanted = wanted * 4
        assert (found - wanted).abs().item() < 1e-9
        (found * 3).backward()
        (wanted * 3).backward()
        for mine, reference in zip(ours, theirs, strict=True):
            assert mine.grad is not None
            assert reference.grad is not None
            assert (mine.grad - reference.grad).abs().max() < 1e-9


def test_the_teacher_is_never_taught() -> None:
    parts = [torch.randn(3, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True), None]
    student = Scorer(torch.randn(3, 4, requires_grad=True), torch.randn(9, 4), None)
    soft_divergence(student, Scorer(*parts), torch.full((3,), 1 / 3), temperature=1.0).backward()
    assert student.hidden.grad is not None
    assert parts[0] is not None
    assert parts[0].grad is None


def test_a_copy_of_the_teacher_has_nothing_to_learn_but_the_hidden_words(store: Store) -> None:
    teacher = drawn(config(store), 0)
    backbone, objective = taught(store, config(store), teacher, begin="teacher")
    loss = objective(backbone, batch_of(store, objective))
    assert loss.parts["soft-targets"] == 0
    assert loss.parts["cosine"].abs() < 1e-6
    assert torch.allclose(loss.total, 2 * loss.parts["masked-lm"], atol=1e-5)


@pytest.mark.parametrize("hidden_only", [False, True])
def test_the_loss_is_five_two_one_over_the_kept_tokens(store: Store, hidden_only: bool) -> None:
    teacher = drawn(config(store), 0)
    student = config(store, num_layers=2, type_vocab_size=0)
    backbone, objective = taught(store, student, teacher, hidden_only=hidden_only)
    batch = batch_of(store, objective)
    loss = objective(backbone, batch)
    assert torch.allclose(
        loss.total,
        5 * loss.parts["soft-targets"] + 2 * loss.parts["masked-lm"] + loss.parts["cosine"],
        atol=1e-5,
    )
    assert batch.predicted is not None
    assert batch.attention_mask is not None
    kept = batch.attention_mask.flatten()
    if hidden_only:
        kept = torch.zeros_like(kept).index_fill(0, batch.predicted, True)
    states = [network(batch).last.flatten(0, 1)[kept] for network in (backbone, teacher.backbone)]
    heads = objective.heads["masked-lm"], teacher.heads["masked-lm"]
    tables = [network.embeddings.tokens.weight for network in (backbone, teacher.backbone)]
    ours, theirs = (head(s, t) for head, s, t in zip(heads, states, tables, strict=True))
    divergence = F.kl_div(F.log_softmax(ours / 2, -1), F.softmax(theirs / 2, -1), reduction="batchmean") * 4
    assert torch.allclose(loss.parts["soft-targets"], divergence, rtol=1e-4)
    if not hidden_only:
        angle = F.cosine_embedding_loss(*states, torch.ones(len(states[0])))
        assert torch.allclose(loss.parts["cosine"], angle, rtol=1e-4)


def test_every_other_layer_of_the_teacher_the_embeddings_and_the_head_begin_a_student(store: Store) -> None:
    assert spread(12, 6) == [0, 2, 4, 7, 9, 11]
    assert spread(4, 2) == [0, 3]
    assert spread(3, 1) == [0]
    teacher = drawn(config(store), 0)
    student = config(store, num_layers=2, type_vocab_size=0)
    backbone, objective = taught(store, student, teacher, begin="teacher")
    for number, theirs in ((0, 0), (1, 3)):
        for name, tensor in backbone.layers[number].state_dict().items():
            assert torch.equal(tensor, teacher.backbone.layers[theirs].state_dict()[name])
    for name, tensor in backbone.embeddings.state_dict().items():
        assert torch.equal(tensor, teacher.backbone.embeddings.state_dict()[name])
    assert torch.equal(objective.heads["masked-lm"].bias, teacher.heads["masked-lm"].bias)  # type: ignore[arg-type]
    backbone, _ = taught(store, student, teacher, begin="teacher", fresh=False)
    assert not torch.equal(backbone.embeddings.tokens.weight, teacher.backbone.embeddings.tokens.weight)


def test_a_student_of_another_shape_is_refused_in_one_line(store: Store) -> None:
    teacher = drawn(config(store), 0)
    narrow = config(store, hidden_size=16)
    with pytest.raises(ValueError, match=r"states have 16 numbers and the teacher's 32, .*cosine_weight = 0"):
        taught(store, narrow, teacher)
    with pytest.raises(ValueError, match=r"tokens.weight is \[\d+, 16\] and the .* is \[\d+, 32\], .*begin"):
        taught(store, narrow, teacher, cosine_weight=0.0, begin="teacher")
    taught(store, narrow, teacher, cosine_weight=0.0)
    with pytest.raises(ValueError, match=r"feedforward.gate.weight is .* is not there"):
        take_weights(Transformer(config(store, gated=True)), teacher.backbone)


def test_tokens_are_hidden_without_replacement_in_proportion_to_their_weights() -> None:
    weights = np.tile([0.0, 1.0, 2.0, 4.0, 8.0, 0.0], (60_000, 1))
    rng = RowGenerator(np.arange(len(weights)), 0)
    hidden = draw_by_weight(weights, np.full(len(weights), 1), rng)
    shares = hidden.mean(axis=0)
    assert np.abs(shares - weights[0] / 15).max() < 4 * 0.5 / np.sqrt(len(weights))
    hidden = draw_by_weight(weights, np.full(len(weights), 2), rng)
    assert (hidden.sum(axis=1) == 2).all()
    first = weights[0] / 15
    second = [
        sum(first[j] * w / (15 - weights[0, j]) for j in range(6) if j != i) for i, w in enumerate(weights[0])
    ]
    assert np.abs(hidden.mean(axis=0) - first - second).max() < 4 * 0.5 / np.sqrt(len(weights))
    everything = draw_by_weight(weights[:5], np.full(5, 9), RowGenerator(np.arange(5), 0))
    assert np.array_equal(everything, weights[:5] > 0)


def test_rare_tokens_are_hidden_as_count_to_the_minus_point_seven_says(store: Store) -> None:
    objective = Distillation(DistillationSettings(), config(store), store)
    counts = np.maximum(store.counts.astype(np.float64), 1)
    assert np.allclose(objective.corruption.weights, counts**-0.7)
    samples = objective.corruption.plan(store, np.arange(store.num_documents), length=96, seed=1, epoch=0)
    chosen = np.arange(len(samples))
    rows = lay_out(store, samples, chosen, length=96)
    hidden = np.zeros(rows.input_ids.size, dtype=bool)
    arrays = objective.corruption(rows, RowGenerator(chosen, 1, "corruption", 0))
    hidden[arrays["predicted"]] = True
    hidden = hidden.reshape(rows.input_ids.shape)
    assert not hidden[~rows.real].any()
    assert np.array_equal(hidden.sum(axis=1), np.ceil(rows.lengths * 0.15))
    common = counts[rows.input_ids] > np.median(counts[rows.input_ids[rows.real]])
    assert hidden[rows.real & common].mean() < 0.6 * hidden[rows.real & ~common].mean()
    for number in (0, 5):
        alone = lay_out(store, samples, np.array([number]), length=96)
        found = objective.corruption(alone, RowGenerator(alone.samples, 1, "corruption", 0))
        assert np.array_equal(found["input_ids"][0], arrays["input_ids"][number])


@pytest.mark.parametrize("before", [False, True])
def test_the_scores_are_those_that_the_layers_own_attention_takes_its_softmax_of(before: bool) -> None:
    more: dict[str, Any] = {"norm_position": "before", "final_norm": True, "positions": "rotary"}
    shape = {"vocab_size": 50, "hidden_size": 16, "num_layers": 3, "num_heads": 2, "intermediate_size": 24}
    network = drawn(TransformerConfig(**shape, **(more if before else {})), 3).backbone.double()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    batch = Batch(torch.randint(0, 50, (2, 5)), attention_mask=mask)
    states = network(batch, every_layer=True)
    scores = attention_scores(network, batch, states, range(3))
    for number, layer in enumerate(network.layers):
        attention = layer.attention
        read = layer.attention_norm(states.layers[number]) if before else states.layers[number]
        value = attention.value(read).unflatten(-1, (2, -1)).transpose(1, 2)
        gathered = (scores[number].softmax(-1) @ value).transpose(1, 2).flatten(2)
        seen, turn = network.views[0](batch)
        assert torch.allclose(attention.output(gathered), attention(read, seen, turn), atol=1e-12)


def test_the_scores_are_berts(tmp_path: Path) -> None:
    theirs = foreign("BertModel", 5, attn_implementation="eager").double()
    probabilities = theirs(
        torch.arange(5, 15)[None], attention_mask=torch.ones(1, 10), output_attentions=True
    ).attentions
    theirs.save_pretrained(tmp_path)
    network = load(tmp_path, dtype=torch.float64).backbone
    batch = Batch(torch.arange(5, 15)[None])
    found = attention_scores(network, batch, network(batch, every_layer=True), range(2))
    for ours, reference in zip(found, probabilities, strict=True):
        assert torch.allclose(ours.softmax(-1), reference, atol=1e-9)


def test_a_published_tinybert_is_read_without_the_layers_of_its_training(tmp_path: Path) -> None:
    model = foreign("BertModel", 5)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {f"fit_denses.{i}.{name}": torch.zeros(3) for i in range(3) for name in ("weight", "bias")}
    save_file(tensors | {"fit_dense.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    found = load(tmp_path).backbone.embeddings.tokens.weight
    assert torch.equal(found, model.embeddings.word_embeddings.weight)


def test_twelve_layers_teach_four_by_reps_0_3_6_9_12_and_attention_2_5_8_11() -> None:
    found = map_layers(12, 4)
    assert found.states == (0, 3, 6, 9, 12)
    assert found.scores == (2, 5, 8, 11)
    assert map_layers(12, 6).scores == (1, 3, 5, 7, 9, 11)
    with pytest.raises(
        ValueError, match="the teacher's 12 layers do not share out evenly among the student's 5"
    ):
        map_layers(12, 5)


def imitating(
    store: Store, student: TransformerConfig, teacher: Companion, **settings: Any
) -> tuple[Transformer, HiddenDistillation]:
    backbone = drawn(student, 1).backbone
    objective = HiddenDistillation(HiddenDistillationSettings(**settings), student, store)
    objective.adopt("teacher", teacher)
    objective.join(backbone, fresh=True)
    return backbone, objective.eval()


def test_a_copy_of_the_teacher_has_no_inner_loss_at_all(store: Store) -> None:
    teacher = drawn(config(store), 0)
    backbone, objective = imitating(store, config(store), teacher)
    backbone.load_state_dict(teacher.backbone.state_dict())
    loss = objective(backbone, batch_of(store, objective))
    assert loss.total == 0
    assert set(loss.parts) == {"states", "scores"}


def test_the_inner_loss_of_full_rows_is_that_of_the_published_code(store: Store) -> None:
    teacher = drawn(config(store), 0)
    backbone, objective = imitating(store, config(store, num_layers=2, hidden_size=16), teacher)
    batch = Batch(torch.randint(5, store.vocab_size, (3, 20)))
    ours, theirs = (network(batch, every_layer=True) for network in (backbone, teacher.backbone))
    assert isinstance(objective.fit, torch.nn.Linear)
    states = sum(F.mse_loss(objective.fit(ours.layers[i]), theirs.layers[2 * i]) for i in range(3))
    taken = attention_scores(teacher.backbone, batch, theirs, (1, 3))
    given = attention_scores(backbone, batch, ours, (0, 1))
    zero = torch.zeros(())
    scores = sum(
        F.mse_loss(torch.where(s <= -1e2, zero, s), torch.where(t <= -1e2, zero, t))
        for s, t in zip(given, taken, strict=True)
    )
    loss = objective(backbone, batch)
    assert torch.allclose(loss.parts["states"], states, rtol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(loss.parts["scores"], scores, rtol=1e-5)  # type: ignore[arg-type]


def test_packing_changes_nothing_that_is_imitated(store: Store) -> None:
    teacher = drawn(config(store), 0)
    backbone, objective = imitating(store, config(store, num_layers=2), teacher)
    ids = torch.randint(5, store.vocab_size, (2, 12))
    apart = Batch(ids)
    packed = Batch(
        torch.cat([ids.flatten(), torch.zeros(6, dtype=torch.long)])[None],
        attention_mask=(torch.arange(30) < 24)[None],
        document_ids=torch.tensor([[1] * 12 + [2] * 12 + [0] * 6]),
        position_ids=torch.cat([torch.arange(12), torch.arange(12), torch.zeros(6, dtype=torch.long)])[None],
    )
    for part in ("states", "scores"):
        one, other = (objective(backbone, batch).parts[part] for batch in (apart, packed))
        assert torch.allclose(one, other, rtol=1e-5)


def test_scores_up_to_minus_a_hundred_count_as_zero() -> None:
    scores = torch.tensor([[[[-101.0, 2.0], [-torch.inf, 1.0]]]])
    batch = Batch(torch.zeros(1, 2, dtype=torch.long))
    assert compare_scores([scores], [torch.zeros(1, 1, 2, 2)], batch) == pytest.approx((0 + 4 + 1) / 3)


def test_students_whose_inside_does_not_compare_are_refused(store: Store) -> None:
    teacher = drawn(config(store), 0)
    with pytest.raises(ValueError, match=r"2 attention heads and the teacher 4, .* or scores_weight = 0"):
        imitating(store, config(store, num_heads=2), teacher)
    imitating(store, config(store, num_heads=2), teacher, scores_weight=0.0)
    with pytest.raises(
        ValueError, match="the teacher's 4 layers do not share out evenly among the student's 3"
    ):
        imitating(store, config(store, num_layers=3), teacher)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (DistillationSettings, {"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        (DistillationSettings, {"cosine_weight": -1.0}, "cosine_weight must be at least 0, got -1.0"),
        (DistillationSettings, {"rate": 0.0}, "rate must lie between 0 and 1, got 0.0"),
        (HiddenDistillationSettings, {"scores_weight": 0.0, "states_weight": 0.0}, "one of them above it"),
    ],
)
def test_wrong_settings_are_refused(settings: Any, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**options)
