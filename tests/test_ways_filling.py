"""Few examples: the label fills a blank, with the head of pre-training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import small_model
from test_finetuning import reviews

from polyseme.checkpoints.loading import load
from polyseme.checkpoints.saving import save
from polyseme.errors import DataError, SettingsError
from polyseme.models.heads import MaskedLMHead
from polyseme.tasks.finetuning import Outcome, finetune
from polyseme.tasks.labelled_texts import LabelledText
from polyseme.tasks.predicting import Answerer, evaluate
from polyseme.tasks.rows import collate
from polyseme.tasks.settings import ClassificationSettings
from polyseme.tasks.task import Inventory
from polyseme.tasks.ways.filling import BlankClassification
from polyseme.tasks.ways.settings import PATTERNS, FillingSettings

WORDS = ("正=好", "负=差")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("filling")
    reviews(target / "train.tsv", 160, seed=0)
    reviews(target / "dev.tsv", 40, seed=1)
    small_model(target, "modernbert")
    model = load(small_model(target, "bert", pooler=False))
    torch.manual_seed(0)
    head = model.heads["masked-lm"] = MaskedLMHead(model.backbone.config)
    torch.nn.init.normal_(head.bias)
    save(model, target / "bert", replace=True)
    return target


def tuned(folder: Path, out: Path | None, **options: object) -> Outcome:
    return finetune(
        "classification",
        train=folder / "train.tsv",
        dev=folder / "dev.tsv",
        out=out,
        **{
            "model": folder / "bert",
            "way": "filling",
            "pattern": "review-zh",
            "label_words": WORDS,
            "threads": 1,
            "precision": "fp32",
            **options,
        },
    )


def blank(folder: Path, pattern: str, words: tuple[str, ...] = WORDS) -> BlankClassification:
    tokenizer = load(folder / "bert").tokenizer
    assert tokenizer is not None
    filling = FillingSettings(pattern=pattern, label_words=words)
    return BlankClassification(ClassificationSettings(), filling, tokenizer)


@pytest.mark.parametrize("words", [WORDS, ("正=很好", "负=很差")])
def test_a_label_scores_what_its_word_has_of_the_labels_words(folder: Path, words: tuple[str, ...]) -> None:
    """Against the whole head: the words' log probabilities at the blanks, renormalised over the labels."""
    model = load(folder / "bert", heads=["masked-lm"])
    assert model.tokenizer is not None
    task, inventory = blank(folder, "{text}，{blank}。", words), Inventory(labels=("正", "负"))
    examples = [LabelledText(text, None, ("正",), "a") for text in ("房间很大", "服务", "店")]
    rows = [row for e in examples for row in task.encode(e, model.tokenizer, inventory, max_length=20)]
    batch = collate(rows, padding=0, config=model.backbone.config)
    module = task.build(model.backbone, inventory, reading={}, head=model.heads["masked-lm"])
    with torch.no_grad():
        states = model.backbone(batch).last
        logits = model.heads["masked-lm"](states, model.backbone.embeddings.tokens.weight).log_softmax(dim=-1)
        ours = module.eval().outputs(model.backbone(batch), batch).softmax(dim=-1)
    for row in range(3):
        places = (batch.input_ids[row] == model.tokenizer.mask_id).nonzero()[:, 0].tolist()
        chances = []
        for entry in words:
            ids = model.tokenizer.encode(entry.split("=")[1]).ids.tolist()
            chances.append(sum(logits[row, place, i].item() for place, i in zip(places, ids, strict=True)))
        expected = np.exp(chances) / np.exp(chances).sum()
        assert ours[row].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_what_is_too_long_is_cut_from_the_example_and_never_from_the_pattern(folder: Path) -> None:
    model, inventory = load(folder / "bert"), Inventory(labels=("正", "负"))
    assert model.tokenizer is not None
    task = blank(folder, "pair-zh")
    for first, second in ((3, 40), (40, 3), (40, 40), (2, 2), (0, 9)):
        example = LabelledText("好" * first, "店" * second, None, "a")
        (row,) = task.encode(example, model.tokenizer, inventory, max_length=24)
        text = "".join(model.tokenizer.tokens(row.input_ids.tolist()))
        assert text.startswith("[CLS]")
        assert "？[MASK]，" in text
        assert row.cut == max(0, first + second + 5 - 24)
        assert len(row.input_ids) == min(24, first + second + 5)


def test_a_blank_is_learned_saved_and_filled_again(folder: Path, tmp_path: Path) -> None:
    outcome = tuned(folder, tmp_path / "out", epochs=10, learning_rate=5e-3, batch_size=16)
    assert outcome.dev["accuracy"].mean > 0.9
    report = evaluate("classification", folder / "dev.tsv", model=tmp_path / "out", threads=1)
    assert report["accuracy"] == outcome.dev["accuracy"].mean
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    (answer,) = Answerer(tmp_path / "out", threads=1).answers([LabelledText("房间很大好", None, None, "a")])
    inputs = tokenizer(
        "房间很大好" + PATTERNS["review-zh"].format(text="", blank="[MASK]"), return_tensors="pt"
    )
    with torch.no_grad():
        logits = theirs(**inputs).logits[0, inputs["input_ids"][0] == tokenizer.mask_token_id][0]
    chances = logits[tokenizer.convert_tokens_to_ids(["好", "差"])].double().softmax(0).tolist()
    assert [answer.probabilities[label] for label in ("正", "负")] == pytest.approx(chances, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": None}, "filling a blank needs a pattern: .* review-zh"),
        ({"pattern": "{text}"}, r"pattern '\{text\}' must hold \{text\} and \{blank\} once each"),
        ({"label_words": ("正=很好", "负=差")}, "equally many tokens, and they have: 很好 2, 差 1"),
        ({"label_words": ("正=好", "负=好")}, "must differ"),
        ({"label_words": ("正=好", "反=差")}, "label_words names '反', which is no label"),
        ({"label_words": ("正=好", "负=☃")}, "does not know the word '☃'"),
        ({"label_words": ("正好",)}, "label_words '正好' is not LABEL=WORD"),
        ({"model": "modernbert"}, "needs the masked-LM head of pre-training: .* has no masked-lm"),
        ({"several": True}, "a blank is filled by one label of a text"),
        ({"long_texts": "windows"}, "knows no windows"),
        ({"max_length": 7}, "leaves no room for a text in 7 tokens"),
    ],
)
def test_what_cannot_be_filled_is_named(folder: Path, options: dict[str, object], message: str) -> None:
    if "model" in options:
        options = {"model": folder / str(options["model"])}
    with pytest.raises(SettingsError, match=message):
        tuned(folder, None, **options)


def test_a_pair_in_a_pattern_for_one_text_names_the_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("好\t大\t正\n差\t小\t负\n好\t小\t正\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"pairs.tsv, line 1: this is a pair, which the pattern"):
        finetune(
            "classification",
            train=tmp_path / "pairs.tsv",
            dev=tmp_path / "pairs.tsv",
            model=folder / "bert",
            out=None,
            way="filling",
            pattern="review-zh",
            label_words=WORDS,
        )
