"""A fair part of the training examples: each label with its share, the same part in every run."""

import math
from collections.abc import Sequence
from typing import TypeVar

from polyseme.seeding import generator

T = TypeVar("T")


def subset(
    examples: Sequence[T], strata: Sequence[object], *, share: float | None, limit: int | None, seed: int
) -> list[T]:
    """This `share` of the examples or at most `limit` of them, in order; all where neither is given."""
    if share is None and limit is None:
        return list(examples)
    count = limit if limit is not None else max(1, round((share or 1) * len(examples)))
    return [examples[number] for number in stratified(strata, count, seed=seed)]


def stratified(strata: Sequence[object], count: int, *, seed: int) -> list[int]:
    """The numbers of `count` examples, in order, each stratum with its share of them, to one example.

    A smaller subset of the same seed lies inside a larger one, as far as the rounding allows.
    """
    members: dict[object, list[int]] = {}
    for number, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(number)
    count = min(count, len(strata))
    exact = [len(group) * count / len(strata) for group in members.values()]
    quotas = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: quotas[place] - exact[place])
    for place in by_remainder[: count - sum(quotas)]:
        quotas[place] += 1
    chosen: list[int] = []
    for place, (group, quota) in enumerate(zip(members.values(), quotas, strict=True)):
        order = generator(seed, "subset", place).permutation(len(group))
        chosen += [group[number] for number in order[:quota]]
    return sorted(chosen)
