"""Texts written: the reference's tokens, with and without a cache, and the same in any company."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from foreign_models import one_thread
from small_models import CHARACTERS, small_model
from test_family_gpt2 import gpt2

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Model
from polyseme.checkpoints.saving import save
from polyseme.cli import main
from polyseme.errors import CheckpointError, SettingsError
from polyseme.generation.beams import beam_search
from polyseme.generation.choosing import Scores, by_lot, penalised
from polyseme.generation.decoding import Decoded, decode
from polyseme.generation.generating import Generator, generate
from polyseme.generation.settings import GenerateSettings
from polyseme.generation.steppers import STEPPERS
from polyseme.models.batch import Batch

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here
END = 7
PLAIN = Scores(1.0, None)


def prompts(seed: int, vocab_size: int) -> Batch:
    """Four prompts of unlike length, padded on the left."""
    rng = np.random.default_rng(seed)
    mask = np.arange(6) >= 6 - rng.integers(1, 7, size=(4, 1))
    ids = np.where(mask, rng.integers(8, vocab_size, (4, 6)), 0)
    return Batch(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))


def both(seed: int, folder: Path) -> tuple[Model, Any]:
    """A model that ends some texts, here and in transformers."""
    theirs = gpt2(seed=seed, n_positions=40, eos_token_id=END, bos_token_id=END, pad_token_id=0)
    theirs.transformer.wte.weight.data[END] *= 2.0
    theirs.save_pretrained(folder)
    return load(folder, heads=["causal-lm"]), theirs


def cut(row: list[int]) -> list[int]:
    """The reference's tokens up to the end."""
    return row[: row.index(END)] if END in row else row


@torch.inference_mode()
def ours(model: Model, batch: Batch, **options: Any) -> list[list[Decoded]]:
    settings = GenerateSettings(**options)
    stepper = STEPPERS[settings.cache](model.backbone, model.heads["causal-lm"])
    if settings.strategy == "beam":
        return beam_search(stepper, batch, settings, scores=PLAIN, ends={END})
    chance = torch.zeros(len(batch.input_ids), settings.max_new_tokens)
    return [[one] for one in decode(stepper, batch, settings, scores=PLAIN, ends={END}, chance=chance)]


def reference(theirs: Any, batch: Batch, **options: Any) -> Any:
    assert batch.attention_mask is not None
    return theirs.generate(
        batch.input_ids,
        attention_mask=batch.attention_mask.long(),
        do_sample=False,
        max_new_tokens=12,
        pad_token_id=0,
        eos_token_id=END,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_the_likeliest_tokens_are_those_of_the_reference(seed: int, cache: bool, tmp_path: Path) -> None:
    model, theirs = both(seed, tmp_path)
    batch = prompts(seed, theirs.config.vocab_size)
    expected = reference(theirs, batch, num_beams=1).sequences[:, 6:].tolist()
    found = ours(model, batch, max_new_tokens=12, cache=cache)
    assert [one.tokens for (one,) in found] == [cut(row) for row in expected]
    assert [one.finished for (one,) in found] == [END in row for row in expected]


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_beams": 4},
        {"num_beams": 4, "length_penalty": 0.0},
        {"num_beams": 3, "length_penalty": 2.0},
        {"num_beams": 3, "early_stopping": True},
    ],
)
@pytest.mark.parametrize("seed", range(6))
def test_beams_are_those_of_the_reference(
    seed: int, options: dict[str, Any], cache: bool, tmp_path: Path
) -> None:
    model, theirs = both(seed, tmp_path)
    batch = prompts(seed, theirs.config.vocab_size)
    count = options["num_beams"]
    expected = reference(theirs, batch, num_return_sequences=count, **options)
    found = ours(model, batch, strategy="beam", max_new_tokens=12, cache=cache, **options)
    rows = [cut(row) for row in expected.sequences[:, 6:].tolist()]
    assert [one.tokens for of_prompt in found for one in of_prompt] == rows
    scores = [one.score for of_prompt in found for one in of_prompt]
    assert scores == pytest.approx(expected.sequences_scores.tolist(), rel=1e-4)


def test_one_beam_is_the_likeliest_token_each_time(tmp_path: Path) -> None:
    model, theirs = both(3, tmp_path)
    batch = prompts(3, theirs.config.vocab_size)
    greedy = ours(model, batch, max_new_tokens=12)
    beam = ours(model, batch, max_new_tokens=12, strategy="beam", num_beams=1, length_penalty=0.0)
    assert [one.tokens for (one, *_) in beam] == [one.tokens for (one,) in greedy]
    assert [one.score for (one, *_) in beam] == pytest.approx([one.score for (one,) in greedy], rel=1e-4)


def test_lots_fall_as_the_probabilities_say() -> None:
    logits = torch.log(torch.tensor([0.4, 0.1, 0.3, 0.15, 0.05])).repeat(20_000, 1)
    chance = torch.from_numpy(np.random.default_rng(0).random(20_000))

    def shares(**options: Any) -> list[float]:
        drawn = by_lot(logits.clone(), chance, GenerateSettings(strategy="sample", **options))
        return (torch.bincount(drawn, minlength=5) / 20_000).tolist()

    assert shares() == pytest.approx([0.4, 0.1, 0.3, 0.15, 0.05], abs=0.01)
    assert shares(top_k=2) == pytest.approx([4 / 7, 0, 3 / 7, 0, 0], abs=0.01)
    assert shares(top_p=0.69) == pytest.approx([4 / 7, 0, 3 / 7, 0, 0], abs=0.01)
    assert shares(top_p=0.71) == pytest.approx([0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85, 0], abs=0.01)
    squared = np.array([0.4, 0.1, 0.3, 0.15, 0.05]) ** 2
    assert shares(temperature=0.5) == pytest.approx((squared / squared.sum()).tolist(), abs=0.01)
    assert shares(top_k=1) == [1, 0, 0, 0, 0]
    assert shares(top_p=0.001) == [1, 0, 0, 0, 0]


def test_what_was_seen_is_penalised_as_in_the_reference_and_padding_was_not_seen() -> None:
    logits = torch.tensor([[1.0, -2.0, 3.0, -4.0], [1.0, -2.0, 3.0, -4.0]])
    seen = torch.tensor([[0, 2, 3], [0, 0, 1]])
    real = torch.tensor([[True, True, True], [False, False, True]])
    found = penalised(logits, seen, real, 2.0)
    expected = transformers.RepetitionPenaltyLogitsProcessor(2.0)(seen[:1], logits[:1].clone())
    assert torch.equal(found[:1], expected)
    assert found[1].tolist() == [1.0, -4.0, 3.0, -4.0]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load(small_model(tmp_path_factory.mktemp("small"), "gpt2"), heads=["causal-lm"])
    folder = tmp_path_factory.mktemp("small") / "model"
    save(model, folder)
    return folder


def some_texts(count: int) -> list[str]:
    rng = np.random.default_rng(5)
    return ["".join(rng.choice(list(CHARACTERS), int(rng.integers(1, 20)))) for _ in range(count)]


def test_the_same_seed_gives_the_same_text_alone_and_among_others(small: Path) -> None:
    options: dict[str, Any] = {"strategy": "sample", "max_new_tokens": 10, "answers": 2, "threads": 1}
    some = some_texts(9)
    together = generate(some, model=small, **options)
    assert [one.prompt for one in together] == some
    for batch_size in (1, 4):
        again = generate(some[::-1], model=small, batch_size=batch_size, **options)[::-1]
        assert [[a.text for a in one.answers] for one in again] == [
            [a.text for a in one.answers] for one in together
        ]
    assert generate(some[:1], model=small, **options)[0].answers[0].text == together[0].answers[0].text
    other = generate(some, model=small, seed=1, **options)
    assert sum(a.answers[0].text == b.answers[0].text for a, b in zip(other, together, strict=True)) < 3
    assert sum(one.answers[0].text == one.answers[1].text for one in together) < 3


def test_no_special_token_is_written_and_the_text_is_what_the_tokens_add(small: Path) -> None:
    (one,) = generate(
        ["酒店房间"], model=small, strategy="sample", max_new_tokens=30, stop=False, temperature=5.0
    )
    assert one.answers[0].tokens == 30
    assert not one.answers[0].finished
    assert "[" not in one.answers[0].text
    assert len(one.answers[0].text) > 10


def test_a_score_is_the_log_probability_of_what_was_written(small: Path) -> None:
    (one,) = generate(["酒店"], model=small, max_new_tokens=5, stop=False)
    model = load(small, heads=["causal-lm"])
    assert model.tokenizer is not None
    ids = model.tokenizer.encode("酒店").ids.tolist()
    row = [model.tokenizer.first_id, *ids]
    total = 0.0
    forbidden = sorted(model.tokenizer.special_ids - {model.tokenizer.separator_id})
    for _ in range(5):
        with torch.no_grad():
            states = model.backbone(Batch(torch.tensor([row]))).last[0, -1]
            logits = states @ model.backbone.embeddings.tokens.weight.t()
        logits[forbidden] = -math.inf
        logs = logits.log_softmax(-1)
        row.append(int(logs.argmax()))
        total += float(logs.max())
    assert one.answers[0].score == pytest.approx(total, rel=1e-4)
    assert one.answers[0].text == model.tokenizer.decode(row[3:])


def test_an_empty_prompt_and_one_that_is_too_long_are_read(small: Path) -> None:
    long = "".join(some_texts(12))
    found = generate(["", long], model=small, max_new_tokens=20)
    assert [one.prompt for one in found] == ["", long]
    assert all(one.answers[0].tokens <= 20 for one in found)
    (end,) = generate([long[-27:]], model=small, max_new_tokens=20)
    generator = Generator.load(small, max_new_tokens=20)
    assert generator._writer.room == 29  # type: ignore[attr-defined]
    assert len(end.answers) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 49}, "max_new_tokens 49 leaves no room for a prompt in the 48 positions"),
        ({"answers": 3}, "answers 3 is more than the 1 that greedy finds; choose strategy sample"),
        ({"top_p": 0.5}, "top_p is for strategy sample, and this is greedy; change one"),
        ({"strategy": "sample", "top_p": 1.5}, "top_p is a probability above 0 and up to 1, got 1.5"),
        ({"strategy": "sample", "temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"strategie": "beam"}, r"strategie is not a setting here \(did you mean 'strategy'\?\)"),
    ],
)
def test_wrong_options_are_named(small: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        generate(["a"], model=small, **options)


def test_a_model_that_does_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"bert has no head that writes \(causal-lm.*\), only a backbone"
    ):
        generate(["a"], model=small_model(tmp_path, "bert"))


def test_the_command_writes_texts_or_lines_of_json(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("酒店\n房间\n", encoding="utf-8")
    words = ["--quiet", "generate", str(tmp_path / "prompts.txt"), "--model", str(small)]
    words += ["--max-new-tokens", "4", "--threads", "1"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = generate(["酒店", "房间"], model=small, max_new_tokens=4, threads=1)
    assert lines == [one.prompt + one.answers[0].text for one in expected]
    out = tmp_path / "out.jsonl"
    assert main([*words, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 2 texts\n"
    written = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [one["prompt"] for one in written] == ["酒店", "房间"]
    assert written == [msgspec.to_builtins(one) for one in expected]
