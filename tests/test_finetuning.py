"""Fine-tuning: it learns, repeats from its seed, keeps the best, and its folder answers everywhere."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from foreign_models import foreign_folder
from reporters import Said
from small_models import CHARACTERS, small_model

from polyseme import progress
from polyseme.checkpoints.loading import load
from polyseme.errors import DataError, SettingsError
from polyseme.models.heads import ClassificationHead
from polyseme.models.transformer.config import TransformerConfig
from polyseme.tasks.finetuning import Outcome, Score, finetune
from polyseme.tasks.predicting import evaluate, predict
from polyseme.tasks.rows import collate, shuffled_batches
from polyseme.tasks.subsets import stratified
from polyseme.tasks.task import Row
from polyseme.text.tokenizer import Tokenizer

FAST = {"threads": 1, "precision": "fp32", "learning_rate": 5e-3, "batch_size": 16}


def reviews(path: Path, count: int, *, seed: int, longest: int = 30) -> Path:
    """Texts whose label is whether they hold 好 or 差."""
    rng = np.random.default_rng(seed)
    rest = [character for character in CHARACTERS if character not in "好差"]
    lines = ["label\ttext_a"]
    for number in range(count):
        text = list(rng.choice(rest, int(rng.integers(2, longest))))
        text.insert(int(rng.integers(0, len(text))), "差好"[number % 2])
        lines.append(f"{'负正'[number % 2]}\t{''.join(text)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("finetuning")
    reviews(target / "train.tsv", 320, seed=0)
    reviews(target / "dev.tsv", 60, seed=1)
    small_model(target, "modernbert")
    small_model(target, "bert")
    return target


def tuned(folder: Path, out: Path | None, family: str = "modernbert", **options: object) -> Outcome:
    return finetune(
        "classification",
        train=folder / "train.tsv",
        dev=folder / "dev.tsv",
        model=folder / family,
        out=out,
        **{**FAST, "epochs": 1, "limit": 64, **options},
    )


@pytest.fixture(scope="module", params=["modernbert", "bert"])
def classifier(request: pytest.FixtureRequest, folder: Path) -> Path:
    out = folder / f"{request.param}-tuned"
    outcome = tuned(folder, out, request.param, epochs=4, limit=None, test=folder / "dev.tsv")
    assert outcome.dev["accuracy"].mean > 0.9
    assert outcome.test == outcome.dev
    assert outcome.examples == 320
    return out


def test_a_fine_tuned_folder_scores_as_it_did_in_training(classifier: Path, folder: Path) -> None:
    report = evaluate("classification", folder / "dev.tsv", model=classifier, threads=1)
    journal = [json.loads(line) for line in (classifier / "journal.jsonl").read_text().splitlines()]
    assert report["accuracy"] == max(line["dev"]["accuracy"] for line in journal)
    assert report["confusion"]["labels"] == ["正", "负"]
    assert np.array(report["confusion"]["counts"]).sum() == report["examples"] == 60


def test_transformers_gives_the_same_answers_and_class_names(classifier: Path, folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    predict(folder / "dev.tsv", model=classifier, out=folder / "p.jsonl", threads=1)
    answers = [json.loads(line) for line in (folder / "p.jsonl").read_text("utf-8").splitlines()]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    texts = [line.split("\t")[1] for line in (folder / "dev.tsv").read_text("utf-8").splitlines()[1:]]
    for text, answer in list(zip(texts, answers, strict=True))[:10]:
        with torch.no_grad():
            chances = theirs(**tokenizer(text, return_tensors="pt")).logits[0].double().softmax(0)
        expected = {theirs.config.id2label[n]: float(p) for n, p in enumerate(chances)}
        assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
        assert answer["label"] == max(expected, key=expected.__getitem__)


def test_a_text_gets_the_same_answer_alone_and_among_others(classifier: Path, folder: Path) -> None:
    lines = ["房间很好", "", *(text.strip() for text in CHARACTERS.split("，")), "差" * 200]
    (folder / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, tokens in (("alone", 1), ("together", 10_000)):
        count = predict(
            folder / "lines.txt", model=classifier, out=folder / name, batch_tokens=tokens, threads=1
        )
        assert count == len(lines)
    answers = [
        [json.loads(line)["probabilities"] for line in (folder / name).read_text("utf-8").splitlines()]
        for name in ("alone", "together")
    ]
    for alone, together in zip(*answers, strict=True):
        assert alone == pytest.approx(together, abs=1e-6)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(7)  # The state of torch's generator outside does not matter.
        tuned(folder, tmp_path / name, seeds=(seed,), dropout=0.2)
    first, second, third = ((tmp_path / n / "model.safetensors").read_bytes() for n in "abc")
    assert first == second
    assert first != third


def test_torchs_generator_is_left_as_it_was(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tuned(folder, None)
    assert torch.equal(torch.rand(3), expected)


def test_several_seeds_give_mean_and_deviation(folder: Path, tmp_path: Path) -> None:
    outcome = tuned(folder, tmp_path / "out", seeds=(1, 2, 3))
    alone = [tuned(folder, None, seeds=(seed,)).dev["accuracy"].mean for seed in (1, 2, 3)]
    assert outcome.dev["accuracy"] == Score.of(alone)
    assert outcome.dev["accuracy"].deviation == pytest.approx(np.std(alone, ddof=1))
    assert alone[outcome.best_seed - 1] == max(alone)
    made = load(tmp_path / "out", heads=["classification"]).card.made
    assert (made["task"], made["seed"]) == ("classification", outcome.best_seed)


def test_fresh_weights_do_not_come_from_the_model(folder: Path, tmp_path: Path) -> None:
    """With rates of 0 the network stays as it began; only the head moves."""
    still = {"learning_rate": 0.0, "head_learning_rate": 1e-3}
    tuned(folder, tmp_path / "kept", **still)
    tuned(folder, tmp_path / "fresh", fresh=True, **still)
    tuned(folder, tmp_path / "again", fresh=True, **still)
    source = load(folder / "modernbert").backbone.state_dict()
    kept, fresh, again = (load(tmp_path / n).backbone.state_dict() for n in ("kept", "fresh", "again"))
    assert all(torch.equal(kept[name], source[name]) for name in source)
    tables = [name for name in source if source[name].ndim == 2]
    assert not any(torch.equal(fresh[name], source[name]) for name in tables)
    assert all(torch.equal(fresh[name], again[name]) for name in source)


def test_embeddings_can_have_a_rate_of_their_own(folder: Path, tmp_path: Path) -> None:
    tuned(folder, tmp_path / "out", embedding_learning_rate=0.0)
    source, moved = (load(f).backbone.state_dict() for f in (folder / "modernbert", tmp_path / "out"))
    assert all(torch.equal(source[name], moved[name]) == name.startswith("embeddings.") for name in source)


def test_training_stops_when_patience_is_over(folder: Path, tmp_path: Path) -> None:
    tuned(folder, tmp_path / "out", epochs=9, patience=2, learning_rate=1e-12)
    assert len((tmp_path / "out" / "journal.jsonl").read_text().splitlines()) == 3


def test_patience_is_not_lost_before_anything_is_found(folder: Path, tmp_path: Path) -> None:
    # Where all of dev is one class Matthews' correlation stays 0, as a tagger's F1 does at first.
    one_class = [line for line in (folder / "dev.tsv").read_text().splitlines() if not line.startswith("负")]
    (tmp_path / "dev.tsv").write_text("\n".join(one_class) + "\n")
    outcome = finetune(
        "classification",
        train=folder / "train.tsv",
        dev=tmp_path / "dev.tsv",
        model=folder / "modernbert",
        out=tmp_path / "out",
        **{**FAST, "epochs": 4, "limit": 64, "patience": 1, "metric": "matthews"},
    )
    assert outcome.dev["matthews"].mean == 0
    assert len((tmp_path / "out" / "journal.jsonl").read_text().splitlines()) == 4


def test_several_labels_are_learned_saved_and_answered(folder: Path, tmp_path: Path) -> None:
    lines = ["labels\ttext", *("好|差\t好差" if n % 3 else "好\t很好" for n in range(60))]
    (tmp_path / "a.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    finetune(
        "classification",
        train=tmp_path / "a.tsv",
        dev=tmp_path / "a.tsv",
        model=folder / "modernbert",
        out=tmp_path / "out",
        several=True,
        **{**FAST, "epochs": 3},
    )
    report = evaluate("classification", tmp_path / "a.tsv", model=tmp_path / "out", threads=1)
    assert report["micro_f1"] == report["accuracy"] == 1.0
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert config["problem_type"] == "multi_label_classification"


def test_pairs_and_windows_are_trained_and_answered(folder: Path, tmp_path: Path) -> None:
    rows = [f"{'好' * (n % 90)}\t{'好差'[n % 2]}\t{n % 2}" for n in range(48)]
    (tmp_path / "pairs.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    lines = ["text\tlabel", *(f"{'好差'[n % 2] * (n + 20)}\t{n % 2}" for n in range(48))]
    (tmp_path / "long.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, options in (("pairs.txt", {}), ("long.tsv", {"long_texts": "windows"})):
        file, out = tmp_path / name, tmp_path / f"{name}-out"
        outcome = finetune(
            "classification", train=file, dev=file, model=folder / "bert", out=out, **FAST, **options
        )
        assert evaluate("classification", file, model=out, threads=1)["accuracy"] == pytest.approx(
            outcome.dev["accuracy"].mean, abs=0.05
        )


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("modernbert", {"metric": "f2"}, "classification has no score 'f2'; choose accuracy, macro_f1"),
        ("modernbert", {"pooling": "pooler"}, "cannot pool by 'pooler'.*choose first or mean"),
        ("bert", {"pooling": "mean"}, "cannot pool by 'mean'.*choose pooler"),
        ("bert", {"max_length": 99}, "max_length 99 is more than the 48 positions of this model"),
        ("bert", {"learning_rate": 0.0}, "all learning rates are 0"),
        ("bert", {"epochs": 0}, "epochs must be at least 1, got 0"),
        ("bert", {"seeds": (1, 1)}, r"seeds must be one or several different numbers, got \[1, 1\]"),
        ("bert", {"share": 0.5}, "share and limit exclude each other"),
        ("bert", {"share": 1.5, "limit": None}, "share must lie above 0 and up to 1, got 1.5"),
        (
            "bert",
            {"learning_rat": 0.5},
            "learning_rat is not a setting here .did you mean '(embedding_|head_)?learning_rate'",
        ),
        ("bert", {"text_colum": "a"}, "text_colum is not a setting here .did you mean 'text_column'"),
    ],
)
def test_wrong_options_are_named(folder: Path, family: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        tuned(folder, None, family, **options)


def test_a_folder_that_is_not_empty_is_refused_before_any_training(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and is not empty; name another folder"):
        tuned(folder, tmp_path)


def test_a_model_of_another_task_is_refused(classifier: Path, folder: Path) -> None:
    with pytest.raises(SettingsError, match="was fine-tuned for classification, not for tagging"):
        evaluate("tagging", folder / "dev.tsv", model=classifier)


def test_a_subset_has_each_label_in_its_share_and_lies_inside_a_larger_one() -> None:
    rng = np.random.default_rng(0)
    for seed in range(50):
        strata = [str(n) for n in rng.integers(0, 4, 200)]
        small, large = (stratified(strata, count, seed=seed) for count in (40, 80))
        assert (len(small), len(large)) == (40, 80)
        assert small == sorted(set(small))
        for label in set(strata):
            share = strata.count(label) / 200
            assert abs(sum(strata[n] == label for n in small) - 40 * share) < 1
        assert len(set(small) - set(large)) <= 4
        assert small == stratified(strata, 40, seed=seed)
    assert stratified(["a", "b"], 9, seed=0) == [0, 1]


def test_every_row_is_trained_on_once_an_epoch_and_batches_are_full() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 31, 32, 33, 1000):
        lengths = rng.integers(1, 99, count)
        batches = shuffled_batches(lengths, batch_size=32, rng=rng)
        assert sorted(n for batch in batches for n in batch) == list(range(count))
        assert sum(len(batch) < 32 for batch in batches) <= 1
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.2 * lengths.sum()


def test_segments_reach_only_models_that_tell_them_apart() -> None:
    ids, types = np.array([2, 5, 3, 6, 3], np.int32), np.array([0, 0, 0, 1, 1], np.int32)
    rows = [Row(ids, types), Row(ids[:3])]
    config = TransformerConfig(vocab_size=9, max_position_embeddings=5, type_vocab_size=0)
    assert collate(rows, padding=0, config=config).token_type_ids is None
    batch = collate(rows, padding=0, config=msgspec.structs.replace(config, type_vocab_size=2))
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]


def test_cut_texts_are_counted_once_for_a_whole_file(classifier: Path, tmp_path: Path) -> None:
    said = Said()
    (tmp_path / "lines.txt").write_text("好\n" * 3000 + "差" * 99 + "\n" + "好" * 99 + "\n", encoding="utf-8")
    with progress.reporting(said):
        predict(tmp_path / "lines.txt", model=classifier, out=tmp_path / "p.jsonl", threads=1)
    assert said.lines[1:] == [
        f"{tmp_path / 'lines.txt'}: 2 of 3002 texts are longer than the 48 tokens read and were cut; "
        "long_texts=windows reads them whole"
    ]


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "ModernBertForSequenceClassification"])
def test_a_classifier_of_transformers_answers_here(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    names = {"id2label": {0: "坏", 1: "好", 2: "中"}, "label2id": {"坏": 0, "好": 1, "中": 2}}
    folder = foreign_folder(tmp_path / "model", name, tokenizer=True, num_labels=3, **names)
    (tmp_path / "lines.txt").write_text("我在中国\n不是他\n", encoding="utf-8")
    assert predict(tmp_path / "lines.txt", model=folder, out=tmp_path / "p.jsonl", threads=1) == 2
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = Tokenizer.load(folder)
    for text, line in zip(
        ("我在中国", "不是他"), (tmp_path / "p.jsonl").read_text("utf-8").splitlines(), strict=True
    ):
        ids = [tokenizer.first_id, *tokenizer.encode(text).ids.tolist(), tokenizer.separator_id]
        with torch.no_grad():
            chances = theirs(torch.tensor([ids])).logits[0].double().softmax(0)
        expected = dict(zip(("坏", "好", "中"), chances.tolist(), strict=True))
        assert json.loads(line)["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_dropout_of_fine_tuning_reaches_network_and_head(folder: Path, tmp_path: Path) -> None:
    tuned(folder, tmp_path / "out", dropout=0.25)
    model = load(tmp_path / "out", heads=["classification"])
    assert (model.backbone.config.dropout, model.backbone.config.attention_dropout) == (0.25, 0.25)
    head = model.heads["classification"]
    assert isinstance(head, ClassificationHead)
    assert head.dropout.p == 0.25
    assert msgspec.structs.replace(model.backbone.config, dropout=0.0, attention_dropout=0.0) == (
        load(folder / "modernbert").backbone.config
    )
