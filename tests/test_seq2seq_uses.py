"""Vectors, classifiers, perplexity and tokenizers of encoder-decoders, and the published sizes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import SENTENCES
from foreign_models import one_thread, redraw

from polyseme.checkpoints.loading import heads_in, load
from polyseme.checkpoints.model import Card, Model
from polyseme.checkpoints.saving import save
from polyseme.embedding.embedder import Embedder
from polyseme.errors import CheckpointError, DataError
from polyseme.evaluation.perplexity import perplexity
from polyseme.models.batch import Batch
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import TransformerConfig
from polyseme.models.transformer.encoder_decoder import Seq2SeqLMHead
from polyseme.records import from_plain
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.predicting import Answerer
from polyseme.text.learning import LearningSettings, learn
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.words import word_cutter, word_starts
from polyseme.training.recipes import read_recipe

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 48,
}


def small_model(folder: Path, name: str, *, seed: int = 0) -> Path:
    """A random model of a recipe, every parameter redrawn, with a tokenizer learned as the recipe says."""
    recipe = read_recipe(name)
    of_tokenizer = recipe.tokenizer | {"vocab_size": 400}
    of_tokenizer |= {"sentinels": 10} if "sentinels" in recipe.tokenizer else {}
    tokenizer = learn(SENTENCES * 3, from_plain(of_tokenizer, LearningSettings, where=name))
    fields = recipe.model | SMALL | {"decoder": recipe.sizes["tiny"]["decoder"]}
    fields |= {"vocab_size": tokenizer.vocab_size, "padding_id": tokenizer.padding_id}
    if "attention" in fields:
        fields["attention"] = fields["attention"] | {"head_size": 8}
    config = from_plain(fields, TransformerConfig, where=name)
    backbone, head = build(config), Seq2SeqLMHead(config)
    redraw(backbone, seed)
    save(Model(backbone, Card(family=recipe.family), {"seq2seq-lm": head}, tokenizer), folder / name)
    return folder / name


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("uses"), "t5")


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("uses"), "transformer")


@torch.no_grad()
def test_vectors_come_from_the_encoder_alone_of_every_layer(t5: Path) -> None:
    theirs = transformers.T5EncoderModel.from_pretrained(t5).eval()
    tokenizer = Tokenizer.load(t5)
    for layers in ("-1", "0", "1"):
        embedder = Embedder.load(t5, layers=layers, pooling="mean", threads=1)
        vectors = embedder.sentences(list(SENTENCES[:5]))
        for text, vector in zip(SENTENCES[:5], vectors, strict=True):
            ids = torch.tensor([[*tokenizer.encode(text).ids.tolist(), tokenizer.separator_id]])
            states = theirs(ids, output_hidden_states=True).hidden_states[int(layers)]
            assert np.abs(vector - states[0].mean(dim=0).numpy()).max() < 1e-5
    pieces = embedder.words([SENTENCES[0]])[0]
    assert "".join(pieces.texts) == SENTENCES[0]


def test_transformers_reads_the_tokenizer_and_its_end(t5: Path) -> None:
    ours = Tokenizer.load(t5)
    theirs = transformers.AutoTokenizer.from_pretrained(t5)
    for text in SENTENCES[:5]:
        assert theirs(text)["input_ids"] == [*ours.encode(text).ids.tolist(), ours.separator_id]
    assert theirs.eos_token == "</s>"
    assert theirs.pad_token_id == ours.padding_id
    assert theirs.convert_tokens_to_ids("<extra_id_0>") == ours.sentinel_ids[0] == ours.vocab_size - 1
    settings = transformers.AutoConfig.from_pretrained(t5)
    assert (settings.eos_token_id, settings.pad_token_id) == (ours.separator_id, ours.padding_id)


def test_a_tokenizer_of_transformers_is_read_with_its_sentinels(tmp_path: Path) -> None:
    pieces = [
        (piece, -3.0 - n) for n, piece in enumerate(["▁", "人", "民", "▁人民", "法院", "▁a", "b", "▁ab"])
    ]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces]
    vocabulary += [(f"<extra_id_{n}>", 0.0) for n in reversed(range(5))]
    theirs = transformers.T5Tokenizer(vocab=vocabulary, extra_ids=5)
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    for text in ("人民法院", "ab 人民 b", "法院 c"):
        assert ours.frame.single(ours.encode(text).ids).tolist() == theirs(text)["input_ids"]
    assert list(ours.sentinel_ids) == [theirs.convert_tokens_to_ids(f"<extra_id_{n}>") for n in range(5)]
    assert (ours.padding_id, ours.separator_id, ours.unknown_id) == (0, 1, 2)
    assert not set(ours.encode("ab <extra_id_0> b").ids.tolist()) & set(ours.sentinel_ids)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Which of two words a text has."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    for name, count in (("train", 120), ("dev", 40)):
        lines = ["text\tlabel"]
        for _ in range(count):
            label = int(rng.integers(2))
            words = rng.permutation(
                [("人民法院", "下载程序")[label], *rng.choice(["合同", "通知", "支持"], 2)]
            )
            lines.append(f"{''.join(words)}\t{('law', 'tech')[label]}")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["t5", "transformer"])
def test_a_classifier_reads_the_encoder_alone(
    name: str, labelled: Path, t5: Path, translator: Path, tmp_path: Path
) -> None:
    outcome = finetune(
        "classification",
        train=labelled / "train.tsv",
        dev=labelled / "dev.tsv",
        model={"t5": t5, "transformer": translator}[name],
        out=tmp_path / "judge",
        epochs=8,
        learning_rate=3e-3,
        threads=1,
    )
    assert outcome.dev["accuracy"].mean > 0.9
    judge = load(tmp_path / "judge", heads=["classification"])
    assert judge.backbone.config.decoder is None
    assert judge.card.labels == ["law", "tech"]
    assert heads_in(tmp_path / "judge") == ["classification"]
    answers = Answerer(tmp_path / "judge", threads=1)
    examples = list(answers.task.read(labelled / "dev.tsv", labelled=True))
    report = answers.report(answers.answers(examples), examples)
    assert report["accuracy"] == pytest.approx(outcome.dev["accuracy"].mean)
    if name == "t5":
        theirs, info = transformers.T5EncoderModel.from_pretrained(
            tmp_path / "judge", output_loading_info=True
        )
        assert not info["missing_keys"]
        assert set(info["unexpected_keys"]) == {"classifier.weight", "classifier.bias"}
        ids = torch.tensor([[5, 6, 7, 2]])
        with torch.no_grad():
            states = theirs.eval()(ids).last_hidden_state
            scores = states.mean(dim=1) @ judge.heads["classification"].dense.weight.T
            expected = judge.heads["classification"](judge.backbone(Batch(ids)), None)
        bias = judge.heads["classification"].dense.bias
        assert torch.allclose(scores + bias, expected, atol=1e-5)


@torch.no_grad()
def reference_span(theirs: Any, tokenizer: Tokenizer, ids: list[int], place: int, stop: int) -> float:
    """−log p of one token, asked of transformers in a row of its own."""
    first = tokenizer.sentinel_ids[0]
    row = torch.tensor([[*ids[:place], first, *ids[stop:], tokenizer.separator_id]])
    logits = theirs(input_ids=row, decoder_input_ids=torch.tensor([[tokenizer.padding_id, first]])).logits
    return -float(logits[0, 1].log_softmax(dim=-1)[ids[place]])


@pytest.mark.parametrize("hide", ["token", "rest-of-word"])
def test_every_token_is_a_span_once(hide: str, t5: Path, tmp_path: Path) -> None:
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(t5).eval()
    tokenizer = Tokenizer.load(t5)
    texts = ["人民法院依法独立行使审判权", "安装完成以后Linux"]
    (tmp_path / "text.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    found = perplexity(tmp_path / "text.txt", model=t5, hide=hide, words="rjieba", threads=1)
    assert found.kind == "pseudo-perplexity"
    nats = 0.0
    for text in texts:
        ids = tokenizer.encode(text).ids.tolist()
        words = word_of_each_token(tokenizer, text)
        for place in range(len(ids)):
            stop = place + 1
            while hide == "rest-of-word" and stop < len(ids) and words[stop] == words[place]:
                stop += 1
            nats += reference_span(theirs, tokenizer, ids, place, stop)
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.tokens == sum(len(tokenizer.encode(text).ids) for text in texts)


def word_of_each_token(tokenizer: Tokenizer, text: str) -> list[int]:
    _, begins, _ = tokenizer.encode_joined([text])
    starts = word_starts(word_cutter("rjieba"), text)
    return (np.searchsorted(starts, begins, side="right") - 1).tolist()


@torch.no_grad()
def test_pairs_are_scored_by_their_second_text_given_the_first(t5: Path, tmp_path: Path) -> None:
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(t5).eval()
    tokenizer = Tokenizer.load(t5)
    pairs = [("人民法院", "审判权"), ("安装", "下载最新的安装包"), ("合同的内容", "当事人约定")]
    text = "\n".join("\t".join(pair) for pair in pairs) + "\n"
    (tmp_path / "pairs.tsv").write_text(text, encoding="utf-8")
    nats = 0.0
    for first, second in pairs:
        source = torch.tensor([[*tokenizer.encode(first).ids.tolist(), tokenizer.separator_id]])
        written = tokenizer.encode(second).ids.tolist()
        read = torch.tensor([[tokenizer.padding_id, *written[:-1]]])
        logs = theirs(input_ids=source, decoder_input_ids=read).logits[0].log_softmax(dim=-1)
        nats -= float(logs[torch.arange(len(written)), written].sum())
    for tokens in (8, 8192):
        found = perplexity(
            tmp_path / "pairs.tsv",
            model=t5,
            format="pairs",
            words="characters",
            threads=1,
            batch_tokens=tokens,
        )
        assert found.kind == "perplexity"
        assert found.nats == pytest.approx(nats, rel=1e-5)
        assert found.characters == sum(len(second) for _, second in pairs)
        assert found.per_token == pytest.approx(math.exp(nats / found.tokens), rel=1e-5)


def test_what_cannot_be_scored_is_one_clear_line(translator: Path, t5: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("人民法院\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="this model was not trained on hidden spans"):
        perplexity(tmp_path / "text.txt", model=translator)
    (tmp_path / "long.tsv").write_text(f"人民\t{'合' * 60}\n", encoding="utf-8")
    with pytest.raises(DataError, match="a second text has 60 tokens, but this model writes at most 48"):
        perplexity(tmp_path / "long.tsv", model=t5, format="pairs", words="characters")
    (tmp_path / "blank.tsv").write_text("人民\t\x01\n", encoding="utf-8")
    with pytest.raises(DataError, match="no token in all the text"):
        perplexity(tmp_path / "blank.tsv", model=t5, format="pairs")


PUBLISHED = {
    ("t5", "small"): 60.5,
    ("t5", "base"): 222.9,
    ("t5", "large"): 737.7,
    ("t5", "3b"): 2851.6,
    ("t5", "11b"): 11307.3,
    ("t5-1.1", "small"): 77.0,
    ("t5-1.1", "base"): 247.6,
    ("t5-1.1", "large"): 783.2,
    ("t5-1.1", "xl"): 2849.8,
    ("t5-1.1", "xxl"): 11135.3,
}
"""Millions of parameters of the released files, whose tables have 32,128 rows."""


@pytest.mark.parametrize(("name", "size"), PUBLISHED)
def test_the_released_sizes_have_their_parameters(name: str, size: str) -> None:
    assert millions(name, size, 32_128) == pytest.approx(PUBLISHED[name, size], abs=0.06)


def test_the_transformer_has_the_papers_sizes_but_for_rounding() -> None:
    assert millions("transformer", "big", 37_000) == pytest.approx(213, rel=0.01)
    assert millions("transformer", "base", 37_000) == pytest.approx(65, rel=0.04)


def millions(name: str, size: str, vocab_size: int) -> float:
    recipe = read_recipe(name)
    fields = dict(recipe.model)
    for key, value in recipe.sizes[size].items():
        fields[key] = fields.get(key, {}) | value if isinstance(value, dict) else value
    config = from_plain(fields | {"vocab_size": vocab_size}, TransformerConfig, where=name)
    with torch.device("meta"):
        modules = (build(config), Seq2SeqLMHead(config))
    return sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6
