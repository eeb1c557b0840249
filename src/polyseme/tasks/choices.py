"""Questions with choices, from C3's files and from JSON lines."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from polyseme.errors import DataError
from polyseme.tasks.json_examples import JsonItem, json_items
from polyseme.tasks.reading_report import announced, shortened
from polyseme.tasks.skipping import bad, parsed
from polyseme.text.column_names import NAMES

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """One example."""

    id: str
    passage: str
    """Empty where there is none."""
    question: str
    choices: tuple[str, ...]
    """Two at least."""
    answer: int | None
    """The number of the right choice, from 0; None where the file does not say."""
    where: str
    """File and place, for messages."""


class _Found(NamedTuple):
    """A question as it stands in the file."""

    where: str
    id: str
    passage: Any
    question: Any
    choices: Any
    answer: Any


def read_choices(
    path: Path, *, labelled: bool, encoding: str, errors: Literal["strict", "replace"]
) -> Iterator[ChoiceQuestion]:
    """The questions of a file in order.

    Known are C3's JSON (`[[texts], [{question, choice, answer}], id]`) and objects, in a list or one a line,
    with a `question`, its `choices`, the `answer` (the text of a choice, its letter, or its number from 0)
    and perhaps a `passage`. What does not fit is a `DataError` with file, place and rule.
    """
    return announced(
        _read(path, labelled=labelled, encoding=encoding, errors=errors),
        path,
        lambda first: f"questions with choices; the first: {_shown(first)}",
    )


def _read(
    path: Path, *, labelled: bool, encoding: str, errors: Literal["strict", "replace"]
) -> Iterator[ChoiceQuestion]:
    for item in json_items(path, encoding=encoding, errors=errors, lists=True):
        found = [_flat(item)] if isinstance(item.value, dict) else _of_c3(item)
        yield from parsed(found, lambda one: _question(one, labelled=labelled))


def choice_question_of(given: Any, where: str) -> ChoiceQuestion:
    """A question to answer from (question, choices), (passage, question, choices), or an object of these."""
    match given:
        case (str(question), [*choices]):
            given = {"question": question, "choices": choices}
        case (str(passage), str(question), [*choices]):
            given = {"passage": passage, "question": question, "choices": choices}
    if not isinstance(given, dict):
        raise DataError(
            f"{where} is {given!r:.60}; it must be (question, choices) or (passage, question, choices)"
        )
    return _question(_flat(JsonItem(where, {**given, "id": given.get("id", "")})), labelled=False)


def _shown(example: ChoiceQuestion) -> str:
    """An example in a line about its file."""
    passage = f"passage {shortened(example.passage)}, " if example.passage else ""
    answer = "" if example.answer is None else f" → {shortened(example.choices[example.answer])}"
    return f"{passage}question {shortened(example.question)}, {len(example.choices)} choices{answer}"


def _flat(item: JsonItem) -> _Found:
    value: dict[str, Any] = item.value

    def first(role: str) -> Any:
        return next((value[name] for name in NAMES[role] if name in value), None)

    id = str(value.get("id", item.where.rpartition(" ")[2]))
    passage, question = first("passage"), first("question")
    return _Found(
        item.where,
        id,
        "" if passage is None else passage,
        "" if question is None and not _has("question", value) else question,
        first("choices"),
        first("answer"),
    )


def _has(role: str, value: dict[str, Any]) -> bool:
    return any(name in value for name in NAMES[role])


def _of_c3(item: JsonItem) -> Iterator[_Found]:
    value = item.value
    if len(value) < 2 or not isinstance(value[1], list) or not _are_texts(value[0]):
        bad(DataError(f"{item.where}: no passage of C3, which is [[texts], [questions], id]"))
        return
    name = str(value[2]) if len(value) > 2 else item.where.rpartition(" ")[2]
    for number, asked in enumerate(value[1]):
        where = f"{item.file}, passage {name}, question {number + 1}"
        if not isinstance(asked, dict):
            bad(DataError(f"{where}: {str(asked)[:40]!r} stands where an object with a question must"))
            continue
        passage = "\n".join(value[0])
        yield _Found(
            where,
            str(asked.get("id", f"{name}-{number}")),
            passage,
            asked.get("question"),
            asked.get("choice"),
            asked.get("answer"),
        )


def _question(found: _Found, *, labelled: bool) -> ChoiceQuestion:
    where, choices = found.where, found.choices
    for name, text in (("passage", found.passage), ("question", found.question)):
        if not isinstance(text, str):
            raise DataError(f"{where}: {name} is {str(text)[:40]!r}; it must be text")
    if not _are_texts(choices) or len(choices) < 2:
        raise DataError(f"{where}: choices is {str(choices)[:40]!r}; a question needs a list of two or more")
    if not found.question.strip() and not found.passage.strip():
        raise DataError(f"{where}: there is neither a question nor a passage")
    answer = _number(where, found.answer, choices) if labelled else None
    return ChoiceQuestion(found.id, found.passage, found.question, tuple(choices), answer, where)


def _number(where: str, answer: Any, choices: list[str]) -> int:
    if isinstance(answer, str):
        if answer in choices:
            return choices.index(answer)
        answer = answer.strip()
        named = [n for n, choice in enumerate(choices) if choice.strip() == answer]
        if named:
            return named[0]
        if answer.isdecimal() and len(answer) < 10:
            answer = int(answer)
        elif len(answer) == 1 and answer.upper() in _LETTERS:
            answer = _LETTERS.index(answer.upper())
    if type(answer) is int and 0 <= answer < len(choices):
        return answer
    raise DataError(
        f"{where}: answer is {str(answer)[:40]!r}; it must be one of the {len(choices)} choices, its letter, "
        "or its number from 0"
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
