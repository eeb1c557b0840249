"""Other ways to choose what is hidden than BERT's: stages of units, runs of units, each unit by itself.

Lan et al. 2020, "ALBERT", section 4.1, equation 2 (runs, by the rules of the published data script); Cui et
al. 2020, "MacBERT", section 3.2 (runs of other lengths); Sun et al. 2019, "ERNIE", section 3.2 (stages; each
unit by its own lot, as in the released reader).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from polyseme.objectives.samples import Integers
from polyseme.seeding import RowGenerator
from polyseme.text.store import Mark

if TYPE_CHECKING:
    from polyseme.objectives.masked_lm import MaskedLMSettings

Unit = Literal["token", "word", "phrase", "entity"]
Booleans = npt.NDArray[np.bool_]

UNIT_MARKS: dict[str, Mark] = {"word": Mark.WORD, "phrase": Mark.PHRASE, "entity": Mark.ENTITY}
"""What tells where a unit starts; every token is one of its own."""

HOW_TO_MARK = {
    "word": "--words rjieba",
    "phrase": "--phrases statistics (or a file of phrases, or markup)",
    "entity": "--entities FILE (one entity a line, or markup)",
}
"""What makes `polyseme prepare` mark a unit."""

Choose = Callable[[Integers, Integers, RowGenerator], Booleans]
"""From the unit of each token, the budget of each row and chance to what is hidden."""


def check_unit_settings(settings: MaskedLMSettings) -> None:
    """Refuse what does not go together."""
    if not 0 <= settings.whole <= 1:
        raise ValueError(f"whole is a share from 0 to 1, got {settings.whole}")
    if settings.stage_shares and len(settings.stage_shares) != len(settings.stages):
        raise ValueError(
            f"stage_shares has {len(settings.stage_shares)} entries for {len(settings.stages)} stages; "
            "give one for each, or leave it out for stages of equal length"
        )
    if settings.stage_shares and min(settings.stage_shares) <= 0:
        raise ValueError(f"stage_shares must be above 0, got {min(settings.stage_shares)}")
    if settings.stages and settings.copies is not None:
        raise ValueError("static masks (copies) cannot change their units (stages); leave one out")
    if settings.ngram and (min(settings.ngram) < 0 or abs(sum(settings.ngram) - 1) > 0.01):
        raise ValueError(
            f"ngram gives the chance of each length, with a sum of 1, got a sum of {sum(settings.ngram):g}"
        )
    if settings.selection == "each":
        for name in ("ngram", "final_rate", "most"):
            if getattr(settings, name):
                raise ValueError(
                    f'{name} needs a budget, and selection = "each" has none; leave one of the two out'
                )


def units_of(settings: MaskedLMSettings) -> tuple[Unit, ...]:
    """Every unit that is hidden at some time."""
    return settings.stages or (settings.unit,)


def unit_at(settings: MaskedLMSettings, progress: float) -> Unit:
    """The unit that is hidden when so much of the training lies behind."""
    stages = units_of(settings)
    shares = np.asarray(settings.stage_shares or [1.0] * len(stages))
    ends = np.cumsum(shares / shares.sum())
    return stages[min(int(np.searchsorted(ends, progress, side="right")), len(stages) - 1)]


def chooser(settings: MaskedLMSettings, usual: Choose) -> Choose:
    """The rule that the settings ask for; `usual` is BERT's."""
    if settings.selection == "each":
        return partial(choose_each, rate=settings.rate)
    return partial(choose_ngrams, chances=settings.ngram) if settings.ngram else usual


def unit_sizes(units: Integers) -> Integers:
    """The number of tokens of each row's units, 0 where a row has no such unit: `[batch, length]`."""
    batch, length = units.shape
    flat = np.where(units >= 0, units, length) + np.arange(batch)[:, None] * (length + 1)
    sizes = np.bincount(flat.reshape(-1), minlength=batch * (length + 1))
    counts: Integers = sizes.reshape(batch, length + 1)[:, :length]
    return counts


def choose_each(units: Integers, budget: Integers, rng: RowGenerator, *, rate: float) -> Booleans:
    """Hide every unit with the chance `rate`, whatever its size; there is no budget."""
    if units.shape[1] == 0:
        return np.zeros(units.shape, dtype=np.bool_)
    lots = np.take_along_axis(rng.random(units.shape[1]), np.maximum(units, 0), axis=1)
    chosen: Booleans = (units >= 0) & (lots <= rate)
    return chosen


def draw_lengths(rng: RowGenerator, count: int, chances: tuple[float, ...]) -> Integers:
    """How many units the run that begins at each unit should have: `[batch, count]`."""
    ends = np.cumsum(np.asarray(chances) / sum(chances))[:-1]
    return np.searchsorted(ends, rng.random(count), side="right").astype(np.int64) + 1


def choose_ngrams(
    units: Integers, budget: Integers, rng: RowGenerator, *, chances: tuple[float, ...]
) -> Booleans:
    """Hide runs of units: at units in random order a run begins whose length is drawn from `chances`.

    A run ends with its text at the latest, and shrinks unit by unit until it fits into the budget; where
    even its first unit does not, and where any of its units is hidden already, it is left out. All rows go
    on together, one unit at a time.
    """
    batch, length = units.shape
    lots = rng.random(length)
    drawn = draw_lengths(rng, length, chances)
    if length == 0:
        return np.zeros((batch, 0), dtype=np.bool_)
    most = len(chances)
    sizes = unit_sizes(units)
    ends = np.zeros((batch, length + most + 1), dtype=np.int64)  # tokens before each unit
    np.cumsum(sizes, axis=1, out=ends[:, 1 : length + 1])
    ends[:, length + 1 :] = ends[:, length : length + 1]
    runs = np.minimum(drawn, _reach(units, most))
    turn = np.argsort(np.where(sizes > 0, lots, 2.0), axis=1)
    rows = np.arange(batch)
    left = budget.astype(np.int64)
    hidden_units = np.zeros((batch, length + most), dtype=np.bool_)
    for i in range(int((sizes > 0).sum(axis=1).max(initial=0))):
        unit = turn[:, i]
        run = runs[rows, unit]
        before = ends[rows, unit]
        size = ends[rows, unit + run] - before
        for _ in range(most - 1):
            run = run - ((size > left) & (run > 1))
            size = ends[rows, unit + run] - before
        fits = (size > 0) & (size <= left)
        for step in range(most):
            fits &= ~(hidden_units[rows, unit + step] & (step < run))
        for step in range(most):
            hidden_units[rows, unit + step] |= fits & (step < run)
        left = left - size * fits
        if not left.any():
            break
    hidden_units[:, length:] = False  # read by tokens of no unit
    chosen: Booleans = np.take_along_axis(hidden_units, units, axis=1)
    return chosen


def _reach(units: Integers, most: int) -> Integers:
    """How many units, up to `most`, a run may have from each unit to its text's end: `[batch, length]`."""
    batch, length = units.shape
    goes_on = (units[:, 1:] > units[:, :-1]) & (units[:, :-1] >= 0)  # the next unit begins right here
    row, place = np.nonzero(goes_on)
    followed = np.zeros((batch, length + most), dtype=np.bool_)
    followed[row, units[row, place]] = True
    reach = np.ones((batch, length), dtype=np.int64)
    together = np.ones((batch, length), dtype=np.bool_)
    for step in range(most - 1):
        together = together & followed[:, step : step + length]
        reach += together
    return reach
