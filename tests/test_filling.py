"""Blanks filled: the probabilities of a plain loop over the reference, and nothing that is no word."""

import io
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from foreign_models import one_thread
from small_models import small_model

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.saving import save
from polyseme.cli import main
from polyseme.errors import CheckpointError, DataError, SettingsError
from polyseme.generation.filling import Filler, fill
from polyseme.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("filling")
    model = load(small_model(base, "bert"), heads=["masked-lm"], fresh=["masked-lm"])
    torch.manual_seed(7)
    for parameter in (*model.backbone.parameters(), *model.heads["masked-lm"].parameters()):
        parameter.data += torch.randn_like(parameter) * 0.2
    save(model, base / "model")
    return base / "model"


class Reference:
    """The same questions asked of transformers, one row at a time."""

    def __init__(self, folder: Path) -> None:
        self.model = transformers.BertForMaskedLM.from_pretrained(folder).eval()
        self.tokenizer = Tokenizer.load(folder)
        tokens = self.tokenizer.vocabulary
        self.words = [
            n
            for n, token in enumerate(tokens)
            if n not in self.tokenizer.special_ids and not token.startswith("##")
        ]

    def row(self, text: str) -> list[int]:
        """`_` is a hidden token."""
        parts = [self.tokenizer.encode(part).ids.tolist() for part in text.split("_")]
        ids = parts[0]
        for part in parts[1:]:
            ids = [*ids, self.tokenizer.mask_id, *part]
        return [self.tokenizer.first_id, *ids, self.tokenizer.separator_id]

    def logs(self, row: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logs: torch.Tensor = self.model(torch.tensor([row])).logits[0].log_softmax(-1)
        return logs


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.mark.parametrize("blank", ["___", "[MASK]", "_____"])
def test_one_blank_has_the_probabilities_of_the_reference(
    folder: Path, reference: Reference, blank: str
) -> None:
    found = fill(f"酒店的{blank}间很大。", model=folder, answers=7)
    row = reference.row("酒店的_间很大。")
    place = row.index(reference.tokenizer.mask_id)
    chances = reference.logs(row)[place].exp()
    best = sorted(reference.words, key=lambda token: -chances[token])[:7]
    assert [one.answers for one in found] == [[reference.tokenizer.vocabulary[n]] for n in best]
    assert [one.probability for one in found] == pytest.approx(chances[best].tolist(), rel=1e-4)
    assert [one.text for one in found] == [f"酒店的{one.answers[0]}间很大。" for one in found]


def test_several_blanks_are_told_from_the_left_each_with_the_others_before_it_in_sight(
    folder: Path, reference: Reference
) -> None:
    found = fill("酒_店".replace("_", "___") + "___大", model=folder, order="left-to-right", width=10_000)
    row = reference.row("酒_店_大")
    first, second = (n for n, token in enumerate(row) if token == reference.tokenizer.mask_id)
    before = reference.logs(row)[first]
    best: list[tuple[float, list[str]]] = []
    for one in reference.words:
        told = list(row)
        told[first] = one
        logs = reference.logs(told)[second]
        for other in reference.words:
            total = float(before[one] + logs[other])
            best.append((total, [reference.tokenizer.vocabulary[n] for n in (one, other)]))
    best.sort(key=lambda pair: -pair[0])
    assert [one.answers for one in found] == [answers for _, answers in best[:5]]
    assert [one.probability for one in found] == pytest.approx([math.exp(t) for t, _ in best[:5]], rel=1e-3)


def test_the_surest_token_is_told_first(folder: Path, reference: Reference) -> None:
    (found,) = fill("酒___店___大", model=folder, answers=1, width=1)
    row = reference.row("酒_店_大")
    places = [n for n, token in enumerate(row) if token == reference.tokenizer.mask_id]
    total = 0.0
    while places:
        logs = reference.logs(row)[:, reference.words]
        place = max(places, key=lambda n: float(logs[n].max()))
        total += float(logs[place].max())
        row[place] = reference.words[int(logs[place].argmax())]
        places.remove(place)
    assert found.probability == pytest.approx(math.exp(total), rel=1e-3)
    assert found.answers == [reference.tokenizer.vocabulary[row[2]], reference.tokenizer.vocabulary[row[4]]]


def test_longer_answers_are_compared_by_their_probability_per_token(folder: Path) -> None:
    many = {"answers": 40, "width": 40}
    ones = fill("酒店___大", model=folder, **many)
    found = fill("酒店___大", model=folder, most_tokens=2, **many)
    per_token = [one.probability ** (1 / one.tokens) for one in found]
    assert per_token == sorted(per_token, reverse=True)
    assert {one.tokens for one in found} == {1, 2}
    singles = [one for one in found if one.tokens == 1]
    assert [one.text for one in singles] == [one.text for one in ones[: len(singles)]]


def test_the_middle_of_a_word_follows_letters_only(folder: Path) -> None:
    vocabulary = Tokenizer.load(folder).vocabulary
    middles = {token.removeprefix("##") for token in vocabulary if token.startswith("##")}
    assert middles
    everything = {"answers": len(vocabulary), "width": len(vocabulary)}
    whole = len(fill("酒店___大", model=folder, **everything))
    assert len(fill("abc___大", model=folder, **everything)) == whole + len(middles)
    assert all("##" not in one.text for one in fill("abc___大", model=folder, **everything))
    assert all("[" not in one.text for one in fill("酒店___大", model=folder, **everything))


def test_a_text_may_begin_and_end_with_a_blank(folder: Path) -> None:
    (one, *_) = fill("___店___", model=folder)
    assert one.text == f"{one.answers[0]}店{one.answers[1]}"


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("酒店很大", {}, DataError, r"there is no blank in '酒店很大'; write ___ or \[MASK\]"),
        ("酒店" * 30 + "___", {}, DataError, "the text has 63 tokens with its blanks, but this model reads"),
        ("___" + "好___" * 6, {"most_tokens": 2}, DataError, "7 blanks of up to 2 tokens are 128 shapes"),
        ("___", {"answers": 0}, SettingsError, "answers must be at least 1, got 0"),
        ("___", {"ordr": "x"}, SettingsError, r"ordr is not a setting here \(did you mean 'order'\?\)"),
    ],
)
def test_what_cannot_be_filled_is_one_clear_line(
    folder: Path, text: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fill(text, model=folder, **options)


def test_a_model_that_reads_from_the_left_fills_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a model of the family gpt2 has no masked-lm"):
        Filler.load(small_model(tmp_path, "gpt2"))


def test_the_command_prints_texts_or_writes_lines_of_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--quiet", "fill", "--model", str(folder), "--answers", "2", "--threads", "1"]
    assert main([*words, "酒店___大"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = fill("酒店___大", model=folder, answers=2, threads=1)
    assert [line.split() for line in lines] == [[f"{one.probability:.4f}", one.text] for one in expected]
    (tmp_path / "texts.txt").write_text("酒店___大\n___店\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "texts.txt").read_bytes())))
    assert main([*words, "-", "--out", str(tmp_path / "out.jsonl")]) == 0
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [one["text"] for one in written] == ["酒店___大", "___店"]
    assert written[0]["fillings"] == [msgspec.to_builtins(one) for one in expected]
