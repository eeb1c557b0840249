"""JSON examples with any value replaced by one that no tool writes: they are read, or refused in one line."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polyseme.errors import DataError
from polyseme.tasks.answer_settings import RankingSettings
from polyseme.tasks.candidates import read_queries
from polyseme.tasks.choices import read_choices
from polyseme.tasks.intent_settings import IntentSettings
from polyseme.tasks.labelled_texts import read_labelled
from polyseme.tasks.regression import Regression
from polyseme.tasks.settings import ClassificationSettings, RegressionSettings
from polyseme.tasks.tagged_files import read_tagged
from polyseme.tasks.tagging_settings import TaggingSettings
from polyseme.tasks.utterances import read_utterances

VALUES: tuple[Any, ...] = (
    *(None, True, [], {}, "", "x", -1, 0.5, 1 << 40, 10**400, [[1]], {"a": 1}, [{}]),
    *("9" * 5_000, "[" * 3_000 + "]" * 3_000, "1e999"),
)
READERS: dict[str, Callable[[Path], Any]] = {
    "classification": lambda path: read_labelled(path, ClassificationSettings(), labelled=True),
    "regression": lambda path: Regression(RegressionSettings()).read(path, labelled=True),
    "ranking": lambda path: read_queries(path, RankingSettings(), labelled=True),
    "choices": lambda path: read_choices(path, labelled=True, encoding="utf-8", errors="strict"),
    "intents": lambda path: read_utterances(path, IntentSettings(), labelled=True),
    "tagging": lambda path: read_tagged(path, TaggingSettings(), labelled=True),
}
REGION = {"value": {"start": 0, "end": 2, "text": "法院", "labels": ["机构"]}, "type": "labels"}
CHOICE = {"value": {"choices": ["好"]}, "from_name": "a", "type": "choices"}
EXAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "text and label": ("classification", {"text": "法院", "label": "好"}),
    "choices of Label Studio": (
        "classification",
        {"data": {"text": "法院"}, "annotations": [{"was_cancelled": False, "result": [CHOICE]}]},
    ),
    "score": ("regression", {"text": "法院", "text_b": "法官", "score": 1.5}),
    "pair": ("ranking", {"query": "法院", "candidate": "法官", "label": 1}),
    "lists": ("ranking", {"query": "法院", "positives": ["法官"], "negatives": ["人民"]}),
    "answer": ("choices", {"text": "法院", "question": "谁", "choices": ["法官", "人民"], "label": 0}),
    "words and slots": ("intents", {"words": ["法", "院"], "tags": ["B-好", "I-好"], "intent": "问"}),
    "slots by name": ("intents", {"text": "法院", "slots": {"机构": "法院"}, "intent": ["问"]}),
    "slots by range": ("intents", {"text": "法院", "slots": [[0, 2, "机构"]], "intent": "问"}),
    "tokens": ("tagging", {"tokens": ["法", "院"], "tags": ["B-好", "I-好"]}),
    "doccano": ("tagging", {"text": "法院", "label": [[0, 2, "机构"]]}),
    "CLUENER": ("tagging", {"text": "法院", "label": {"机构": {"法院": [[0, 1]]}}}),
    "Label Studio": (
        "tagging",
        {"data": {"text": "法院"}, "annotations": [{"was_cancelled": False, "result": [REGION]}]},
    ),
}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every object or list inside, with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_with_any_value_replaced_is_read_or_refused_in_one_line(tmp_path: Path, name: str) -> None:
    task, example = EXAMPLES[name]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(example) + "\n")
    assert len(list(READERS[task](path))) == 1
    messages = []
    for number in range(sum(1 for _ in places(example))):
        for other in VALUES:
            damaged = copy.deepcopy(example)
            holder, key = list(places(damaged))[number]
            holder[key] = other
            path.write_text(json.dumps(damaged) + "\n")
            try:
                list(READERS[task](path))
            except DataError as error:
                messages.append(str(error))
    assert not any("\n" in message or len(message) > 12_000 for message in messages)
    assert len(messages) > len(VALUES) // 2


def test_a_list_of_objects_that_no_reader_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for value in ("[" * 100_000, "9" * 5_000):
        path.write_text(f'[{{"text": {value}, "label": "a"}}]')
        for task in ("classification", "tagging"):
            with pytest.raises(DataError, match=r"a\.json"):
                list(READERS[task](path))
