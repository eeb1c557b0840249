"""Damaged files and failing system calls end well or in one clear line: a short form of bench/faults.py.

The whole campaign tries every kind of file and every call; here are a few of each, by the same program.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FAULTS = Path(__file__).parents[1] / "bench" / "faults.py"
GROUPS = {
    "models": "model: settings|model: weights|model: generator|model: show",
    "tasks": "classifier|tagger",
    "stores": "store: pretrain|store: show",
    "jobs": "run|run: electra|partial fine-tuning|embed job",
    "accepted models": "model: settings, accepted|model: weights, accepted|classifier, accepted",
    "accepted stores and runs": "store: show, accepted|run, accepted|partial fine-tuning, accepted",
    "tokenizers": "tokenizer: embed|tokenizer: show, foreign|tokenizer: unigram, foreign",
    "byte BPE": "tokenizer: show|tokenizer: byte BPE, foreign",
    "SentencePiece": "tokenizer: sentencepiece|text: embed",
    "foreign models": "transformers folder|pickled weights|sharded weights|sentence-transformers",
    "foreign formats": "TensorFlow checkpoint|UER checkpoint|Paddle checkpoint|recipe",
    "text": "text|text: xz|text: JSON lines|text: pairs|text: Wikipedia|text: Wikipedia, bz2|text: learning",
    "labelled": "labelled: TSV|labelled: CSV|labelled: JSON lines|labelled: CoNLL|labelled: choices",
    "annotated": "labelled: doccano|labelled: Label Studio|labelled: ranking|labelled: intents",
}
COMMANDS = {
    "text": "tokenizer|tokenizer unigram|prepare|convert|convert tensorflow",
    "pre-training": "pretrain bert|pretrain electra|distill",
    "fine-tuning": "finetune|finetune frozen",
    "answers": "embed npy|embed parquet|embed jsonl|predict|generate",
}
MUTATIONS, CALLS = 150, 30
"""Damaged files and failing calls of each group."""

KEPT = Path(__file__).parents[2] / "shared" / "cases" / "faults"
"""Damaged files that an earlier version ended badly on, where they are at hand."""

pytestmark = pytest.mark.skipif(
    not shutil.which("cc") and not shutil.which("gcc"), reason="the faults are injected by a compiled library"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


def tried(folder: Path, *words: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(FAULTS), *words, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("group", GROUPS)
def test_a_damaged_file_is_refused_or_makes_no_difference(folder: Path, group: str) -> None:
    names = GROUPS[group].split("|")
    rows = tried(folder, "mutations", "--tries", str(MUTATIONS), "--case", *names)
    rows = [row for row in rows if row["name"] in names]
    assert len(rows) >= MUTATIONS
    assert [row for row in rows if row["verdict"] not in ("ok", "refused", "harmless")] == []
    assert sum(row["verdict"] == "refused" for row in rows) > MUTATIONS // 10


@pytest.mark.skipif(not KEPT.is_dir(), reason="the damaged files of earlier campaigns are not here")
def test_files_that_ended_badly_before_end_right_or_in_one_line(folder: Path) -> None:
    rows = [row for row in tried(folder, "repeat", "--files", str(KEPT)) if row["kind"] == "kept"]
    assert {row["file"] for row in rows} == {path.name for path in KEPT.iterdir() if path.suffix != ".md"}
    assert [row for row in rows if row["verdict"] not in ("ok", "refused", "harmless")] == []


@pytest.mark.parametrize("group", COMMANDS)
def test_a_command_that_was_killed_or_met_a_failing_disk_ends_right_when_it_is_given_again(
    folder: Path, group: str
) -> None:
    names = COMMANDS[group].split("|")
    rows = [
        row
        for row in tried(folder, "calls", "--tries", str(CALLS), "--command", *names)
        if row["kind"] == "call" and row["name"].split(":")[0] in names
    ]
    assert len(rows) >= CALLS
    assert [row for row in rows if row["verdict"] != "ok"] == []
    assert sum(row["disturbed"] == "signal 9" for row in rows) >= CALLS // 6
    assert sum(row["disturbed"] == "refused" for row in rows) >= CALLS // 6
