"""Texts rewritten and blanks filled by T5: the tokens of the reference, with a cache and without."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_models import one_thread
from test_family_t5 import foreign
from test_family_transformer import network, two_sided_batch

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.saving import save
from polyseme.cli import main
from polyseme.errors import CheckpointError, DataError
from polyseme.generation.beams import beam_search
from polyseme.generation.choosing import Scores
from polyseme.generation.decoding import Decoded, decode
from polyseme.generation.filling import fill
from polyseme.generation.generating import generate
from polyseme.generation.rewriting import rewriter, sources
from polyseme.generation.settings import GenerateSettings
from polyseme.generation.span_filling import SpanFiller
from polyseme.models.batch import Batch
from polyseme.models.transformer.cached_decoder import CachedDecoder
from polyseme.text.learning import LearningSettings, learn

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here
END = 1


def texts(seed: int, vocab_size: int) -> Batch:
    """Four texts of unlike length, padded on the right, as a rewriter reads them."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(2, vocab_size, rng.integers(1, 9)).astype(np.int32) for _ in range(4)]
    return sources(rows, padding=0, most=512)


def both(seed: int, folder: Path) -> tuple[Model, Any]:
    """A model that ends some texts, here and in transformers."""
    # With a deeper decoder than encoder the reference's cache fails (transformers 5.23).
    theirs = foreign("T5ForConditionalGeneration", seed, num_layers=2, num_decoder_layers=2)
    theirs.shared.weight.data *= 4.0
    theirs.shared.weight.data[END] *= 1.5
    theirs.save_pretrained(folder)
    return load(folder, heads=["seq2seq-lm"]), theirs


def cut(row: list[int]) -> list[int]:
    """The reference's tokens up to the end."""
    return row[: row.index(END)] if END in row else row


@torch.inference_mode()
def ours(model: Model, batch: Batch, **options: Any) -> list[list[Decoded]]:
    settings = GenerateSettings(**options)
    stepper = rewriter(model, cache=settings.cache)
    scores = Scores(settings.repetition_penalty, None)
    if settings.strategy == "beam":
        return beam_search(stepper, batch, settings, scores=scores, ends={END})
    chance = torch.zeros(len(batch.input_ids), settings.max_new_tokens)
    return [[one] for one in decode(stepper, batch, settings, scores=scores, ends={END}, chance=chance)]


def reference(theirs: Any, batch: Batch, **options: Any) -> Any:
    mask = torch.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask.long()
    return theirs.generate(
        batch.input_ids,
        attention_mask=mask,
        max_new_tokens=12,
        do_sample=False,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=END,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )


@pytest.mark.parametrize("penalty", [1.0, 1.7])
@pytest.mark.parametrize("seed", range(10))
def test_greedy_tokens_are_those_of_the_reference(seed: int, penalty: float, tmp_path: Path) -> None:
    model, theirs = both(seed, tmp_path)
    batch = texts(seed, theirs.config.vocab_size)
    expected = reference(theirs, batch, repetition_penalty=penalty).sequences[:, 1:].tolist()
    for cache in (True, False):
        found = ours(model, batch, max_new_tokens=12, cache=cache, repetition_penalty=penalty)
        assert [one.tokens for (one,) in found] == [cut(row) for row in expected]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4},
        {"num_beams": 3, "length_penalty": 0.0},
        {"num_beams": 3, "early_stopping": True},
    ],
)
@pytest.mark.parametrize("seed", range(6))
def test_beams_are_those_of_the_reference(seed: int, options: dict[str, Any], tmp_path: Path) -> None:
    model, theirs = both(seed, tmp_path)
    batch = texts(seed, theirs.config.vocab_size)
    expected = reference(theirs, batch, num_return_sequences=options["num_beams"], **options)
    rows = [cut(row) for row in expected.sequences[:, 1:].tolist()]
    for cache in (True, False):
        found = ours(model, batch, strategy="beam", max_new_tokens=12, cache=cache, **options)
        assert [one.tokens for of_text in found for one in of_text] == rows
        scores = [one.score for of_text in found for one in of_text]
        assert scores == pytest.approx(expected.sequences_scores.tolist(), rel=1e-4, abs=1e-6)


def test_the_reference_ends_some_texts_and_not_others(tmp_path: Path) -> None:
    ended = []
    for seed in range(10):
        model, theirs = both(seed, tmp_path / str(seed))
        found = ours(model, texts(seed, theirs.config.vocab_size), max_new_tokens=12)
        ended += [one.finished for (one,) in found]
    assert 0 < sum(ended) < len(ended)


@pytest.mark.parametrize("positions", ["sinusoidal", "bucketed"])
@pytest.mark.parametrize("position", ["after", "before"])
@torch.no_grad()
def test_steps_of_any_size_give_the_states_of_one_pass(position: str, positions: str) -> None:
    model = network(8, positions=positions, norm_position=position, final_norm=position == "before").double()
    batch = two_sided_batch(8, model.config.vocab_size)
    ids = batch.decoder_input_ids
    assert ids is not None
    whole = model(Batch(batch.input_ids, batch.attention_mask, decoder_input_ids=ids)).decoded
    for sizes in ([1] * ids.size(1), [2, 1, ids.size(1) - 3], [ids.size(1)]):
        cached = CachedDecoder(model)
        cache, parts = cached.read(batch), []
        for tokens in torch.split(ids, sizes, dim=1):
            states, cache = cached(tokens, cache)
            parts.append(states)
        assert torch.allclose(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 with a tokenizer that has sentinels."""
    base = tmp_path_factory.mktemp("rewriting")
    settings = LearningSettings(
        kind="unigram", vocab_size=40, min_count=1, padding_token="<pad>", unknown_token="<unk>",
        first_token="", separator_token="</s>", mask_token="", frame="end", sentinels=4,
    )  # fmt: skip
    tokenizer = learn(["人民法院依法独立行使审判权", "一二三四五六七八九十"], settings)
    theirs = foreign("T5ForConditionalGeneration", 4, vocab_size=tokenizer.vocab_size + 3, eos_token_id=2)
    theirs.shared.weight.data *= 3.0
    theirs.save_pretrained(base / "theirs")
    model = load(base / "theirs", heads=["seq2seq-lm"])
    model.tokenizer = tokenizer
    save(model, base / "model")
    return base / "model"


def test_texts_are_rewritten_alone_as_among_others(folder: Path) -> None:
    some = ["人民法院", "一二三四五六七八九十", "", "独立"]
    together = generate(some, model=folder, max_new_tokens=8, threads=1)
    assert [one.prompt for one in together] == some
    assert not any(one.continued for one in together)
    for text, one in zip(some, together, strict=True):
        (alone,) = generate([text], model=folder, max_new_tokens=8, threads=1)
        assert alone.answers[0].text == one.answers[0].text
        assert alone.answers[0].score == pytest.approx(one.answers[0].score, rel=1e-5)
    assert len({one.answers[0].text for one in together}) > 1
    beams = generate(some[:1], model=folder, strategy="beam", answers=3, max_new_tokens=8, threads=1)
    assert len(beams[0].answers) == 3


def test_the_command_prints_what_was_written_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("人民法院\n独立\n", encoding="utf-8")
    words = ["generate", str(tmp_path / "texts.txt"), "--model", str(folder), "--max-new-tokens", "8"]
    assert main(words) == 0
    expected = generate(["人民法院", "独立"], model=folder, max_new_tokens=8)
    assert capsys.readouterr().out.splitlines() == [one.answers[0].text for one in expected]


@torch.no_grad()
def test_blanks_get_the_likeliest_answers_of_all(folder: Path) -> None:
    model = load(folder, heads=["seq2seq-lm"])
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = model.tokenizer
    assert tokenizer is not None
    first, second = tokenizer.sentinel_ids[:2]
    parts = [tokenizer.encode(part).ids.tolist() for part in ("人民", "依法", "审判")]
    row = torch.tensor([[*parts[0], first, *parts[1], second, *parts[2], tokenizer.separator_id]])
    words = [n for n in range(tokenizer.vocab_size) if n not in tokenizer.special_ids]
    pairs = list(itertools.product(words, repeat=2))
    end = tokenizer.separator_id
    written = torch.tensor([[first, a, second, b, end] for a, b in pairs])
    read = torch.cat((torch.zeros(len(pairs), 1, dtype=torch.long), written[:, :-1]), dim=1)
    logs = theirs(input_ids=row.expand(len(pairs), -1), decoder_input_ids=read).logits.log_softmax(-1)
    totals = logs.gather(2, written[..., None])[:, 1:, 0].sum(dim=1)  # the first sentinel is given
    best = totals.topk(6).indices.tolist()
    expected = [[tokenizer.decode([token]).strip() for token in pairs[n]] for n in best]
    found = fill("人民___依法____审判", model=folder, answers=6, width=200, threads=1)
    assert [one.answers for one in found] == expected
    assert [one.probability for one in found] == pytest.approx(totals[best].exp().tolist(), rel=1e-4)
    assert found[0].text == f"人民{expected[0][0]}依法{expected[0][1]}审判"


def test_a_blank_may_hold_several_tokens(folder: Path) -> None:
    found = fill("人民___审判", model=folder, answers=400, width=400, most_tokens=3, threads=1)
    assert {one.tokens for one in found} == {1, 2, 3}
    ranks = [np.log(one.probability) / (one.tokens + 1) for one in found]
    assert ranks == sorted(ranks, reverse=True)


def test_what_has_no_blank_or_no_sentinel_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are 0 blanks in '人民'; write ___ where words are missing"):
        fill("人民", model=folder)
    with pytest.raises(DataError, match="there are 5 blanks"):
        fill("___一___二___三___四___", model=folder)
    model = load(folder, heads=["seq2seq-lm"])
    model.tokenizer = learn(["一二三"], LearningSettings(min_count=1))
    with pytest.raises(CheckpointError, match="this model has no sentinels"):
        SpanFiller(model)


def test_the_command_fills_blanks_by_spans(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", "人民___审判", "--model", str(folder), "--answers", "2"]) == 0
    expected = [one.text for one in fill("人民___审判", model=folder, answers=2)]
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == expected
