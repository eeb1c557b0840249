"""Ranking: queries and candidates are read, scored in pairs, ordered, and kept as a cross-encoder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounding import ONE_IN_SIX_DIGITS
from small_models import CHARACTERS, characters, small_model

from polyseme.checkpoints.loading import load
from polyseme.errors import DataError
from polyseme.models.batch import Batch
from polyseme.tasks.answer_settings import RankingSettings
from polyseme.tasks.candidates import Query
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.predicting import evaluate, predict
from polyseme.tasks.ranking import LOSSES, Order, Ranking
from polyseme.tasks.ranking_scores import average_precision, ndcg, ranked, ranking_scores, reciprocal_rank

FAST = {"threads": 1, "precision": "fp32", "learning_rate": 5e-3, "batch_size": 16, "epochs": 1}


def made_up(path: Path, count: int, *, seed: int) -> Path:
    """Of four candidates the one with the query's digit suits."""
    rng = np.random.default_rng(seed)
    rows = ["query\tcandidate\tlabel"]
    for number in range(count):
        digits = rng.permutation(6)[:4]
        query = "".join(rng.choice(list(CHARACTERS[:30]), 3)) + f"第{digits[0]}问{number}"
        for place in rng.permutation(4):
            texts = list(rng.choice(list(CHARACTERS[:30]), int(rng.integers(2, 8))))
            texts.insert(int(rng.integers(0, len(texts))), str(digits[place]))
            rows.append(f"{query}\t{''.join(texts)}\t{int(place == 0)}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("ranking")
    made_up(target / "train.tsv", 240, seed=0)
    made_up(target / "dev.tsv", 40, seed=1)
    small_model(target, "bert")
    return target


@pytest.fixture(scope="module", params=["binary", "softmax"])
def ranker(request: pytest.FixtureRequest, folder: Path) -> Path:
    out = folder / f"tuned-{request.param}"
    outcome = finetune(
        "ranking",
        train=folder / "train.tsv",
        dev=folder / "dev.tsv",
        model=folder / "bert",
        out=out,
        loss=request.param,
        **{**FAST, "epochs": 4},
    )
    assert outcome.examples == 240
    assert set(outcome.dev) == {"mrr", "map", "ndcg_at_10", "accuracy"}
    return out


def test_a_fine_tuned_folder_scores_as_it_did_in_training(ranker: Path, folder: Path) -> None:
    report = evaluate("ranking", folder / "dev.tsv", model=ranker, threads=1)
    assert (report["examples"], report["pairs"], report["queries_with_an_answer"]) == (40, 160, 40)
    best = max(line["dev"]["mrr"] for line in lines(ranker / "journal.jsonl"))
    assert report["mrr"] == pytest.approx(best, abs=1e-9)
    assert report["mrr"] == pytest.approx(report["map"])  # one suits


def test_the_folder_is_a_cross_encoder_with_the_same_scores(ranker: Path, folder: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    predict(folder / "dev.tsv", model=ranker, out=folder / "a", threads=1)
    encoder = library.CrossEncoder(str(ranker), device="cpu")
    rows = [line.split("\t")[:2] for line in (folder / "dev.tsv").read_text("utf-8").splitlines()[1:]]
    given = [score for answer in lines(folder / "a") for score in answer["scores"]]
    assert given == pytest.approx(encoder.predict(rows).tolist(), abs=1e-5)
    for answer in lines(folder / "a"):
        assert [answer["scores"][number] for number in answer["order"]] == sorted(answer["scores"])[::-1]


def test_a_query_gets_the_same_scores_alone_and_among_others(ranker: Path, folder: Path) -> None:
    for name, tokens in (("alone", 1), ("together", 20_000)):
        predict(folder / "dev.tsv", model=ranker, out=folder / name, batch_tokens=tokens, threads=1)
    for alone, together in zip(lines(folder / "alone"), lines(folder / "together"), strict=True):
        assert alone["query"] == together["query"]
        assert alone["scores"] == pytest.approx(together["scores"], rel=ONE_IN_SIX_DIGITS)


def test_a_cross_encoder_of_another_library_is_trained_further(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = characters(tmp_path / "theirs")
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=48,
        num_labels=1,
    )
    theirs = transformers.BertForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs", heads=["classification"])
    assert ours.card.problem == "regression"
    ids = torch.randint(5, 90, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = ours.heads["classification"](ours.backbone(Batch(ids)), None)
        torch.testing.assert_close(scores, theirs(input_ids=ids).logits)
    dev = folder / "dev.tsv"
    assert evaluate("ranking", dev, model=tmp_path / "theirs", threads=1)["pairs"] == 160
    assert predict(dev, model=tmp_path / "theirs", out=tmp_path / "a", task="ranking", threads=1) == 40
    assert predict(dev, model=tmp_path / "theirs", out=tmp_path / "b", threads=1) == 160
    outcome = finetune(
        "ranking",
        train=folder / "train.tsv",
        dev=dev,
        model=tmp_path / "theirs",
        out=None,
        limit=16,
        **FAST,
    )
    assert outcome.examples == 16


def brute_ndcg(scores: list[float], grades: list[float], at: int) -> float:
    order = sorted(range(len(scores)), key=lambda n: (-scores[n], grades[n]))
    gain = sum(grades[n] / np.log2(rank + 2) for rank, n in enumerate(order[:at]))
    best = sum(grade / np.log2(rank + 2) for rank, grade in enumerate(sorted(grades, reverse=True)[:at]))
    return float(gain / best)


def test_scores_agree_with_scikit_learn_and_with_counting() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(300):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 15))
        grades = rng.integers(0, 3, count).astype(float)
        grades[int(rng.integers(0, count))] = 2.0
        scores = rng.permutation(count) / count  # no two alike
        order = ranked(scores.tolist(), grades.tolist())
        assert average_precision(order) == pytest.approx(metrics.average_precision_score(grades > 0, scores))
        assert ndcg(order, at=10) == pytest.approx(metrics.ndcg_score([grades], [scores], k=10))
        assert ndcg(order, at=10) == pytest.approx(brute_ndcg(scores.tolist(), grades.tolist(), 10))
        better = max(scores[n] for n in range(count) if grades[n] > 0)
        assert reciprocal_rank(order) == 1 / sum(score >= better for score in scores)


def test_scores_by_hand() -> None:
    order = ranked([0.9, 0.8, 0.7, 0.6], [0, 1, 0, 1])
    assert order.tolist() == [0, 1, 0, 1]
    assert reciprocal_rank(order) == 0.5
    assert average_precision(order) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert ndcg(order, at=2) == pytest.approx((1 / np.log2(3)) / (1 + 1 / np.log2(3)))
    # Equal scores help nobody, and a query without an answer does not count.
    assert ranking_scores([[0.5, 0.5], [0.1]], [[1, 0], [0]])["mrr"] == 0.5
    answers = [Order("q", ("a", "b"), (0.9, 0.4)), Order("r", ("c",), (0.6,))]
    queries = [Query("q", ("a", "b"), (2.0, 0.0), ""), Query("r", ("c",), (0.0,), "")]
    assert Ranking().score(answers, queries)["accuracy"] == pytest.approx(2 / 3)


def test_the_losses_are_those_of_pairs_and_of_whole_lists() -> None:
    labels = torch.tensor([[1, 0, 0.5], [0, 1, 1.0], [0, 2, 0.0], [1, 0, 0.0], [0, 1, 0.0]])
    logits = torch.tensor([0.3, -0.2, 1.0, 0.7, 0.1])
    chances = torch.sigmoid(logits)
    pairs = -(labels[:, 2] * chances.log() + (1 - labels[:, 2]) * (1 - chances).log()).mean()
    assert float(LOSSES["binary"](logits, labels)) == pytest.approx(float(pairs))
    first = logits[:3].log_softmax(0)
    whole = -(first[0] / 3 + first[1] * 2 / 3)  # the second query has nothing that suits
    assert float(LOSSES["softmax"](logits, labels)) == pytest.approx(float(whole))


def test_pairs_lists_and_positives_give_the_same_queries(tmp_path: Path) -> None:
    forms = {
        "a.tsv": "q\ta\t1\nr\tc\t0\nq\tb\t0\nr\td\t1\n",
        "b.csv": "query,answer,label\nq,a,1\nr,c,0\nq,b,0\nr,d,1\n",
        "c.jsonl": '{"query": "q", "candidates": ["a", "b"], "labels": [1, 0]}\n'
        '{"query": "r", "candidates": [{"text": "c", "label": 0}, {"text": "d", "label": 1}]}\n',
        "d.jsonl": '{"query": "q", "positives": ["a"], "negatives": ["b"]}\n'
        '{"query": "r", "negatives": ["c"], "positives": ["d"]}\n',
    }
    for name, content in forms.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        found = list(Ranking().read(tmp_path / name, labelled=True))
        pairs = [set(zip(one.candidates, one.grades or (), strict=True)) for one in found]
        assert [one.text for one in found] == ["q", "r"], name
        assert pairs == [{("a", 1.0), ("b", 0.0)}, {("c", 0.0), ("d", 1.0)}], name
        assert all(one.grades is None for one in Ranking().read(tmp_path / name, labelled=False))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.tsv", "q\ta\tx\n", r"f.tsv, line 1: the label is 'x'; it must be a number from 0 up"),
        ("f.tsv", "q\ta\t-1\n", "the label is '-1'"),
        ("f.tsv", "q\ta\tnan\n", "the label is 'nan'"),
        ("f.tsv", "q\t \t1\n", "line 1: 1 is ' '; it must be a text, and not empty"),
        ("f.tsv", "q\ta\n", "has no column known as a label; it has 0, 1"),
        ("f.csv", "query,label\nq,1\n", "has no column known as a candidate"),
        ("f.jsonl", '{"query": "q", "candidates": "a"}', "line 1: candidates is 'a'; it must be a list"),
        ("f.jsonl", '{"query": "q", "candidates": []}', "line 1: the query has no candidates"),
        ("f.jsonl", '{"query": "q", "candidates": ["a"]}', "line 1: the label is 'None'"),
    ],
)
def test_broken_files_are_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        list(Ranking(RankingSettings()).read(tmp_path / name, labelled=True))


def test_pairs_that_are_all_alike_teach_nothing() -> None:
    with pytest.raises(DataError, match=r"only the labels \[1.0\]"):
        Ranking().fit([Query("q", ("a",), (1.0,), "")])
