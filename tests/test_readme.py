"""What the README tells a newcomer to type runs as it stands, with fewer steps."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from corpora import SENTENCES, write_text

ROOT = Path(__file__).parents[1]
SMALLER = (
    ("--size mini", "--size tiny"),
    ('size="mini"', 'size="tiny"'),
    ("2000", "4"),
    ("--steps 500", "--steps 2"),
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)


def smaller(text: str) -> str:
    for words, fewer in SMALLER:
        text = text.replace(words, fewer)
    return text


MADE = (
    "vectors.npy",
    "predicted.csv",
    "plain-model/model.safetensors",
    "adapted/model.safetensors",
    "writer/model.safetensors",
    "student/model.safetensors",
    "vectors.parquet",
    "small.npy",
    "tagger/model.safetensors",
    "few/model.safetensors",
    "entities.jsonl",
)
"""What the commands leave in the folder."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return prepare_folder(tmp_path)


def prepare_folder(tmp_path: Path) -> Path:
    """The files that the commands read."""
    write_text(tmp_path / "corpus.txt")
    write_text(tmp_path / "domain.txt", documents=20)
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    law = ("法", "诉", "合同", "申请")
    rows = [f"{'law' if any(word in text for word in law) else 'computing'}\t{text}" for text in SENTENCES]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("\n".join(["label\ttext_a", *rows]) + "\n", encoding="utf-8")
    reviews = "\n".join(["编号,内容", *(f'{number},"{text}"' for number, text in enumerate(SENTENCES, 1))])
    (tmp_path / "reviews.csv").write_text(reviews + "\n", encoding="utf-8")
    (tmp_path / "texts").mkdir()
    for name in ("texts.txt", "texts/a.txt"):
        (tmp_path / name).write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    tagged = "\n".join(f"{text[0]} B-NAME\n{text[1]} E-NAME\n{text[2]} O\n" for text in SENTENCES)
    for name in ("train.bmes", "dev.bmes"):
        (tmp_path / name).write_text(tagged, encoding="utf-8")
    return tmp_path


def test_the_commands_of_the_readme_run_one_after_the_other(folder: Path) -> None:
    first, *others = blocks("sh")
    assert [line.split("#")[0].split() for line in first.splitlines()] == [["make", "demo"], ["make", "test"]]
    lines = [shlex.split(line, comments=True) for line in smaller("".join(others)).splitlines()]
    assert all(words[0] == "polyseme" for words in lines)
    # The first in a process of its own, as it is typed; a fresh start of each would take most of the time.
    subprocess.run([sys.executable, "-m", *lines[0]], cwd=folder, capture_output=True, check=True)
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("command_runs.py"))],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as runs:
        assert runs.stdin is not None
        assert runs.stdout is not None
        for _, *words in lines[1:]:
            runs.stdin.write(json.dumps(words) + "\n")
            runs.stdin.flush()
            status, errors = json.loads(runs.stdout.readline())
            assert status == 0, f"{words}\n{errors}"
        runs.stdin.close()
    for name in MADE:
        assert (folder / name).stat().st_size > 0


def test_the_python_of_the_readme_runs(folder: Path) -> None:
    (code,) = blocks("python")
    code = (
        smaller(code)
        + "\nassert vectors.shape[0] == 2 and len(words) == 1 and len(words[0].vectors) > 1\n"
        + "assert label in ('law', 'computing')\n"
    )
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env=environment)


def test_both_readmes_have_the_same_examples_and_links() -> None:
    def code(name: str) -> list[str]:
        text = (ROOT / name).read_text("utf-8")
        return [re.sub(r"\s*#.*", "", block) for block in re.findall(r"```\w+\n(.*?)```", text, re.DOTALL)]

    assert code("README.md") == code("README.zh.md")
    for name in ("README.md", "README.zh.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text("utf-8")):
            assert (ROOT / target).exists(), target
