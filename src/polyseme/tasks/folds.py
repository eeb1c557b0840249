"""Parts of the training examples that take turns in being left out."""

from collections.abc import Sequence

from polyseme.seeding import generator


def folds(strata: Sequence[object], count: int, *, seed: int) -> list[list[int]]:
    """The numbers of the examples in `count` parts, each stratum spread evenly over them.

    Every example is in exactly one part; the parts differ by at most one example.
    """
    members: dict[object, list[int]] = {}
    for number, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(number)
    parts: list[list[int]] = [[] for _ in range(count)]
    dealt = 0
    for place, group in enumerate(members.values()):
        for number in generator(seed, "folds", place).permutation(len(group)):
            parts[dealt % count].append(group[number])
            dealt += 1
    return [sorted(part) for part in parts]
