"""Questions on passages from the files of SQuAD, CMRC 2018 and CJRC, and from JSON lines."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from polyseme.errors import DataError
from polyseme.tasks.json_examples import JsonItem, at, json_items
from polyseme.tasks.reading_report import announced, shortened
from polyseme.tasks.skipping import bad, parsed
from polyseme.text.column_names import NAMES


class Span(NamedTuple):
    """An answer that stands in the passage."""

    start: int
    stop: int
    """In characters of the passage as the file has it."""


@dataclass(frozen=True, slots=True)
class Question:
    """One example."""

    id: str
    text: str
    passage: str
    gold: tuple[str, ...] | None
    """The answers that the file gives, empty ones where there is none; None where it does not say."""
    lesson: Span | str | None
    """What is learned from it: where an answer stands, or the word for an answer of the whole passage, empty
    for no answer; None where nothing can be learned."""
    fault: str
    """Why nothing can be learned."""
    where: str
    """File and place, for messages."""


def read_questions(
    path: Path, *, labelled: bool, encoding: str, errors: Literal["strict", "replace"]
) -> Iterator[Question]:
    """The questions of a file in order.

    Known are SQuAD's JSON (1.1 and 2.0; also CMRC 2018's and CJRC's), CMRC 2018's own (a list with
    `context_text`), and JSON lines with `question`, `context` and `answers`. What does not fit is a
    `DataError` with file, place and rule.
    """
    items = json_items(path, encoding=encoding, errors=errors)
    questions = (question for item in items for question in _of_item(item, labelled=labelled))
    return announced(questions, path, lambda first: f"questions on passages; the first: {_shown(first)}")


def question_of(given: Any, where: str) -> Question:
    """A question to answer from (question, passage), or an object with `question` and `context`."""
    match given:
        case (str(question), str(passage)):
            given = {"question": question, "context": passage}
    if not isinstance(given, dict):
        raise DataError(f"{where} is {given!r:.60}; it must be a pair of question and passage")
    item = JsonItem(where, {**given, "id": given.get("id", "")})
    (one,) = _questions(item)
    return _question(one, labelled=False)


def _of_item(item: JsonItem, *, labelled: bool) -> Iterator[Question]:
    return parsed(_found(item), lambda found: _question(found, labelled=labelled))


def _shown(example: Question) -> str:
    """An example in a line about its file."""
    gold = "" if example.gold is None else f" → {shortened(example.gold[0]) if example.gold else 'no answer'}"
    return f"question {shortened(example.text)} on {shortened(example.passage)}{gold}"


class _Found(NamedTuple):
    """A question as it stands in the file."""

    where: str
    id: str
    passage: Any
    text: Any
    content: dict[str, Any]
    """Where its answers are."""


def _found(item: JsonItem) -> list[_Found]:
    """The questions of one item; one that is broken as a whole is `bad`."""
    try:
        return list(_questions(item))
    except DataError as error:
        bad(error)
        return []


def _questions(item: JsonItem) -> Iterator[_Found]:
    """The questions of a file's item, which is an article, a passage or a question."""
    if "paragraphs" in item.value:
        for number, paragraph in enumerate(at(item, "paragraphs", list)):
            passage = JsonItem(f"{item.where}, passage {number + 1}", _object(item.where, paragraph))
            yield from _of_passage(passage, "context", "qas", "question", "id")
    elif "context_text" in item.value:
        yield from _of_passage(item, "context_text", "qas", "query_text", "query_id")
    elif "qas" in item.value:
        yield from _of_passage(item, "context", "qas", "question", "id")
    else:
        id = str(item.value.get("id", item.where.rpartition(" ")[2]))
        text, question = (
            next((item.value[name] for name in NAMES[role] if name in item.value), None)
            for role in ("passage", "question")
        )
        yield _Found(item.where, id, text, question, item.value)


def _of_passage(item: JsonItem, passage: str, questions: str, asked: str, id: str) -> Iterator[_Found]:
    for number, value in enumerate(at(item, questions, list)):
        content = _object(item.where, value)
        name = str(content.get(id, number + 1))
        where = f"{item.file}, question {name}" if id in content else f"{item.where}, question {name}"
        yield _Found(where, name, item.value.get(passage), content.get(asked), content)


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: {str(value)[:40]!r} stands where an object with a question must")
    return value


def _question(found: _Found, *, labelled: bool) -> Question:
    where, id, passage, asked, content = found
    for name, text in (("context", passage), ("question", asked)):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: {name} is {str(text)[:40]!r}; it must be a text, and not empty")
    if not labelled:
        return Question(id, asked, passage, None, None, "", where)
    answers = _answers(where, content, passage)
    lesson, fault = _lesson(answers, passage)
    gold = tuple(answer.text for answer in answers)
    return Question(id, asked, passage, gold, lesson, fault and f"{where}: {fault}", where)


class _Answer(NamedTuple):
    text: str
    start: int


def _answers(where: str, content: dict[str, Any], passage: str) -> list[_Answer]:
    """The answers with their places; -1 where they are none of the passage."""
    given = next((content[name] for name in NAMES["answers"] if name in content), None)
    impossible = str(content.get("is_impossible", False)).lower() == "true"
    if given is None and not impossible:
        raise DataError(f"{where}: there are no answers; a labelled question has a list of them")
    if isinstance(given, dict):  # as Hugging Face's data sets have them: lists side by side
        texts, starts = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise DataError(f"{where}: answers must have as many answer_start as text")
        given = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if given is not None and not isinstance(given, list):
        raise DataError(f"{where}: answers is {str(given)[:40]!r}; it must be a list")
    return [_answer(where, answer, passage) for answer in given or []]


def _answer(where: str, answer: Any, passage: str) -> _Answer:
    if isinstance(answer, str):  # CMRC 2018's own files name no place.
        return _Answer(answer, passage.find(answer) if answer else -1)
    text, start = (
        (answer.get("text"), answer.get("answer_start", -1)) if isinstance(answer, dict) else (None, 0)
    )
    if not isinstance(text, str) or type(start) is not int:
        raise DataError(
            f"{where}: {str(answer)[:60]!r} is no answer; it needs a text and a whole number answer_start"
        )
    return _Answer(text, start)


def _lesson(answers: list[_Answer], passage: str) -> tuple[Span | str | None, str]:
    """What most of the answers say that have a place, the first of several; or what is wrong."""
    usable: list[Span | str] = []
    faults = []
    for text, start in answers:
        if text == "" or (start < 0 and text in WHOLE):
            usable.append(text)
        elif start >= 0 and passage.startswith(text, start):
            usable.append(Span(start, start + len(text)))
        else:
            stands = f"where {passage[start : start + len(text)][:40]!r} stands" if start >= 0 else "no place"
            faults.append(f"the answer {text[:40]!r} is not in the passage at character {start}, {stands}")
    if not answers:
        return "", ""
    if not usable:
        return None, faults[0]
    return Counter(usable).most_common(1)[0][0], ""


WHOLE = ("YES", "NO")
"""Answers that a passage gives as a whole: texts without a place in it."""
