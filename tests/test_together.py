"""Several tasks over one backbone: turns, training, one folder, and one pass for all answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import CHARACTERS, small_model

from polyseme.checkpoints.loading import load
from polyseme.cli import main
from polyseme.errors import DataError, SettingsError
from polyseme.models.batch import Batch
from polyseme.tasks.answering_together import TogetherAnswerer
from polyseme.tasks.predicting import evaluate, predict
from polyseme.tasks.runs_together import turns
from polyseme.tasks.together import finetune_together

FAST = {"threads": 1, "precision": "fp32", "learning_rate": 5e-3, "batch_size": 16}
TOML = """
[tasks.mood]
task = "classification"
train = "mood.tsv"
dev = "mood.dev.tsv"
test = "mood.dev.tsv"

[tasks.degree]
task = "regression"
train = "degree.tsv"
dev = "degree.dev.tsv"
options = { label_column = "points" }

[tasks.orders]
task = "intents"
train = "orders.txt"
dev = "orders.dev.txt"
"""


def texts(count: int, *, seed: int) -> list[tuple[str, str, int]]:
    """Text, mood and degree: 好 or 差 stands in each."""
    rng = np.random.default_rng(seed)
    rest = [character for character in CHARACTERS if character not in "好差，。！？"]
    found = []
    for number in range(count):
        text = list(rng.choice(rest, int(rng.integers(2, 12))))
        text.insert(int(rng.integers(0, len(text))), "差好"[number % 2])
        found.append(("".join(text), "负正"[number % 2], number % 2 * 10))
    return found


def files(folder: Path, counts: dict[str, int], *, seed: int, ending: str) -> None:
    rows = {name: texts(count, seed=seed + n) for n, (name, count) in enumerate(counts.items())}
    lines = {
        "mood": ["text\tlabel", *(f"{text}\t{mood}" for text, mood, _ in rows["mood"])],
        "degree": ["text\tpoints", *(f"{text}\t{degree}" for text, _, degree in rows["degree"])],
    }
    for name, some in lines.items():
        (folder / f"{name}{ending}.tsv").write_text("\n".join(some) + "\n", encoding="utf-8")
    blocks = [
        "".join(f"{c} {'B-mood' if c in '好差' else 'O'}\n" for c in text)
        + f"SAY_{'GOOD' if m == '正' else 'BAD'}\n"
        for text, m, _ in rows["orders"]
    ]
    (folder / f"orders{ending}.txt").write_text("\n".join(blocks), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("together")
    files(target, {"mood": 200, "degree": 120, "orders": 120}, seed=0, ending="")
    files(target, {"mood": 30, "degree": 30, "orders": 30}, seed=10, ending=".dev")
    (target / "tasks.toml").write_text(TOML, encoding="utf-8")
    outcome = finetune_together(
        target / "tasks.toml", model=small_model(target, "bert"), out=target / "tuned", epochs=5, **FAST
    )
    assert outcome.examples == {"mood": 200, "degree": 120, "orders": 120}
    assert outcome.dev["mood"]["accuracy"].mean > 0.9
    assert outcome.dev["degree"]["spearman"].mean > 0.7
    assert outcome.dev["orders"]["sentence_accuracy"].mean > 0.9
    assert outcome.test == {"mood": outcome.dev["mood"]}
    (target / "lines.txt").write_text("".join(f"{text}\n" for text, _, _ in texts(40, seed=20)), "utf-8")
    return target


@pytest.mark.parametrize(
    ("sizes", "temperature", "expected"),
    [
        ({"a": 900, "b": 100}, 1.0, {"a": 90, "b": 10}),
        ({"a": 900, "b": 100}, 2.0, {"a": 75, "b": 25}),
        ({"a": 900, "b": 100}, 1e9, {"a": 50, "b": 50}),
        ({"a": 100_000, "b": 1}, 1.0, {"a": 10_000, "b": 1}),
    ],
)
def test_tasks_take_turns_by_size_or_temperature(
    sizes: dict[str, int], temperature: float, expected: dict[str, int]
) -> None:
    assert turns(sizes, batch_size=10, temperature=temperature) == expected


def test_turns_are_nearest_to_the_power_law_for_any_sizes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        sizes = {str(n): int(size) for n, size in enumerate(rng.integers(200, 5000, 5))}
        counts = turns(sizes, batch_size=4, temperature=(t := float(rng.uniform(1, 5))))
        total = sum(counts.values())
        assert total == sum(-(-size // 4) for size in sizes.values())
        weights = np.array(list(sizes.values())) ** (1 / t)
        assert np.abs(np.array(list(counts.values())) - total * weights / weights.sum()).max() < 1


def test_one_pass_answers_all_that_read_the_same_tokens(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = TogetherAnswerer(folder / "tuned", threads=1)
    passes: list[int] = []
    inner = answerer.backbone.forward

    def counted(batch: object, **options: object) -> object:
        passes.append(len(batch.input_ids))  # type: ignore[attr-defined]
        return inner(batch, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(answerer.backbone, "forward", counted)
    examples = {
        name: list(part.task.read(folder / "lines.txt", labelled=False))
        for name, part in answerer.parts.items()
    }
    answers = answerer.answers(examples)
    assert (len(answers), sum(passes)) == (40, 40)
    for name, part in answerer.parts.items():
        own = [answerer.rows(part, example) for example in examples[name]]
        assert [len(rows) for rows in own] == [1] * 40


def test_predict_writes_every_tasks_answer_in_order_alone_and_among_others(
    folder: Path, tmp_path: Path
) -> None:
    said = {}
    for name, tokens in (("alone", 1), ("among", 10_000)):
        count = predict(
            folder / "lines.txt",
            model=folder / "tuned",
            out=tmp_path / name,
            batch_tokens=tokens,
            threads=1,
        )
        assert count == 40
        said[name] = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    for (text, _, degree), alone, among in zip(texts(40, seed=20), said["alone"], said["among"], strict=True):
        assert list(alone) == ["mood", "degree", "orders"]
        assert alone["degree"]["score"] == pytest.approx(among["degree"]["score"], abs=1e-4)
        assert alone["mood"]["label"] == among["mood"]["label"]
        assert alone["orders"]["slots"] == among["orders"]["slots"]
        for slot in alone["orders"]["slots"]:
            assert text[slot["start"] : slot["end"]] == slot["text"]
        assert abs(alone["degree"]["score"] - degree) < 8
    right = [
        line["mood"]["label"] == mood
        for line, (_, mood, _) in zip(said["alone"], texts(40, seed=20), strict=True)
    ]
    assert np.mean(right) > 0.9


def test_a_folder_scores_each_task_as_in_training(folder: Path) -> None:
    journal = [json.loads(line) for line in (folder / "tuned" / "journal.jsonl").read_text().splitlines()]
    best = max(journal, key=lambda line: line["dev"]["mean"])["dev"]
    for name, file, metric in (
        ("mood", "mood.dev.tsv", "accuracy"),
        ("degree", "degree.dev.tsv", "spearman"),
        ("orders", "orders.dev.txt", "slot_f1"),
    ):
        report = evaluate(name, folder / file, model=folder / "tuned", threads=1)
        assert report[metric] == pytest.approx(best[f"{name}.{metric}"], abs=1e-3)
    with pytest.raises(SettingsError, match=r"no task 'moods' \(did you mean 'mood'\?\); it answers mood"):
        evaluate("moods", folder / "mood.dev.tsv", model=folder / "tuned", threads=1)


def test_the_folder_is_a_plain_backbone_for_everybody_else(folder: Path) -> None:
    ours = load(folder / "tuned")
    assert not ours.heads
    assert any(name.startswith("parts.orders.slots.") for name in ours.task_tensors)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModel.from_pretrained(folder / "tuned").eval()
    ids = torch.arange(5, 12)[None]
    with torch.no_grad():
        expected = theirs(input_ids=ids).last_hidden_state
        assert torch.allclose(ours.backbone(Batch(ids)).last, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[tasks.a]\ntask = 'ranking2'\ntrain = 'x'\ndev = 'x'\n", "there is no task 'ranking2'"),
        ("[tasks.a]\ntask = 'classification'\ntrain = 'x'\n", "Object missing required field `dev`|dev"),
        (
            "[tasks.a]\ntask = 'classification'\ntrain = 'x'\ndev = 'x'\n",
            r"has 1 tasks; name at least two, each in \[tasks.NAME\]",
        ),
    ],
)
def test_a_file_of_tasks_that_does_not_fit_is_refused(
    toml: str, message: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.toml").write_text(toml)
    with pytest.raises(SettingsError, match=message):
        finetune_together(tmp_path / "t.toml", model=folder / "bert", out=tmp_path / "out", threads=1)


def test_what_is_for_one_task_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="folds is for one task"):
        finetune_together(folder / "tasks.toml", model=folder / "bert", out=tmp_path / "o", folds=3)
    with pytest.raises(SettingsError, match="memory is for one task"):
        finetune_together(folder / "tasks.toml", model=folder / "bert", out=tmp_path / "o", memory="1G")
    with pytest.raises(SettingsError, match="temperature must be above 0"):
        finetune_together(folder / "tasks.toml", model=folder / "bert", out=tmp_path / "o", temperature=0.0)
    with pytest.raises(SettingsError, match="label_column is a setting of one task"):
        predict(folder / "lines.txt", model=folder / "tuned", out=tmp_path / "p", label_column="a")
    with pytest.raises(DataError, match="exists and is not empty"):
        finetune_together(folder / "tasks.toml", model=folder / "bert", out=folder / "tuned", threads=1)


def test_the_command_trains_and_predicts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--model",
        str(folder / "bert"),
        "--out",
        str(tmp_path / "out"),
        "--epochs",
        "1",
        "--threads",
        "1",
    ]
    command = [
        "finetune",
        "together",
        "--tasks",
        str(folder / "tasks.toml"),
        "--limit",
        "20",
        "--temperature",
        "2",
    ]
    assert main([*command, *words]) == 0
    printed = capsys.readouterr().out
    assert "orders" in printed
    assert "fine-tuned on 60 examples" in printed
    answers = [
        "predict",
        str(folder / "lines.txt"),
        "--model",
        str(tmp_path / "out"),
        "--out",
        str(tmp_path / "p"),
    ]
    assert main(answers) == 0
    assert len((tmp_path / "p").read_text().splitlines()) == 40
