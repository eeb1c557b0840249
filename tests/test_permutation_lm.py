"""Permutation LM: which words are asked for, who sees whom, and that no target leaks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import small_store, write_text
from foreign_models import one_thread, redraw

from polyseme.checkpoints.loading import load
from polyseme.models.batch import Batch
from polyseme.models.transformer.config import (
    AttentionChoices,
    EmbeddingChoices,
    RelativeChoices,
    TransformerConfig,
)
from polyseme.models.transformer.model import Transformer
from polyseme.models.transformer.streams import ask, grid
from polyseme.objectives.permutation_lm import PermutationLM, PermutationLMSettings, Permutations
from polyseme.objectives.rows import Rows, lay_out
from polyseme.records import from_plain
from polyseme.seeding import RowGenerator
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.preparing import prepare
from polyseme.text.store import Mark, Store
from polyseme.training.pretraining import pretrain
from polyseme.training.recipes import read_recipe

assert one_thread  # a fixture, used by every test here


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store made with the recipe's own tokenizer."""
    folder = tmp_path_factory.mktemp("permutation")
    text = write_text(folder / "text.txt", documents=240)
    plain = read_recipe("xlnet").tokenizer | {"vocab_size": 300}
    learn(text.read_text("utf-8").splitlines(), from_plain(plain, LearningSettings, where="test")).save(
        folder / "vocab"
    )
    return prepare([text], tokenizer=folder / "vocab", out=folder / "store")


def rows_of(store: Store, seed: int = 0, *, length: int = 96, **settings: Any) -> tuple[Rows, dict[str, Any]]:
    """All rows of an epoch, and what the objective makes of them."""
    corruption = Permutations(PermutationLMSettings(**settings))
    samples = corruption.plan(store, np.arange(store.num_documents), length=length, seed=seed, epoch=0)
    numbers = np.arange(len(samples))
    rows = lay_out(store, samples, numbers, length=length)
    return rows, corruption(rows, RowGenerator(numbers, seed, "corruption", 0))


def small(vocab_size: int = 50, **changes: Any) -> TransformerConfig:
    relative = RelativeChoices(untied=True, segments=True, query_stream=True)
    return TransformerConfig(
        **{
            "vocab_size": vocab_size,
            "hidden_size": 16,
            "num_layers": 3,
            "num_heads": 2,
            "intermediate_size": 24,
            "type_vocab_size": 0,
            "positions": "relative",
            "pooler": False,
            "embedding": EmbeddingChoices(norm=False),
            "attention": AttentionChoices(relative=relative),
            **changes,
        }
    )


def test_a_row_is_two_segments_with_all_special_tokens_behind_texts(store: Store) -> None:
    rows, arrays = rows_of(store)
    tokenizer = store.tokenizer
    for ids, types, real in zip(rows.input_ids, arrays["token_type_ids"], rows.attention_mask, strict=True):
        ids, types = ids[real], types[real]
        assert ids[-2:].tolist() == [tokenizer.separator_id, tokenizer.first_id]
        first = ids.tolist().index(tokenizer.separator_id)
        assert types.tolist() == [0] * (first + 1) + [1] * (len(ids) - first - 2) + [2]
        assert 0 < first < len(ids) - 3
    assert int(rows.attention_mask.sum(axis=1).max()) <= 96


def test_half_of_the_second_segments_follow_the_first_and_half_are_others(store: Store) -> None:
    samples = Permutations(PermutationLMSettings()).plan(
        store, np.arange(store.num_documents), length=64, seed=1, epoch=0
    )
    follows = samples.starts[1::3] == samples.stops[0::3]
    assert abs(follows.mean() - 0.5) < 0.1
    whole = Permutations(PermutationLMSettings(random=0.0)).plan(
        store, np.arange(store.num_documents), length=64, seed=1, epoch=0
    )
    assert (whole.starts[1::3] == whole.stops[0::3]).all()
    read = np.concatenate([np.arange(a, b) for a, b in zip(whole.starts, whole.stops, strict=True)])
    assert len(np.unique(read)) == len(read) > 0.99 * store.num_tokens  # a text of one token makes no pair


@pytest.mark.parametrize("unit", ["word", "token"])
def test_the_share_is_never_passed_and_special_tokens_are_never_asked(store: Store, unit: str) -> None:
    asked = read = 0
    for seed in range(5):
        rows, arrays = rows_of(store, seed, unit=unit)
        targets = np.zeros(rows.input_ids.shape, dtype=bool)
        targets.reshape(-1)[arrays["predicted"]] = True
        assert not (targets & ~rows.real).any()
        assert np.array_equal(rows.input_ids.reshape(-1)[arrays["predicted"]], arrays["labels"])
        budget = np.rint(rows.lengths / 6) + 1  # each segment's part is rounded
        assert (targets.sum(axis=1) <= budget).all()
        asked, read = asked + targets.sum(), read + rows.attention_mask.sum()
        assert np.array_equal(arrays["input_ids"], rows.input_ids)
    assert 0.09 < asked / read < 1 / 6


def test_whole_words_are_asked_for_together(store: Store) -> None:
    rows, arrays = rows_of(store)
    targets = np.zeros(rows.input_ids.shape, dtype=bool)
    targets.reshape(-1)[arrays["predicted"]] = True
    several = 0
    for row in range(len(targets)):
        starts = (
            (rows.marks[row] & Mark.WORD != 0)
            | ~rows.real[row]
            | np.r_[True, rows.spans[row][1:] != rows.spans[row][:-1]]
        )
        words = np.cumsum(starts)
        for word in np.unique(words[rows.real[row]]):
            inside = targets[row][words == word]
            assert inside.all() or not inside.any() or not rows.marks[row][words == word][0] & Mark.WORD
            several += len(inside) > 1 and inside.all()
    assert several > 20


@pytest.mark.parametrize(("unit", "tokens_a_word"), [("word", 2), ("token", 2), ("word", 1)])
def test_spans_have_the_published_lengths_and_context(unit: str, tokens_a_word: int) -> None:
    settings = PermutationLMSettings(unit=unit)  # type: ignore[arg-type]
    corruption = Permutations(settings)
    rng = np.random.default_rng(0)
    starts = np.arange(200_000) % tokens_a_word == 0
    lots = [(float(a), float(b)) for a, b in rng.random((60_000, 2))]
    chosen, used = corruption.choose(starts, 10**9, lots, 0)
    assert used < len(lots)
    edges = np.flatnonzero(np.diff(np.r_[0, chosen.astype(int), 0]))
    begins, ends = edges[::2], edges[1::2]
    assert starts[begins].all()
    sizes = ends - begins
    units = sizes // tokens_a_word if unit == "word" else sizes
    # Neighbours without context between them run together, and look longer.
    counts = np.bincount(units)[1:6] / len(units)
    expected = (1 / np.arange(1, 6)) / (1 / np.arange(1, 6)).sum()
    assert np.abs(counts - expected).max() < 0.05
    # One of seven, and a little less where a span waits for the next word to begin.
    assert 0.12 < chosen.mean() < 1 / 7 + 0.003


def test_the_released_rule_counts_tokens_and_the_papers_counts_words() -> None:
    starts = np.array([True, False, False, True, False, True, False, False, True, False] * 3)
    by_word, by_token = (
        Permutations(PermutationLMSettings(unit=unit))
        for unit in ("word", "token")  # type: ignore[arg-type]
    )
    two = 0.5  # the number of units: 1 below 60/137, then 2
    assert by_word.units(two) == by_token.units(two) == 2
    assert np.flatnonzero(by_word.choose(starts, 99, [(two, 0.0)], 0)[0]).tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(by_token.choose(starts, 99, [(two, 0.0)], 0)[0]).tolist() == [0, 1]
    # Not more than what is left of the share: words go from the back, tokens are cut.
    assert np.flatnonzero(by_word.choose(starts, 4, [(two, 0.0)], 0)[0]).tolist() == [0, 1, 2]
    assert np.flatnonzero(by_word.choose(starts, 2, [(two, 0.0)], 0)[0]).tolist() == []
    assert np.flatnonzero(by_token.choose(starts, 1, [(two, 0.0)], 0)[0]).tolist() == [0]


def test_the_same_seed_gives_the_same_in_any_company(store: Store) -> None:
    corruption = Permutations(PermutationLMSettings())
    samples = corruption.plan(store, np.arange(store.num_documents), length=96, seed=3, epoch=0)

    def made(numbers: np.ndarray) -> tuple[Rows, dict[str, Any]]:
        rows = lay_out(store, samples, numbers, length=96)
        return rows, corruption(rows, RowGenerator(numbers, 3, "corruption", 0))

    everyone = np.arange(len(samples))
    rows, together = made(everyone)
    asked = np.zeros(rows.input_ids.shape, dtype=bool)
    asked.reshape(-1)[together["predicted"]] = True
    for number in (0, 7, 20):
        alone_rows, alone = made(np.array([number]))
        width = alone_rows.input_ids.shape[1]
        assert np.array_equal(np.flatnonzero(asked[number]), alone["predicted"])
        one, other = alone["order"][0], together["order"][number, :width]
        assert np.array_equal(one[:, None] < one, other[:, None] < other) or width < rows.input_ids.shape[1]


def test_what_is_only_read_is_seen_by_all_and_later_parts_see_earlier_ones(store: Store) -> None:
    rows, arrays = rows_of(store, permuted=32)
    order = arrays["order"]
    length = order.shape[1]
    part = np.arange(length) // 32
    targets = np.zeros(order.shape, dtype=bool)
    targets.reshape(-1)[arrays["predicted"]] = True
    for row in range(20):
        rank = order[row]
        for place in range(int(rows.attention_mask[row].sum())):
            sees = rank <= rank[place]
            query = rank < rank[place]
            assert sees[part < part[place]].all()
            assert not sees[part > part[place]].any()
            own = part == part[place]
            only_read = own & rows.real[row] & ~targets[row]
            assert sees[only_read].all()
            if targets[row, place]:
                assert not query[place]
                assert query[only_read].all()
            elif rows.real[row, place]:
                assert not sees[own & targets[row]].any()
        unlike = rank[(targets[row] | ~rows.real[row]) & rows.attention_mask[row]]
        assert len(set(unlike.tolist())) == len(unlike)


@pytest.mark.parametrize("seed", range(20))
def test_no_target_sees_itself_or_what_comes_later_in_the_order(seed: int) -> None:
    """Exactly: a token that changes moves no number of a target that must not see it."""
    rng = np.random.default_rng(seed)
    model = Transformer(small()).eval()
    redraw(model, seed)
    length = 11
    ids = torch.from_numpy(rng.integers(0, 50, (1, length)))
    asked = np.sort(rng.permutation(length)[: int(rng.integers(2, length))])
    order = np.zeros((1, length), dtype=np.int64)
    order[0, asked] = 1 + rng.permutation(len(asked))
    targets = torch.from_numpy(asked)[None]

    def states(of: torch.Tensor) -> torch.Tensor:
        batch = Batch(of, order=torch.from_numpy(order), token_type_ids=(torch.arange(length) // 5)[None])
        with torch.no_grad():
            return ask(model, batch, targets)[0].last[0]

    before = states(ids)
    for place in range(length):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] + 7) % 50
        moved = (states(changed) != before).any(dim=-1).numpy()
        assert np.array_equal(moved, order[0, place] < order[0, asked])


def test_the_sheets_own_example_of_a_leak() -> None:
    """Changing x7 leaves targets 6 and 7 alone, where 6 comes before 7; changing x6 moves only 7."""
    model = Transformer(small()).eval()
    redraw(model, 0)
    ids = torch.arange(1, 9)[None]
    order = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 2]])
    targets = torch.tensor([[6, 7]])

    def states(of: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return ask(model, Batch(of, order=order), targets)[0].last[0]

    moved = {}
    for place in (6, 7):
        changed = ids.clone()
        changed[0, place] = 30
        moved[place] = (states(changed) - states(ids)).abs().amax(dim=-1).tolist()
    assert moved[7] == [0.0, 0.0]
    assert moved[6][0] == 0.0
    assert moved[6][1] > 0


def test_a_query_that_sees_nothing_is_a_number_and_knows_nothing() -> None:
    model = Transformer(small()).eval()
    redraw(model, 1)
    order = torch.arange(5)[None]
    first = [
        ask(model, Batch(ids, order=order), torch.tensor([[0]]))[0].last
        for ids in (torch.arange(5)[None], torch.arange(10, 15)[None])
    ]
    assert torch.isfinite(first[0]).all()
    assert torch.equal(first[0], first[1])
    first[0].sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_targets_stand_in_a_grid_as_in_the_flat_list() -> None:
    flat = torch.tensor([1, 4, 12, 13, 19, 31])
    targets, place = grid(flat, rows=4, length=10)
    assert targets.shape == (4, 8)
    assert targets.flatten()[place].tolist() == [1, 4, 2, 3, 9, 1]
    assert (place // 8).tolist() == [0, 0, 1, 1, 1, 3]
    assert grid(flat[:0], rows=2, length=10)[0].shape == (2, 8)


def test_the_loss_is_the_mean_cost_of_the_targets_one_by_one(store: Store) -> None:
    config = small(store.vocab_size, dropout=0.0, attention_dropout=0.0)
    backbone, objective = Transformer(config), PermutationLM(PermutationLMSettings(), config, store)
    redraw(backbone, 0)
    redraw(objective, 1)
    corruption = objective.corruption
    samples = corruption.plan(store, np.arange(store.num_documents), length=48, seed=0, epoch=0)
    numbers = np.arange(4)
    rows = lay_out(store, samples, numbers, length=48)
    arrays = corruption(rows, RowGenerator(numbers, 0, "corruption", 0))
    batch = Batch(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()})
    loss = objective(backbone, batch)
    total = 0.0
    assert batch.predicted is not None
    for flat, label in zip(batch.predicted.tolist(), batch.labels.tolist(), strict=True):  # type: ignore[union-attr]
        row, place = divmod(flat, batch.input_ids.size(1))
        width = int(rows.attention_mask[row].sum())
        one = Batch(
            batch.input_ids[row : row + 1, :width],
            token_type_ids=batch.token_type_ids[row : row + 1, :width],  # type: ignore[index]
            order=batch.order[row : row + 1, :width],  # type: ignore[index]
        )
        with torch.no_grad():
            query, _, _ = ask(backbone, one, torch.tensor([[place]]))
            logits = objective.heads["permutation-lm"](query.last[0], backbone.embeddings.tokens.weight)
        total -= float(logits.log_softmax(-1)[0, label])
    assert abs(total / loss.predictions - float(loss.total.detach())) < 1e-4
    loss.total.backward()
    silent = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent


SMALL = (
    "training.batch_size=4",
    "training.length=48",
    "training.held_out=0.1",
    "training.learning_rate=5e-3",
    "training.warmup=0.05",
    "model.num_layers=1",
    "model.hidden_size=64",
    "model.num_heads=2",
    "model.intermediate_size=128",
)


def test_the_recipe_runs_on_its_own_tokens_and_goes_on_from_its_model(store: Store, tmp_path: Path) -> None:
    one = pretrain(
        "xlnet", store.folder, out=tmp_path / "one", change=SMALL, size="tiny", steps=20, threads=1
    )
    two = pretrain(
        "xlnet", store.folder, out=tmp_path / "two", change=SMALL, steps=250, threads=1,
        from_model=str(tmp_path / "one"),
    )  # fmt: skip
    assert two.unigram is not None
    assert two.losses["permutation-lm"] < one.losses["permutation-lm"]
    assert two.losses["permutation-lm"] < two.unigram - 0.3
    transformers = pytest.importorskip("transformers")
    theirs, info = transformers.XLNetLMHeadModel.from_pretrained(tmp_path / "two", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours = load(tmp_path / "two")
    ids = torch.arange(6, 18)[None]
    with torch.no_grad():
        difference = ours.backbone(Batch(ids)).last - theirs.transformer(ids).last_hidden_state
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"longest": 0}, "longest must be at least 1"),
        ({"permuted": 0}, "permuted must be at least 1"),
        ({"context": -1}, "context must be at least 0"),
        ({"share": 0.0}, "shares up to 1"),
        ({"random": 1.5}, "shares up to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PermutationLMSettings(**settings)


def test_a_network_without_a_query_stream_is_refused(tmp_path: Path) -> None:
    store = small_store(tmp_path, documents=6)
    config = TransformerConfig(vocab_size=store.vocab_size, hidden_size=8, num_heads=2, num_layers=1)
    with pytest.raises(ValueError, match=r"attention\.relative\.query_stream to true"):
        PermutationLM(PermutationLMSettings(), config, store)
