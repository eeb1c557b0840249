"""Tagging: words to tokens and back, windows, answers, and what the network says of them."""

import dataclasses
import json
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import characters, small_model
from torch import Tensor

from polyseme.checkpoints.loading import load
from polyseme.cli import main
from polyseme.errors import DataError, SettingsError
from polyseme.models.batch import IGNORED
from polyseme.records import from_plain
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.predicting import Answerer, evaluate, predict
from polyseme.tasks.tag_schemes import Span, spans
from polyseme.tasks.tagged_texts import Entity, TaggedText, from_text, from_words
from polyseme.tasks.taggers import CHOOSERS
from polyseme.tasks.tagging import Tagging, tokens_of
from polyseme.tasks.tagging_settings import TaggingSettings
from polyseme.tasks.task import ByToken, Inventory
from polyseme.text.tokenizer import Tokenizer

INVENTORY = Inventory(labels=("O", "B-人", "I-人", "B-地", "I-地"))


def task(**options: object) -> Tagging:
    return Tagging(from_plain(options, TaggingSettings, where="test"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return characters(tmp_path_factory.mktemp("characters"))


def written(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    return "".join(tokenizer.tokens(ids))


def test_the_first_token_of_each_word_is_asked_for_and_labelled(tokenizer: Tokenizer) -> None:
    example = from_words(["我", "在", "abc", "的"], ["O", "O", "B-地", "I-地"], where="")
    (row,) = task().encode(example, tokenizer, INVENTORY, max_length=48)
    assert tokenizer.tokens(row.input_ids) == ["[CLS]", "我", "在", "a", "##b", "##c", "的", "[SEP]"]
    assert row.asked.tolist() == [1, 2, 3, 6]
    assert row.places.tolist() == [0, 1, 2, 3]
    assert row.token_labels.tolist() == [IGNORED, 0, 0, 3, IGNORED, IGNORED, 4, IGNORED]


def test_no_token_spans_two_words_that_are_given(tokenizer: Tokenizer) -> None:
    words = ["２", "０", "ab", "c", "'", "t", "不"]
    ids, word_of_token = tokens_of(from_words(words, None, where=""), tokenizer)
    alone = [tokenizer.encode(word).ids for word in words]
    assert ids.tolist() == np.concatenate(alone).tolist()
    assert word_of_token.tolist() == [n for n, of_word in enumerate(alone) for _ in of_word]


@pytest.mark.parametrize("words", [["a", "\u200b", "的"], ["\u200b", "a", "的"], ["a", "的", "\u200b"]])
def test_words_whose_tokens_vanish_get_an_answer_too(tokenizer: Tokenizer, words: list[str]) -> None:
    example = from_words(words, ["B-人", "I-人", "I-人"], where="")
    (row,) = task().encode(example, tokenizer, INVENTORY, max_length=48)
    asked = [number for number, word in enumerate(words) if word != "\u200b"]
    assert row.places.tolist() == asked
    # The network says one entity over the words that it sees.
    output = ByToken(np.array([[1, 0.75], [2, 0.25]], np.float32), None, row.places)
    (answer,) = task().decode([output], [example], INVENTORY)
    assert answer.words == tuple(words)
    assert len(answer.tags) == 3
    (found,) = answer.entities
    first, last = asked[0], asked[-1]
    assert (found.start, found.end) == (example.words[first, 0], example.words[last, 1])
    assert found.score == 0.5
    assert spans(answer.tags) == [Span("人", first, last + 1)]


def test_offsets_count_characters_of_the_text_as_it_is_given(tokenizer: Tokenizer) -> None:
    text = ' "我" ,\u3000他 “ab c” 的 \u0300'
    example = from_text(text, [Entity("人", 2, 3), Entity("地", 10, 14)], where="")
    kept = [text[start:end] for start, end in example.words.tolist()]
    assert kept == ['"', "我", '"', ",", "他", "“", "ab", "c", "”", "的", "\u0300"]
    rows = task().encode(example, tokenizer, INVENTORY, max_length=48)
    labels = {
        int(place): int(rows[0].token_labels[at])
        for at, place in zip(rows[0].asked, rows[0].places, strict=True)
    }
    pairs = np.array([[labels[int(place)], 1] for place in rows[0].places], np.float32)
    (answer,) = task().decode([ByToken(pairs, None, rows[0].places)], [example], INVENTORY)
    assert [(found.type, text[found.start : found.end]) for found in answer.entities] == [
        ("人", "我"),
        ("地", "ab c"),
    ]
    assert task().score([answer], [example])["f1"] == 1


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_long_texts_are_read_by_windows_that_ask_for_every_word_once(
    tokenizer: Tokenizer, overlap: float
) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        words = ["".join(rng.choice(list("abcdef"), size=int(rng.integers(1, 5)))) for _ in range(40)]
        example = from_words(words, ["O"] * 39 + ["B-人"], where="")
        rows = task(overlap=overlap).encode(example, tokenizer, INVENTORY, max_length=16)
        assert len(rows) > 1
        assert np.concatenate([row.places for row in rows]).tolist() == list(range(40))
        assert all(len(row.input_ids) <= 16 and row.cut == 0 for row in rows)
        for row in rows:
            tokens = tokenizer.tokens(row.input_ids)
            assert [tokens[at] for at in row.asked] == [words[place][0] for place in row.places]
            assert sum(row.token_labels != IGNORED) == len(row.asked)


def test_the_tags_that_are_learned_are_those_of_the_file_or_of_the_choice() -> None:
    bmes = [from_words(["我", "的"], ["B-人", "E-人"], where=""), from_words(["他"], ["S-地"], where="")]
    names = [f"{letter}-{kind}" for kind in ("人", "地") for letter in "BIES"]
    assert task().fit(bmes).labels == ("O", *names)
    real = [from_words(["我", "的"], ["B-人", "M-人"], where="")]
    assert task().fit(real).labels == ("O", "B-人", "M-人", "E-人", "S-人")
    io = [from_words(["我"], ["I-人"], where="")]
    assert task().fit(io).labels == ("O", "B-人", "I-人")
    assert task(scheme="bilou").fit(io).labels == ("O", "B-人", "I-人", "L-人", "U-人")
    assert task().fit([from_words(["我"], ["NN"], where="")]).labels == ("O", "NN")
    with pytest.raises(DataError, match="the 1 training texts have no entity"):
        task().fit([from_words(["我"], ["O"], where="")])


def test_a_tag_never_seen_in_training_names_its_line(tokenizer: Tokenizer) -> None:
    example = from_words(["我"], ["B-书"], where="a.txt, line 7")
    with pytest.raises(DataError, match=r"a\.txt, line 7: the tag 'B-书' is unknown; the model knows O"):
        task().encode(example, tokenizer, INVENTORY, max_length=9)


@pytest.mark.parametrize("tagger", CHOOSERS)
def test_the_loss_counts_words_and_no_other_token(tagger: str) -> None:
    torch.manual_seed(0)
    chooser = CHOOSERS[tagger](INVENTORY.labels, TaggingSettings(tagger=tagger, constrained=False))  # type: ignore[arg-type]
    emissions = torch.randn(3, 6, 5)
    labels = torch.full((3, 6), IGNORED)
    labels[0, [1, 2, 4]] = torch.tensor([1, 2, 0])
    labels[1, 3] = 3  # and the third row asks for nothing
    loss = chooser.loss(emissions, labels)
    moved = emissions.clone()
    moved[labels == IGNORED] += torch.randn(3, 6, 5)[labels == IGNORED]
    assert torch.equal(chooser.loss(moved, labels), loss)
    words = [emissions[0, [1, 2, 4]], emissions[1, [3]]]
    # All transitions are 0, so that the field says of every word what it says alone.
    alone = torch.cat(words).log_softmax(-1)[range(4), [1, 2, 0, 3]]
    assert loss.item() == pytest.approx(-alone.mean().item(), abs=1e-6)
    assert chooser.loss(emissions[2:], labels[2:]).item() == 0


def test_weights_of_tags_count_as_in_the_weighted_mean_of_torch() -> None:
    chooser = CHOOSERS["linear"](INVENTORY.labels, TaggingSettings())
    emissions, labels = (
        torch.randn(2, 6, 5),
        torch.tensor([[IGNORED, 0, 1, 2, 0, 0], [IGNORED, 3, 4, 4, 1, 1]]),
    )
    weights = torch.tensor([0.1, 1.0, 2.0, 0.5, 0.0])
    chooser.weigh(weights)
    expected = torch.nn.functional.cross_entropy(emissions.flatten(0, 1), labels.flatten(), weights)
    assert chooser.loss(emissions, labels).item() == pytest.approx(expected.item(), abs=1e-6)
    assert not chooser.state_dict()
    with pytest.raises(SettingsError, match="choose --tagger linear"):
        CHOOSERS["crf"](INVENTORY.labels, TaggingSettings(tagger="crf")).weigh(weights)


def test_a_field_chooses_for_texts_of_any_length_what_it_chooses_alone() -> None:
    torch.manual_seed(1)
    chooser = CHOOSERS["crf"](INVENTORY.labels, TaggingSettings(tagger="crf"))
    for parameter in chooser.parameters():
        parameter.data = torch.randn_like(parameter)
    rng = np.random.default_rng(1)
    texts = [rng.normal(size=(int(length), 5)).astype(np.float32) for length in (3, 0, 9, 1, 6, 0, 3)]
    together = chooser.choose(texts)
    for scores, pairs in zip(texts, together, strict=True):
        assert pairs.shape == (len(scores), 2)
        (alone,) = chooser.choose([scores])
        assert np.array_equal(pairs[:, 0], alone[:, 0])
        np.testing.assert_allclose(pairs[:, 1], alone[:, 1], atol=1e-6)
        tags = [INVENTORY.labels[int(number)] for number in pairs[:, 0]]
        for before, tag in zip(["O", *tags], tags, strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:]


FIRST, SECOND, PLAIN = "王学法所民得经十", "地于出就分对成会", "的一是在不了有和人这中大为上个国我以要他，。"


def names(path: Path, count: int, seed: int) -> Path:
    """Sentences in which a name is one of few characters, before one of few others."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        for _ in range(int(rng.integers(1, 4))):
            lines += [f"{character} O" for character in rng.choice(list(PLAIN), size=int(rng.integers(1, 5)))]
            lines += [f"{rng.choice(list(FIRST))} B-人", f"{rng.choice(list(SECOND))} E-人"]
        lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["linear", "crf"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    model = small_model(folder, "bert", pooler=False)
    outcome = finetune(
        "tagging",
        train=names(folder / "train.bmes", 250, 1),
        dev=names(folder / "dev.bmes", 60, 2),
        model=model,
        out=folder / "tuned",
        tagger=request.param,
        epochs=4,
        batch_size=16,
        learning_rate=3e-3,
        threads=1,
    )
    assert outcome.dev["f1"].mean > 0.9
    return folder


def test_a_tuned_model_scores_and_answers_from_its_folder(tuned: Path) -> None:
    report = evaluate("tagging", tuned / "dev.bmes", model=tuned / "tuned", threads=1)
    assert report["f1"] > 0.9
    assert report["labels"].keys() == {"人"}
    assert evaluate("tagging", tuned / "dev.bmes", model=tuned / "tuned", threads=1) == report
    (tuned / "texts.txt").write_text("好人我法会和\n\n用他他们说 我法  会\n", encoding="utf-8")
    count = predict(tuned / "texts.txt", model=tuned / "tuned", out=tuned / "answers.jsonl", threads=1)
    answers = [json.loads(line) for line in (tuned / "answers.jsonl").read_text("utf-8").splitlines()]
    assert count == len(answers) == 3
    assert [entity["text"] for entity in answers[0]["entities"]] == ["法会"]
    assert answers[1] == {"text": "", "entities": [], "words": [], "tags": []}
    assert answers[2]["entities"][-1]["text"] == "法  会"
    for answer in answers:
        for entity in answer["entities"]:
            assert answer["text"][entity["start"] : entity["end"]] == entity["text"]
            assert 0 < entity["score"] <= 1


def test_together_and_one_by_one_answers_are_the_same_in_order(tuned: Path) -> None:
    answerer = Answerer(tuned / "tuned", threads=1, batch_tokens=200)
    examples = list(answerer.task.read(tuned / "dev.bmes", labelled=False))
    together = answerer.answers(examples)
    for example, answer in zip(examples, together, strict=True):
        (alone,) = answerer.answers([example])
        assert (alone.text, alone.tags, alone.words) == (answer.text, answer.tags, answer.words)
        assert answer.text == example.text
        for one, other in zip(alone.entities, answer.entities, strict=True):
            assert one[:3] == other[:3]
            assert one.score == pytest.approx(other.score, abs=1e-5)


def test_long_texts_keep_their_order_and_every_word(tuned: Path) -> None:
    answerer = Answerer(tuned / "tuned", threads=1)
    short = [example.text for example in answerer.task.read(tuned / "dev.bmes", labelled=False)]
    text = "。".join(short[:30])
    (answer,) = answerer.answers([from_text(text, None, where="")])
    assert "".join(answer.words) == text
    assert len(answer.tags) == len(text) > 200
    pieces = answerer.answers([from_text(piece + "。", None, where="") for piece in short[:30]])
    found = [text[e.start : e.end] for e in answer.entities]
    expected = [piece.text[e.start : e.end] for piece in pieces for e in piece.entities]
    # In order, but one that is found more or less must not shift all behind it.
    blocks = SequenceMatcher(None, found, expected, autojunk=False).get_matching_blocks()
    assert sum(block.size for block in blocks) > 0.9 * len(expected)


def test_transformers_reads_the_folder_with_equal_scores(tuned: Path) -> None:
    transformers = pytest.importorskip("transformers")
    kind = transformers.AutoModelForTokenClassification
    theirs, told = kind.from_pretrained(tuned / "tuned", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert theirs.config.id2label[1] == "B-人"
    ours = load(tuned / "tuned", heads=["token-classification"])
    assert (set(ours.task_tensors) == set()) == (tuned.name.startswith("linear"))
    ids = torch.randint(5, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    from polyseme.models.batch import Batch

    with torch.no_grad():
        scores: Tensor = ours.heads["token-classification"](ours.backbone(Batch(ids)).last)
        assert torch.allclose(scores, theirs.eval()(input_ids=ids).logits, atol=1e-5)


def test_a_tagger_of_transformers_answers_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from foreign_models import foreign_folder

    labels = ["O", "I-LOC", "I-PER"]
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: n for n, name in enumerate(labels)}}
    folder = foreign_folder(tmp_path / "theirs", "BertForTokenClassification", tokenizer=True, **names)
    answerer = Answerer(folder, threads=1)
    example = TaggedText(
        "我和他", np.array([[0, 1], [1, 2], [2, 3]]), (Entity("PER", 0, 1), Entity("LOC", 1, 3)), ""
    )
    (answer,) = answerer.answers([dataclasses.replace(example, entities=None)])
    assert set(answer.tags) <= set(labels)
    report = answerer.report([answer], [example])
    assert set(report) >= {"f1", "precision", "recall", "accuracy"}


def test_answers_are_written_in_columns_too_and_read_back(tuned: Path) -> None:
    options = {"model": tuned / "tuned", "threads": 1}
    count = predict(tuned / "dev.bmes", out=tuned / "answers.conll", **options)
    predict(tuned / "dev.bmes", out=tuned / "same.jsonl", **options)
    columns = list(task().read(tuned / "answers.conll", labelled=True))
    lines = list(task().read(tuned / "same.jsonl", labelled=True))
    assert len(columns) == len(lines) == count == 60
    for one, other in zip(columns, lines, strict=True):
        assert (one.text, one.entities, one.tags) == (other.text, other.entities, other.tags)


def test_the_command_line_trains_answers_and_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = names(tmp_path / "data.bmes", 30, 3)
    with data.open("a", encoding="utf-8") as file:
        file.write("王 B-人 x\n\n")
    model = small_model(tmp_path, "bert", pooler=False)
    out = str(tmp_path / "tagging")
    words = ["--train", str(data), "--dev", str(data), "--model", str(model), "--out", out]
    words += ["--epochs", "1", "--threads", "1", "--tagger", "crf", "--scheme", "bio"]
    assert main(["finetune", *words, "tagging"]) == 2
    assert "data.bmes, line" in capsys.readouterr().err
    assert main(["finetune", *words, "tagging", "--skip-bad"]) == 0
    told = capsys.readouterr()
    assert "fine-tuned on 30 examples" in told.out
    assert "2 bad examples were left out" in told.err
    assert load(out, heads=["token-classification"]).card.labels == ["O", "B-人", "I-人"]
    assert main(["evaluate", "tagging", str(data), "--model", out, "--json", "--skip-bad"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["examples"] == 30
    assert [error.startswith(f"{data}, line ") for error in report["left_out"]] == [True]
    assert main(["predict", str(data), "--model", out, "--out", str(tmp_path / "a.jsonl"), "--skip-bad"]) == 0
    assert len((tmp_path / "a.jsonl").read_text("utf-8").splitlines()) == 30
    words_only = tmp_path / "words.txt"
    words_only.write_text("好\n人\n\n我\n", encoding="utf-8")
    columns = ["predict", str(words_only), "--model", out, "--out", str(tmp_path / "b.conll")]
    assert main([*columns, "--format", "columns"]) == 0
    written = (tmp_path / "b.conll").read_text("utf-8").split("\n")
    assert [line.split("\t")[0] for line in written] == ["好", "人", "", "我", "", ""]
    capsys.readouterr()
    assert main(["finetune", "tagging", *words, "--several"]) == 2
    assert "there is no option --several" in capsys.readouterr().err
