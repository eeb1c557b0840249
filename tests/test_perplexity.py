"""Perplexity: the figures of a plain loop, whatever the batches, windows and vocabulary."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import small_model

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.saving import save
from polyseme.cli import main
from polyseme.embedding.windows import windows
from polyseme.errors import PolysemeError
from polyseme.evaluation.perplexity import Perplexity, perplexity
from polyseme.text.words import word_cutter

TEXT = "酒店的房间很大。\n服务 abc 不好！\n\n我们在这个地方工作，\n他们学习法律。\n\n好\n"
LINES = [["酒店的房间很大。", "服务 abc 不好！"], ["我们在这个地方工作，", "他们学习法律。"], ["好"]]
CHARACTERS = sum(len(line.replace(" ", "")) for lines in LINES for line in lines)


def masked_model(folder: Path, family: str = "bert", **changes: Any) -> Path:
    """A model whose head knows the vocabulary by chance, redrawn in every parameter."""
    model = load(small_model(folder / "bare", family, **changes), heads=["masked-lm"], fresh=["masked-lm"])
    torch.manual_seed(7)
    for parameter in (*model.backbone.parameters(), *model.heads["masked-lm"].parameters()):
        parameter.data += torch.randn_like(parameter) * 0.2
    save(model, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("perplexity") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return masked_model(tmp_path_factory.mktemp("bert"))


def documents(folder: Path) -> list[tuple[list[int], list[int]]]:
    """Ids and words of each document, by a plain loop."""
    tokenizer = load(folder).tokenizer
    assert tokenizer is not None
    found = []
    for lines in LINES:
        ids: list[int] = []
        words: list[int] = []
        for line in lines:
            pieces = word_cutter("rjieba")(line)
            ends = np.cumsum([len(piece) for piece in pieces])
            encoded = tokenizer.encode(line)
            ids += encoded.ids.tolist()
            before = words[-1] + 1 if words else 0
            words += [before + int(np.sum(ends <= begin)) for begin in encoded.offsets[:, 0]]
        found.append((ids, words))
    return found


def reference(folder: Path, *, rest_of_word: bool = False, longest: int = 48) -> float:
    """−log p of all tokens by transformers, one row at a time."""
    transformers = pytest.importorskip("transformers")
    model = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    tokenizer = load(folder).tokenizer
    assert tokenizer is not None
    total = 0.0
    for ids, words in documents(folder):
        for window in windows(len(ids), size=longest - 2, overlap=(longest - 2) // 4):
            for place in range(window.own_start, window.own_stop):
                row = list(ids)
                row[place] = tokenizer.mask_id
                for later in range(place + 1, len(ids)):
                    if rest_of_word and words[later] == words[place]:
                        row[later] = tokenizer.mask_id
                shown = [tokenizer.first_id, *row[window.start : window.stop], tokenizer.separator_id]
                with torch.no_grad():
                    logits = model(torch.tensor([shown])).logits[0, place - window.start + 1].double()
                total -= float(logits.log_softmax(-1)[ids[place]])
    return total


@pytest.mark.parametrize("hide", ["token", "rest-of-word"])
@pytest.mark.parametrize("longest", [48, 10])
def test_every_token_is_hidden_once_and_the_sum_is_that_of_a_plain_loop(
    text: Path, bert: Path, hide: Any, longest: int
) -> None:
    found = perplexity(text, model=bert, hide=hide, max_length=longest)
    expected = reference(bert, rest_of_word=hide == "rest-of-word", longest=longest)
    tokens = sum(len(ids) for ids, _ in documents(bert))
    assert found.kind == "pseudo-perplexity"
    assert (found.tokens, found.documents, found.characters) == (tokens, 3, CHARACTERS)
    assert found.nats == pytest.approx(expected, rel=1e-5)
    assert found.per_token == pytest.approx(math.exp(found.nats / tokens))
    assert found.per_character == pytest.approx(math.exp(found.nats / CHARACTERS))
    assert found.per_character == pytest.approx(2**found.bits_per_character)
    words = [piece for lines in LINES for line in lines for piece in word_cutter()(line) if piece.strip()]
    assert found.words == len(words)
    assert found.per_word == pytest.approx(math.exp(found.nats / len(words)))


def test_hiding_the_rest_of_a_word_costs_more_where_words_have_several_tokens(text: Path, bert: Path) -> None:
    plain, whole = (perplexity(text, model=bert, hide=hide).nats for hide in ("token", "rest-of-word"))
    assert plain != pytest.approx(whole, rel=1e-4)
    by_character = perplexity(text, model=bert, hide="rest-of-word", words="characters")
    assert by_character.nats == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_batches_change_nothing(text: Path, tmp_path: Path, family: str) -> None:
    folder = masked_model(tmp_path, family)
    whole = perplexity(text, model=folder)
    for batch_tokens in (1, 37):
        assert perplexity(text, model=folder, batch_tokens=batch_tokens).nats == pytest.approx(
            whole.nats, rel=1e-6
        )


def test_a_model_that_knows_nothing_has_the_size_of_its_vocabulary(text: Path, tmp_path: Path) -> None:
    model = load(masked_model(tmp_path), heads=["masked-lm"])
    for parameter in model.heads["masked-lm"].parameters():
        parameter.data.zero_()
    save(model, tmp_path / "uniform")
    found = perplexity(text, model=tmp_path / "uniform", max_length=9)
    size = model.backbone.config.vocab_size
    assert found.per_token == pytest.approx(size, rel=1e-5)
    assert found.per_character == pytest.approx(size ** (found.tokens / found.characters), rel=1e-5)


def test_reading_stops_at_the_line_that_reaches_the_most_tokens(text: Path, bert: Path) -> None:
    first = len(LINES[0][0])
    for most, characters in ((1, first), (first, first), (first + 1, first + len("服务abc不好！"))):
        assert perplexity(text, model=bert, most_tokens=most).characters == characters
    assert perplexity(text, model=bert, most_tokens=10**9) == perplexity(text, model=bert)


def test_unknown_tokens_are_counted(tmp_path: Path, bert: Path) -> None:
    (tmp_path / "a.txt").write_text("酒店鑫鑫\n鑫", encoding="utf-8")
    assert perplexity(tmp_path / "a.txt", model=bert).unknown == 3


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "there is no text in"),
        ("\u200b", {}, "no token in all the text; check the file and its format"),
        ("a\tb", {"format": "pairs"}, "format pairs has two texts a line; perplexity reads one, so choose"),
        ("a", {"max_length": 49}, "max_length 49 is more than the 48 positions of this model; longer texts"),
        ("a", {"max_length": 2}, "max_length must be at least 3, special tokens included, got 2"),
        ("a", {"most_tokens": 0}, "most_tokens must be at least 1, got 0"),
        ("a", {"hidee": "token"}, r"perplexity: hidee is not a setting here \(did you mean 'hide'\?\)"),
    ],
)
def test_what_cannot_be_scored_is_one_clear_line(
    tmp_path: Path, bert: Path, content: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    with pytest.raises(PolysemeError, match=message) as caught:
        perplexity(tmp_path / "a.txt", model=bert, **options)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_head_for_tokens_is_refused(text: Path, tmp_path: Path) -> None:
    bare = small_model(tmp_path, "bert")
    with pytest.raises(
        PolysemeError, match=r"bert has no head that predicts tokens \(masked-lm.*\), only a b"
    ):
        perplexity(text, model=bare)


def test_the_command_prints_a_table_or_json(
    text: Path, bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--quiet", "evaluate", "perplexity", str(text), "--model", str(bert), "--threads", "1"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(_plain(perplexity(text, model=bert, threads=1))))
    assert main(words) == 0
    table = capsys.readouterr().out
    assert table.startswith("pseudo-perplexity")
    assert f"{told['per_word']:,.2f}" in table


def test_the_help_of_evaluate_is_its_own_and_names_perplexity(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "usage: polyseme evaluate [-h]" in told
    assert "polyseme evaluate perplexity" in told


def _plain(found: Perplexity) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.__struct_fields__}
