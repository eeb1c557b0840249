"""Numbers of texts and pairs: read, learned, correlated, and saved as transformers has them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import CHARACTERS, small_model

from polyseme.checkpoints.loading import load
from polyseme.embedding.embedder import Embedder
from polyseme.errors import DataError
from polyseme.evaluation.sentence_similarity import score_cosines
from polyseme.records import from_plain
from polyseme.tasks.finetuning import finetune
from polyseme.tasks.metrics import confusion, matthews, pearson, ranks, spearman
from polyseme.tasks.predicting import evaluate, predict
from polyseme.tasks.regression import Regression, ScoredText
from polyseme.tasks.rows import collate
from polyseme.tasks.settings import RegressionSettings
from polyseme.tasks.skipping import leaving_out

DATA = Path(__file__).parents[2] / "shared" / "data"
FAST = {"threads": 1, "precision": "fp32", "learning_rate": 3e-3, "batch_size": 16}


def task(**options: object) -> Regression:
    return Regression(from_plain(options, RegressionSettings, where="test"))


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def shares(path: Path, count: int, *, seed: int) -> Path:
    """Texts whose score is how often 好 stands in them, times ten."""
    rng = np.random.default_rng(seed)
    rest = [character for character in CHARACTERS if character not in "好，"]
    lines = []
    for _ in range(count):
        good = int(rng.integers(0, 6))
        text = [*rng.choice(rest, 8 - good), *("好" * good)]
        lines.append(f"{''.join(rng.permutation(text))}\t{good * 10}")
    return write(path, *lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("regression")
    shares(target / "train.tsv", 480, seed=0)
    shares(target / "dev.tsv", 60, seed=1)
    model = small_model(target, "bert")
    outcome = finetune(
        "regression",
        train=target / "train.tsv",
        dev=target / "dev.tsv",
        model=model,
        out=target / "tuned",
        epochs=8,
        **FAST,
    )
    assert outcome.dev["spearman"].mean > 0.8
    return target


def test_correlations_agree_with_scipy_ties_included() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(50):
        size = int(rng.integers(3, 40))
        given, true = rng.integers(0, 6, size).astype(float), rng.normal(size=size).round(1)
        if len(set(given)) < 2 or len(set(true)) < 2:
            continue
        assert pearson(given, true) == pytest.approx(stats.pearsonr(given, true)[0], abs=1e-12)
        assert spearman(given, true) == pytest.approx(stats.spearmanr(given, true)[0], abs=1e-12)
        assert ranks(given).tolist() == stats.rankdata(given).tolist()


def test_numbers_that_never_change_correlate_with_nothing() -> None:
    assert pearson([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) == spearman([1.0, 2.0], [5.0, 5.0]) == 0.0


def test_matthews_agrees_with_scikit_learn_for_two_and_for_more_classes() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    for classes in (2, 2, 3, 5):
        for _ in range(20):
            given, true = ([str(n) for n in rng.integers(0, classes, 30)] for _ in range(2))
            counts = confusion(given, true, [str(n) for n in range(classes)])
            assert matthews(counts) == pytest.approx(sklearn.matthews_corrcoef(true, given), abs=1e-12)
    assert matthews(confusion(["1"] * 4, ["0", "1", "1", "0"], ["0", "1"])) == 0.0


def test_scores_are_read_by_name_and_by_order(tmp_path: Path) -> None:
    named = write(tmp_path / "a.tsv", "id\tsentence_A\tsentence_B\trelatedness_score", "1\t好\t坏\t4.5")
    plain = write(tmp_path / "b.csv", '"A plane, taking off.",An air plane.,5.0')
    (first,), (second,) = (list(task().read(path, labelled=True)) for path in (named, plain))
    assert (first.text, first.pair, first.score) == ("好", "坏", 4.5)
    assert (second.text, second.pair, second.score) == ("A plane, taking off.", "An air plane.", 5.0)
    assert next(task().read(plain, labelled=False)).score is None


@pytest.mark.parametrize("score", ["high", "", "nan", "inf"])
def test_a_score_that_is_no_number_names_file_line_and_rule(score: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tscore", "好\t1", f"坏\t{score}")
    with pytest.raises(DataError, match=r"a\.tsv, line 3: score is .*; a score must be a number"):
        list(task().read(path, labelled=True))
    with leaving_out(True) as left:
        assert len(list(task().read(path, labelled=True))) == 1
    assert len(left.errors) == 1


def test_scores_that_are_all_alike_are_refused() -> None:
    with pytest.raises(DataError, match="the 2 training texts have 1 different scores"):
        task().fit([ScoredText(text, None, 3.0, "") for text in "ab"])


def test_a_fresh_head_begins_with_the_mean_and_errors_count_in_deviations(tmp_path: Path) -> None:
    model = load(small_model(tmp_path, "bert"), fresh=["pooler"])
    examples = [ScoredText(text, None, score, "") for text, score in (("好", 10.0), ("坏", 50.0))]
    scale = task().fit(examples)
    assert (scale.mean, scale.deviation) == (30.0, 20.0)
    module = task().build(model.backbone, scale, reading={"pooling": "pooler"})
    assert module.head.dense.bias.item() == 30.0
    with torch.no_grad():
        module.head.dense.weight.zero_()
    rows = [task().encode(e, model.tokenizer, scale, max_length=9)[0] for e in examples]
    loss = module.eval()(collate(rows, padding=0, config=model.backbone.config))
    assert loss.total.item() == pytest.approx(1.0)  # both are one deviation off


def test_transformers_gives_the_same_numbers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    predict(folder / "dev.tsv", model=folder / "tuned", out=folder / "p.jsonl", threads=1)
    answers = [json.loads(line)["score"] for line in (folder / "p.jsonl").read_text().splitlines()]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "tuned").eval()
    assert (theirs.config.problem_type, theirs.config.num_labels) == ("regression", 1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tuned")
    texts = [line.split("\t")[0] for line in (folder / "dev.tsv").read_text("utf-8").splitlines()]
    for text, answer in list(zip(texts, answers, strict=True))[:10]:
        with torch.no_grad():
            assert answer == pytest.approx(
                float(theirs(**tokenizer(text, return_tensors="pt")).logits), abs=1e-4
            )


def test_a_folder_scores_as_in_training_and_alone_as_among_others(folder: Path) -> None:
    report = evaluate("regression", folder / "dev.tsv", model=folder / "tuned", threads=1)
    journal = [json.loads(line) for line in (folder / "tuned" / "journal.jsonl").read_text().splitlines()]
    # The compiled network differs in the last digit, which may change the order of two neighbours.
    assert report["spearman"] == pytest.approx(max(line["dev"]["spearman"] for line in journal), abs=1e-3)
    assert report["mean_absolute_error"] ** 2 <= report["mean_squared_error"] < 200
    for name, tokens in (("alone", 1), ("together", 10_000)):
        predict(folder / "dev.tsv", model=folder / "tuned", out=folder / name, batch_tokens=tokens, threads=1)
    alone, together = (
        [json.loads(line)["score"] for line in (folder / name).read_text().splitlines()]
        for name in ("alone", "together")
    )
    assert alone == pytest.approx(together, abs=1e-4)


def test_another_librarys_regressor_answers_without_a_card(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "tuned")
    theirs.save_pretrained(tmp_path / "theirs")
    for name in ("tokenizer.json", "vocab.txt"):
        if (folder / "tuned" / name).exists():
            (tmp_path / "theirs" / name).write_bytes((folder / "tuned" / name).read_bytes())
    assert predict(folder / "dev.tsv", model=tmp_path / "theirs", out=tmp_path / "p", threads=1) == 60
    assert "score" in json.loads((tmp_path / "p").read_text().splitlines()[0])


def test_cosines_of_equal_texts_rank_above_those_of_others(folder: Path) -> None:
    embedder = Embedder.load(folder / "bert")
    pairs = [("好人", "好人", 5.0), ("好人", "电力电力电力", 0.0), ("房间", "房间", 5.0)]
    examples = [ScoredText(text, pair, score, "") for text, pair, score in pairs]
    assert score_cosines(embedder, examples)["spearman"] == pytest.approx(1.0, abs=0.2)
    with pytest.raises(DataError, match="likeness is of two texts"):
        score_cosines(embedder, [ScoredText("好", None, 1.0, "a.tsv, line 1")])


@pytest.mark.skipif(not DATA.exists(), reason="shared/data is not here")
@pytest.mark.parametrize(
    ("file", "count"), [("tasks_en/stsb/stsb-en-test.csv", 1379), ("tasks_zh/stsb_zh/sts-b-dev.txt", 1458)]
)
def test_both_sts_benchmarks_read_without_options(file: str, count: int) -> None:
    examples = list(task().read(DATA / file, labelled=True))
    assert len(examples) == count
    assert all(e.pair and e.score is not None and 0 <= e.score <= 5 for e in examples)
