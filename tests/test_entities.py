"""Entities as the official scorer counts them, and the schemes of tags that say them."""

import itertools
import json
import lzma
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from polyseme.tasks.entities import score_entities
from polyseme.tasks.tag_schemes import (
    OUTSIDE,
    SCHEMES,
    Span,
    all_tags,
    allowed,
    scheme_of,
    spans,
    split_tag,
    tags_of,
)

RECORDED = Path(__file__).parent / "data" / "seqeval.json.xz"
TYPES = ("PER", "LOC", "a-b")


def random_entities(rng: np.random.Generator, length: int) -> list[Span]:
    """Entities that do not overlap; neighbours may touch and be of one type."""
    found, place = [], 0
    while place < length:
        size = int(rng.integers(1, 4))
        if rng.random() < 0.6 and place + size <= length:
            found.append(Span(str(rng.choice(TYPES)), place, place + size))
        place += size
    return found


def chunk_starts(tags: list[str]) -> set[tuple[str, int, int]]:
    """The entities by the two tables of conlleval.pl: where a chunk ends, and where one starts."""

    def ends(before: tuple[str, str], here: tuple[str, str]) -> bool:
        (b, kind), (h, own) = before, here
        return b != "O" and (b in "ES" or h in "BSO" or kind != own)

    def starts(before: tuple[str, str], here: tuple[str, str]) -> bool:
        (b, kind), (h, own) = before, here
        return h in "BS" or (b in "ESO" and h in "EI") or (h != "O" and kind != own)

    found: set[tuple[str, int, int]] = set()
    open_at: int | None = None
    before = ("O", "")
    for place, tag in enumerate([*tags, "O"]):
        here = ("O", "") if tag == "O" else (tag[0], tag[2:])
        if ends(before, here) and open_at is not None:
            found.add((before[1], open_at, place))
            open_at = None
        if starts(before, here):
            open_at = place
        before = here
    return found


def test_scores_equal_those_that_seqeval_recorded() -> None:
    cases = json.loads(lzma.decompress(RECORDED.read_bytes()))
    assert len(cases) == 150
    for case in cases:
        given, true = ([spans(tags) for tags in case[name]] for name in ("given", "true"))
        assert [[(s.type, s.start, s.stop - 1) for s in found] for found in given] == [
            [tuple(entity) for entity in entities] for entities in case["entities"]
        ]
        scores = score_entities(given, true, lambda span: span.type)
        assert scores.all[:3] == pytest.approx(case["all"], abs=1e-12)
        assert scores.types.keys() == case["types"].keys()
        for kind, expected in case["types"].items():
            assert scores.types[kind][:4] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("letters", ["BI", "I", "BIES"])
def test_entities_of_any_tags_equal_the_tables_of_the_official_script(letters: str) -> None:
    rng = np.random.default_rng(len(letters))
    tags = ["O", *(f"{letter}-{kind}" for letter in letters for kind in ("X", "Y"))]
    for _ in range(2000):
        given = [str(tag) for tag in rng.choice(tags, size=int(rng.integers(0, 9)))]
        assert {tuple(span) for span in spans(given)} == chunk_starts(given)


def test_the_counts_are_those_of_comparing_every_entity_with_every_other() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        true = [random_entities(rng, 12) for _ in range(4)]
        given = [
            [span for span in found if rng.random() < 0.7] + random_entities(rng, 5)[:1] for found in true
        ]
        scores = score_entities(given, true, lambda span: span.type)
        right: Counter[str] = Counter()
        for a, b in zip(given, true, strict=True):
            right.update(x.type for x in set(a) if any(x == y for y in b))
        for kind, score in scores.types.items():
            assert score.support == sum(span.type == kind for found in true for span in found)
            assert score.precision * score.found == pytest.approx(right[kind])
            assert score.recall * score.support == pytest.approx(right[kind])
        assert scores.all.support == sum(len(found) for found in true)


def test_nothing_found_and_nothing_there_scores_nothing() -> None:
    assert score_entities([[]], [[]], str).all == (0, 0, 0, 0, 0)
    assert score_entities([[]], [["a"]], str).all == (0, 0, 0, 1, 0)
    assert score_entities([["a"]], [[]], str).all == (0, 0, 0, 0, 1)


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name not in ("io", "plain")])
def test_entities_come_back_from_the_tags_of_every_scheme(scheme: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        length = int(rng.integers(0, 15))
        entities = random_entities(rng, length)
        tags = tags_of(entities, length, scheme)
        assert spans(tags) == entities
        assert set(tags) <= set(all_tags(TYPES, scheme))


def test_tags_of_io_and_plain_classes_say_what_they_can() -> None:
    assert tags_of([Span("A", 0, 2), Span("B", 2, 3)], 4, "io") == ["I-A", "I-A", "I-B", "O"]
    assert spans(["I-A", "I-A", "O", "I-A"]) == [Span("A", 0, 2), Span("A", 3, 4)]
    assert spans(["NN", "NN", "VB"]) == [Span("NN", 0, 1), Span("NN", 1, 2), Span("VB", 2, 3)]
    assert all_tags(["NN", "VB"], "plain") == ("O", "NN", "VB")
    assert spans(["B", "M", "E", "S"]) == [Span("", 0, 3), Span("", 3, 4)]  # words cut, without types


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "B-A", "I-A"], "bio"),
        (["O", "I-A", "I-B"], "io"),
        (["B-A", "M-A", "E-A"], "bmes"),
        (["B-A", "I-A", "E-A", "S-A"], "bioes"),
        (["B-A", "L-A", "U-A"], "bilou"),
        (["NN", "VB", "O"], "plain"),
        (["O"], "bio"),
        (["B_A", "I_A"], "bio"),
    ],
)
def test_the_scheme_is_told_by_the_letters(tags: list[str], scheme: str) -> None:
    assert scheme_of(tags) == scheme


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_allowed_is_exactly_what_entities_can_give(scheme: str) -> None:
    tags = all_tags(("X", "Y"), scheme)
    rules = allowed(tags, scheme)
    place = {tag: number for number, tag in enumerate(tags)}
    for sequence in itertools.product(tags, repeat=3):
        numbers = [place[tag] for tag in sequence]
        fits = rules.first[numbers[0]] and rules.last[numbers[-1]]
        fits = fits and all(rules.between[a][b] for a, b in itertools.pairwise(numbers))
        assert fits == (tuple(tags_of(spans(sequence), 3, scheme)) == sequence)


def test_letters_are_split_from_types() -> None:
    assert [split_tag(tag) for tag in ("O", "M-PER", "B-a-b", "U_X", "NN")] == [
        (OUTSIDE, ""),
        ("I", "PER"),
        ("B", "a-b"),
        ("S", "X"),
        ("S", "NN"),
    ]
