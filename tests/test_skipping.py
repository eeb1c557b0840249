"""Bad examples: the first one ends the work, or all are counted, listed and left out."""

from pathlib import Path

import pytest
from small_models import characters

from polyseme.errors import DataError
from polyseme.tasks.classification import Classification
from polyseme.tasks.skipping import bad, leaving_out, parsed
from polyseme.tasks.task import Inventory


def number(word: str) -> int:
    if not word.isdigit():
        raise DataError(f"{word!r} is no number")
    return int(word)


def test_the_first_bad_example_ends_the_work_unless_it_may_be_left_out() -> None:
    with pytest.raises(DataError, match="'two' is no number"):
        list(parsed(["1", "two", "3"], number))
    with leaving_out(False) as left, pytest.raises(DataError, match="two"):
        list(parsed(["1", "two", "3"], number))
    assert left.errors == []
    with leaving_out(True) as left:
        assert list(parsed(["1", "two", "3", ""], number)) == [1, 3]
    assert left.errors == ["'two' is no number", "'' is no number"]
    with pytest.raises(DataError):
        bad(DataError("outside the block everything is as before"))


@pytest.mark.parametrize(
    ("name", "lines", "rules"),
    [
        (
            "a.tsv",
            ["label\ttext", "1\t好", "0\t差\tx", "\t无", "0\t坏"],
            ["line 3: 3 columns", "line 4: label is ''"],
        ),
        (
            "b.jsonl",
            ['{"label": 1, "text": "好"}', "no", '{"label": 1, "text": 3}', '{"label": 0, "text": "坏"}'],
            ["line 2: not a JSON object", "line 3: text is 3"],
        ),
    ],
)
def test_readers_name_every_bad_line(tmp_path: Path, name: str, lines: list[str], rules: list[str]) -> None:
    path = tmp_path / name
    path.write_text("\n".join(lines), encoding="utf-8")
    task = Classification()
    with pytest.raises(DataError):
        list(task.read(path, labelled=True))
    with leaving_out(True) as left:
        examples = list(task.read(path, labelled=True))
    assert [(example.text, example.labels) for example in examples] == [("好", ("1",)), ("坏", ("0",))]
    assert len(left.errors) == len(rules)
    for error, rule in zip(left.errors, rules, strict=True):
        assert error.startswith(f"{path}, {rule}")


def test_labels_never_seen_in_training_are_bad_examples_too(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("label\ttext\n1\t好\n7\t差\n", encoding="utf-8")
    tokenizer, inventory, task = characters(tmp_path / "t"), Inventory(labels=("0", "1")), Classification()
    examples = list(task.read(path, labelled=True))
    with leaving_out(True) as left:
        rows = list(parsed(examples, lambda e: task.encode(e, tokenizer, inventory, max_length=9)))
    assert len(rows) == 1
    assert left.errors == [f"{path}, line 3: the label '7' is unknown; the model knows 0, 1"]
