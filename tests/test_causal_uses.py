"""Models that read from the left in use: perplexity, vectors, and classifiers beside the LM loss."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from causal_models import causal_model
from corpora import SENTENCES
from foreign_models import one_thread
from small_models import small_model

from polyseme.checkpoints.loading import heads_in, load
from polyseme.embedding.embedder import Embedder
from polyseme.errors import SettingsError
from polyseme.evaluation.perplexity import perplexity
from polyseme.generation.generating import generate
from polyseme.models.batch import IGNORED, Batch
from polyseme.models.heads import ClassificationHead
from polyseme.tasks.auxiliary_lm import WithLM
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.predicting import predict
from polyseme.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

assert one_thread  # a fixture, used by every test here
TEXT = "仲裁协议应当采用书面形式。\n服务器 server 没有响应！\n\n人民法院独立行使审判权，\n打开。\n\n好\n"
DOCUMENTS = [TEXT.split("\n\n")[n].split("\n") for n in range(3)]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return causal_model(tmp_path_factory.mktemp("uses"))


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return causal_model(tmp_path_factory.mktemp("uses"), "gpt")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("uses") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def streams(folder: Path) -> list[list[int]]:
    tokenizer = Tokenizer.load(folder)
    found = []
    for lines in DOCUMENTS:
        ids = [n for line in lines if line for n in tokenizer.encode(line).ids.tolist()]
        found.append([tokenizer.separator_id, *ids])
    return found


def reference(folder: Path, longest: int) -> tuple[float, int]:
    """−log p of all tokens by transformers: in every window those that the one before did not ask."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    total, count = 0.0, 0
    for stream in streams(folder):
        done, start = 0, 0
        while done < len(stream) - 1:
            window = stream[start : start + longest]
            with torch.no_grad():
                logs = model(torch.tensor([window])).logits[0].double().log_softmax(-1)
            for place in range(len(window)):
                if done <= start + place < len(stream) - 1:
                    total -= float(logs[place, stream[start + place + 1]])
                    count += 1
            done = min(start + longest, len(stream) - 1)
            start += longest - longest // 2
    return total, count


@pytest.mark.parametrize("name", ["gpt2", "gpt"])
@pytest.mark.parametrize("longest", [48, 11, 4])
def test_every_token_is_asked_once_from_those_before_it(
    name: str, longest: int, text: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    found = perplexity(text, model=folder, max_length=longest)
    expected, count = reference(folder, longest)
    assert found.kind == "perplexity"
    assert found.tokens == count == sum(len(stream) - 1 for stream in streams(folder))
    assert found.nats == pytest.approx(expected, rel=1e-5)
    assert found.per_token == pytest.approx(math.exp(expected / count), rel=1e-4)
    small = perplexity(text, model=folder, max_length=longest, batch_tokens=1)
    assert small.nats == pytest.approx(found.nats, rel=1e-6)


def test_nothing_before_texts_costs_the_size_of_the_vocabulary(
    gpt2: Path, text: Path, tmp_path: Path
) -> None:
    bare = causal_model(tmp_path, tokenizer={"separator_token": "", "vocab_size": 399})
    assert Tokenizer.load(bare).special_tokens == {}
    model = load(bare, heads=["causal-lm"])
    found = perplexity(text, model=bare)
    total = 0.0
    size = model.backbone.config.vocab_size
    for stream in streams_without_separator(bare):
        logits = (
            model.backbone(Batch(torch.tensor([stream]))).last[0] @ model.backbone.embeddings.tokens.weight.T
        )
        logs = logits.detach().double().log_softmax(-1)
        total += math.log(size) - sum(float(logs[n, token]) for n, token in enumerate(stream[1:]))
    assert found.nats == pytest.approx(total, rel=1e-5)
    assert found.tokens == sum(map(len, streams_without_separator(bare)))


def streams_without_separator(folder: Path) -> list[list[int]]:
    tokenizer = Tokenizer.load(folder)
    return [[n for line in lines if line for n in tokenizer.encode(line).ids.tolist()] for lines in DOCUMENTS]


@pytest.mark.parametrize("pooling", ["last", "mean", "first", "max"])
def test_texts_have_the_same_vector_alone_and_in_any_batch_empty_ones_too(gpt2: Path, pooling: str) -> None:
    some = ["", *SENTENCES, "a", "", SENTENCES[0] * 4]
    reader = Embedder.load(gpt2, pooling=pooling, threads=1)
    whole = reader.sentences(some)
    assert np.isfinite(whole).all()
    assert np.abs(whole[0]).max() > 0
    alone = np.concatenate([reader.sentences([text]) for text in some])
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    small = Embedder.load(gpt2, pooling=pooling, threads=1, batch_tokens=1)
    np.testing.assert_allclose(small.sentences(some), whole, atol=1e-5)
    assert reader.tokens([""])[0].vectors.shape == (0, 32)
    (pieces,) = reader.tokens([SENTENCES[1]])
    assert len(pieces.vectors) == len(Tokenizer.load(gpt2).encode(SENTENCES[1]).ids)


def test_the_last_state_is_that_of_the_texts_own_last_token(gpt2: Path) -> None:
    reader = Embedder.load(gpt2, pooling="last", threads=1)
    (pieces,) = reader.tokens([SENTENCES[2]])
    np.testing.assert_allclose(
        reader.sentences([SENTENCES[0], SENTENCES[2]])[1], pieces.vectors[-1], atol=1e-5
    )


def examples(path: Path, count: int, *, seed: int) -> Path:
    """Texts whose label is whether they hold 合同 or 程序; some are empty but for that."""
    rng = np.random.default_rng(seed)
    lines = ["label\ttext_a"]
    for number in range(count):
        parts = rng.choice(SENTENCES[:6], int(rng.integers(0, 2))).tolist()
        parts.insert(int(rng.integers(0, len(parts) + 1)), ["合同", "程序"][number % 2])
        lines.append(f"{number % 2}\t{''.join(parts)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "lm_weight"), [("gpt2", 0.0), ("gpt2", 0.5), ("gpt", 0.5)])
def test_a_classifier_learns_and_answers_the_same_in_transformers(
    name: str, lm_weight: float, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    outcome = finetune(
        "classification",
        train=examples(tmp_path / "train.tsv", 320, seed=0),
        dev=examples(tmp_path / "dev.tsv", 40, seed=1),
        model=folder,
        out=tmp_path / "tuned",
        threads=1,
        precision="fp32",
        learning_rate=5e-3,
        batch_size=16,
        epochs=4,
        lm_weight=lm_weight,
    )
    assert outcome.dev["accuracy"].mean > 0.8
    assert heads_in(tmp_path / "tuned") == ["classification"]
    model = load(tmp_path / "tuned", heads=["classification"])
    head = model.heads["classification"]
    assert isinstance(head, ClassificationHead)
    assert head.pooling == "last"
    dev = tmp_path / "dev.tsv"
    assert predict(dev, model=tmp_path / "tuned", out=tmp_path / "answers.jsonl", threads=1) == 40
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tuned")
    assert model.tokenizer is not None
    some = ["合同的内容由当事人约定", "程序"]
    for text in some:
        ids = model.tokenizer.framed(model.tokenizer.encode(text).ids)
        assert tokenizer(text)["input_ids"] == ids.tolist()
        row = torch.from_numpy(ids.astype(np.int64))[None]
        with torch.no_grad():
            ours = head(model.backbone(Batch(row)), None)
            torch.testing.assert_close(ours, theirs(row).logits, atol=1e-4, rtol=0)
    again = load(tmp_path / "tuned", heads=["causal-lm"])  # the head for tokens is the table itself
    (found,) = generate(["合同"], model=again, max_new_tokens=3)
    assert found.answers[0].tokens <= 3


def test_the_lm_loss_beside_a_task_is_the_mean_over_all_following_tokens(gpt2: Path) -> None:
    model = load(gpt2, heads=["causal-lm"])
    ids = torch.randint(0, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([[9], [4], [1]])
    batch = Batch(ids, attention_mask=mask)
    states = model.backbone(batch)
    total, parts = WithLM(0.5)(torch.tensor(2.0), model.backbone, states, batch)
    logits = states.last @ model.backbone.embeddings.tokens.weight.T
    labels = torch.where(mask, ids, IGNORED)[:, 1:]
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten())
    assert parts["causal-lm"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert total.item() == pytest.approx(2.0 + 0.5 * expected.item(), rel=1e-5)


def test_the_lm_loss_needs_a_model_that_reads_from_the_left(tmp_path: Path) -> None:
    options: dict[str, Any] = {"lm_weight": 0.5, "threads": 1, "epochs": 1}
    with pytest.raises(SettingsError, match=r"lm_weight 0.5 is for models that read from the left"):
        finetune(
            "classification",
            train=examples(tmp_path / "train.tsv", 20, seed=0),
            dev=examples(tmp_path / "dev.tsv", 8, seed=1),
            model=small_model(tmp_path, "bert"),
            out=None,
            **options,
        )
