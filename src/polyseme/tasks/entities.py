"""Entities found against entities that are there, counted as conlleval counts them: only the whole is right.

Tjong Kim Sang and De Meulder 2003: an entity counts where its type and both its ends are right; precision,
recall and F1 are of all entities together (micro), and of each type. Entities are anything that can be
compared, such as type, begin and end; one that is named twice in a text counts once.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)


class EntityScore(NamedTuple):
    """How well entities were found; 0 where nothing could be divided."""

    precision: float
    recall: float
    f1: float
    support: int
    """Entities that are there."""
    found: int
    """Entities that were answered, right or wrong."""


class EntityScores(NamedTuple):
    """The scores of all entities together and of each type, in the order of the types' names."""

    all: EntityScore
    types: dict[str, EntityScore]

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the types that occur, as an answer or as the truth."""
        return sum(score.f1 for score in self.types.values()) / max(len(self.types), 1)


def score_entities(
    given: Sequence[Iterable[T]], true: Sequence[Iterable[T]], type_of: Callable[[T], str]
) -> EntityScores:
    """The scores of the `given` entities of each text against the `true` ones."""
    answered, there, right = Counter[str](), Counter[str](), Counter[str]()
    for of_given, of_true in zip(given, true, strict=True):
        set_given, set_true = set(of_given), set(of_true)
        answered.update(map(type_of, set_given))
        there.update(map(type_of, set_true))
        right.update(map(type_of, set_given & set_true))
    types = {kind: _score(right[kind], answered[kind], there[kind]) for kind in sorted({*answered, *there})}
    return EntityScores(_score(right.total(), answered.total(), there.total()), types)


def _score(right: int, answered: int, there: int) -> EntityScore:
    precision = right / answered if answered else 0.0
    recall = right / there if there else 0.0
    both = precision + recall
    return EntityScore(precision, recall, 2 * precision * recall / both if both else 0.0, there, answered)
