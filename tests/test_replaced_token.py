"""Replaced-token detection: what is hidden, what is filled in, and who learns from what."""

import numpy as np
import pytest
import torch
from corpora import small_store

from polyseme.models.batch import Batch
from polyseme.models.transformer.config import EmbeddingChoices, TransformerConfig
from polyseme.models.transformer.model import Transformer
from polyseme.objectives.replaced_token import (
    ReplacedToken,
    ReplacedTokenSettings,
    draw,
    draw_repeatedly,
    fill_in,
    generator_config,
)
from polyseme.objectives.rows import Rows, lay_out
from polyseme.objectives.segments import divide, fill_rows, plan_segments
from polyseme.seeding import RowGenerator
from polyseme.text.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("electra"))


def config(store: Store, **changes: object) -> TransformerConfig:
    fields = {
        "vocab_size": store.vocab_size,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "pooler": False,
        "embedding": EmbeddingChoices(size=16),
    }
    return TransformerConfig(**(fields | changes))  # type: ignore[arg-type]


def pair(store: Store, **settings: object) -> tuple[Transformer, ReplacedToken]:
    torch.manual_seed(0)
    backbone = Transformer(config(store))
    objective = ReplacedToken(ReplacedTokenSettings(**settings), backbone.config, store)  # type: ignore[arg-type]
    objective.join(backbone, fresh=True)
    return backbone, objective


def rows_of(
    store: Store, objective: ReplacedToken, *, length: int = 128
) -> tuple[Rows, dict[str, np.ndarray]]:
    documents = np.arange(store.num_documents)
    samples = objective.corruption.plan(store, documents, length=length, seed=1, epoch=0)
    chosen = np.arange(len(samples))
    rows = lay_out(store, samples, chosen, length=length)
    return rows, objective.corruption(rows, RowGenerator(chosen, 1, "corruption", 0))


def batch_of(store: Store, objective: ReplacedToken) -> Batch:
    _, arrays = rows_of(store, objective)
    return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def full_rows(count: int) -> np.ndarray:
    """Rows of 128 tokens, of which 125 are text: one pair with its three special tokens."""
    units = np.concatenate([[-1], np.arange(62), [-1], np.arange(62, 125), [-1]])
    return np.tile(units, (count, 1))


def test_with_replacement_17_7_of_19_positions_differ_which_is_13_8_percent_of_a_row() -> None:
    units = full_rows(20_000)
    hidden = draw_repeatedly(units, np.full(len(units), 19), RowGenerator(np.arange(len(units)), 0))
    distinct = hidden.sum(axis=1)
    expected = 125 * (1 - (1 - 1 / 125) ** 19)
    assert abs(expected - 17.7) < 0.05
    assert abs(distinct.mean() - expected) < 4 * distinct.std() / np.sqrt(len(units))
    assert abs(distinct.mean() / 128 - 0.138) < 0.0005
    assert not hidden[units < 0].any()
    share = hidden.sum(axis=0)[units[0] >= 0] / len(units)
    assert abs(share - share.mean()).max() < 5 * np.sqrt(share.mean() / len(units)), "every token alike"


def test_the_room_of_the_published_code_never_cuts_the_share_of_a_row(store: Store) -> None:
    corruption = pair(store)[1].corruption
    for length in (128, 256, 512):
        budget = corruption.masking.budget(np.arange(1, length + 1), progress=0.0)
        assert budget.max() <= int((0.15 + 0.005) * length)
    assert corruption.masking.budget(np.array([128, 512]), progress=0.0).tolist() == [19, 77]


@pytest.mark.parametrize(
    "settings", [{}, {"repeated": True}, {"unit": "word"}, {"rate": 0.25}, {"rows": "segments"}]
)
def test_blanks_are_mask_tokens_or_what_they_were_and_stand_in_text_only(
    store: Store, settings: dict[str, object]
) -> None:
    _, objective = pair(store, **settings)
    rows, arrays = rows_of(store, objective)
    hidden = np.zeros(rows.input_ids.size, dtype=bool)
    hidden[arrays["predicted"]] = True
    hidden = hidden.reshape(rows.input_ids.shape)
    changed = arrays["input_ids"]
    assert not hidden[~rows.real].any()
    assert (hidden.sum(axis=1) <= np.maximum(1, np.rint(rows.lengths * settings.get("rate", 0.15)))).all()
    assert np.array_equal(changed[~hidden], rows.input_ids[~hidden])
    mask = changed[hidden] == store.tokenizer.mask_id
    assert np.array_equal(changed[hidden][~mask], rows.input_ids[hidden][~mask]), "no random token"
    assert abs(mask.mean() - 0.85) < 3 * np.sqrt(0.85 * 0.15 / mask.size)
    assert len(arrays["lots"]) == len(arrays["predicted"])


def test_guesses_are_drawn_with_the_softmax_probabilities() -> None:
    torch.manual_seed(0)
    logits = torch.randn(7) * 2
    logits[3] = -torch.inf
    lots = torch.from_numpy(RowGenerator(np.arange(200_000), 0).random(1)[:, 0])
    drawn = draw(logits.expand(len(lots), -1), lots)
    counts = torch.bincount(drawn, minlength=7) / len(lots)
    assert counts[3] == 0
    assert (counts - logits.softmax(-1)).abs().max() < 4 * 0.5 / len(lots) ** 0.5
    extremes = draw(logits.expand(2, -1), torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64))
    assert extremes.tolist() == [0, 6]


def test_a_right_guess_is_an_original_token() -> None:
    batch = Batch(
        input_ids=torch.tensor([[2, 4, 11, 4, 3]]),
        predicted=torch.tensor([1, 2, 3]),
        labels=torch.tensor([10, 11, 12]),
    )
    filled, wrong = fill_in(batch, torch.tensor([10, 19, 18]))
    assert filled.tolist() == [[2, 10, 19, 18, 3]]
    assert wrong.tolist() == [[False, False, True, True, False]]


def test_the_whole_embedding_block_is_one(store: Store) -> None:
    backbone, objective = pair(store)
    ours, theirs = backbone.embeddings.state_dict(), objective.generator.embeddings.state_dict()
    assert {name: tensor.data_ptr() for name, tensor in ours.items()} == {
        name: tensor.data_ptr() for name, tensor in theirs.items()
    }
    assert {name.split(".")[0] for name in ours} == {"tokens", "positions", "token_types", "norm"}
    assert objective.generator.projection.weight.data_ptr() != backbone.projection.weight.data_ptr()


def test_the_detection_teaches_the_generator_nothing_and_the_guessing_the_backbone_nothing(
    store: Store,
) -> None:
    body = [name for name, _ in pair(store)[1].generator.named_parameters() if "embeddings." not in name]
    for settings in ({"generator_weight": 0.0}, {"weight": 0.0}):
        backbone, objective = pair(store, **settings)
        objective(backbone, batch_of(store, objective)).total.backward()
        of_generator = dict(objective.generator.named_parameters())
        silent = [name for name in body if not _moved(of_generator[name])]
        of_backbone = {n: p for n, p in backbone.named_parameters() if "embeddings." not in n}
        if "weight" in settings:
            assert not silent
            assert not any(_moved(p) for p in of_backbone.values())
        else:
            assert silent == body
            assert all(_moved(p) for n, p in of_backbone.items() if not n.endswith("key.bias"))
        assert _moved(backbone.embeddings.tokens.weight), "both teach the embeddings"


def _moved(parameter: torch.nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def test_the_loss_is_the_guessing_plus_fifty_times_the_detection_over_all_real_tokens(store: Store) -> None:
    backbone, objective = pair(store)
    backbone.eval()
    objective.eval()
    batch = batch_of(store, objective)
    loss = objective(backbone, batch)
    assert torch.allclose(loss.total, loss.parts["masked-lm"] + 50 * loss.parts["replaced-token"])
    scores, truth = loss.decisions["replaced-token"]
    assert batch.attention_mask is not None
    assert len(scores) == int(batch.attention_mask.sum())
    each = torch.nn.functional.softplus(torch.where(truth > 0, -scores, scores))
    assert torch.allclose(each.mean(), loss.parts["replaced-token"], atol=1e-6)
    assert batch.labels is not None
    assert 0.5 * len(batch.labels) < truth.sum() <= len(batch.labels), "a fresh generator guesses wrong"


def test_a_fixed_batch_has_fixed_figures_whatever_torch_draws(store: Store) -> None:
    backbone, objective = pair(store)
    backbone.eval()
    objective.eval()
    batch = batch_of(store, objective)
    torch.manual_seed(1)
    first = objective(backbone, batch).total
    torch.manual_seed(2)
    assert torch.equal(objective(backbone, batch).total, first)


def test_the_generator_has_a_share_of_the_sizes_and_all_of_the_depth(store: Store) -> None:
    small = generator_config(config(store, hidden_size=256, intermediate_size=1024), 0.25)
    assert (small.hidden_size, small.intermediate_size, small.num_heads, small.num_layers) == (64, 256, 1, 2)
    assert small.embedding_size == 16
    base = config(store, hidden_size=48, embedding=EmbeddingChoices())
    assert generator_config(base, 1.0).embedding.size is None
    assert generator_config(base, 0.5).embedding.size == 48
    with pytest.raises(
        ValueError, match=r"generator_size 0\.33 of this model does not come out even: hidden"
    ):
        generator_config(config(store, num_heads=16), 0.33)


def test_a_generator_with_other_embeddings_is_refused(store: Store) -> None:
    backbone, objective = pair(store)
    objective.adopt("generator", pair(store)[1].companions()["generator"])
    objective.join(backbone, fresh=True)  # drawn from the same seed: the same embeddings
    other, theirs = pair(store)
    with torch.no_grad():
        other.embeddings.norm.weight[0] = 2.0
    objective.adopt("generator", theirs.companions()["generator"])
    with pytest.raises(ValueError, match=r"the generator's embeddings.norm.weight is not the backbone's"):
        objective.join(backbone, fresh=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.0}, "rate must lie between 0 and 1, got 1.0"),
        ({"masked": 1.1}, "masked is a share from 0 to 1, got 1.1"),
        ({"generator_size": 0.0}, "generator_size is a share above 0 and up to 1, got 0.0"),
        ({"repeated": True, "unit": "word"}, "repeated draws single tokens"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReplacedTokenSettings(**options)  # type: ignore[arg-type]


def test_a_row_is_corrupted_alike_in_any_company(store: Store) -> None:
    for settings in ({}, {"repeated": True}, {"rows": "segments"}):
        _, objective = pair(store, **settings)
        rows, arrays = rows_of(store, objective)
        samples = objective.corruption.plan(
            store, np.arange(store.num_documents), length=128, seed=1, epoch=0
        )
        row_of = arrays["predicted"] // rows.input_ids.shape[1]
        for number in range(len(samples)):
            alone = lay_out(store, samples, np.array([number]), length=128)
            found = objective.corruption(alone, RowGenerator(alone.samples, 1, "corruption", 0))
            width = alone.input_ids.shape[1]
            assert np.array_equal(found["input_ids"][0], arrays["input_ids"][number, :width])
            assert np.array_equal(found["lots"], arrays["lots"][row_of == number])


def test_segments_are_running_text_of_one_document_that_fits_the_row(store: Store) -> None:
    documents = np.arange(store.num_documents)
    single = short = rows = 0
    for epoch in range(40):
        samples = plan_segments(store, documents, length=64, seed=2, epoch=epoch)
        for row in range(len(samples)):
            spans = slice(samples.rows[row], samples.rows[row + 1])
            starts, stops = samples.starts[spans], samples.stops[spans]
            assert len(starts) in (1, 2)
            assert (stops - starts).sum() + 1 + len(starts) <= 64
            assert starts[0] in store.sentence_starts
            document = np.searchsorted(store.document_starts, starts, side="right") - 1
            assert len(set(document)) == 1
            assert stops[-1] <= store.document_starts[document[0] + 1]
            if len(starts) == 2:
                assert starts[1] == stops[0], "the second goes on where the first ends"
                assert starts[1] in store.sentence_starts
    borders = [0, *range(8, 129, 8)]
    for seed in range(4_000):
        rng = np.random.default_rng(seed)
        single += len(divide(borders, 128, rng)) == 1
        short += next(fill_rows(borders, 128, rng))[-1] < 128
        rows += 1
    assert abs(single / rows - 0.1) < 4 * np.sqrt(0.1 * 0.9 / rows)
    # A shorter target of up to 120 ends before the sixteenth sentence.
    assert abs(short / rows - 0.05 * 116 / 124) < 4 * np.sqrt(0.05 * 0.95 / rows)


def test_the_rows_of_an_epoch_repeat_from_their_seed_and_change_with_the_epoch(store: Store) -> None:
    documents = np.arange(store.num_documents)
    one, again, other = (
        plan_segments(store, documents, length=64, seed=2, epoch=epoch).stops for epoch in (0, 0, 1)
    )
    assert np.array_equal(one, again)
    assert len(one) != len(other) or not np.array_equal(one, other)
