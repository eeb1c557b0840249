"""What an objective makes of a store: which tokens it hides, what stands there instead, in which shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from polyseme.errors import SettingsError
from polyseme.records import Record
from polyseme.seeding import RowGenerator, generator
from polyseme.text.store import Mark, Store

if TYPE_CHECKING:
    from polyseme.objectives.rows import Rows

Fate = Literal["read", "masked", "random", "kept"]

_MOST_TOKENS = 200_000
_COUNTED_ROWS = 200


class SeenToken(Record, frozen=True, kw_only=True):
    """One token of a row, as it was and as the model reads it."""

    token: str
    shown: str
    fate: Fate
    """read: not hidden; else what became of the hidden token."""
    starts_word: bool


class SeenRow(Record, frozen=True, kw_only=True):
    """One row that the model reads."""

    tokens: list[SeenToken]
    pair_label: int | None = None
    """Of rows that have one: 0 or 1."""
    answer: str | None = None
    """What the label says of the row's texts."""


class MaskSummary(Record, frozen=True, kw_only=True):
    """Rows to look at, and shares over more of them."""

    rows: list[SeenRow]
    counted: int
    """The rows behind the shares."""
    hidden: float
    """Hidden tokens, as a share of all tokens of their rows, special ones included."""
    masked: float
    """Of the hidden tokens, those that became the mask token."""
    random: float
    kept: float
    """Hidden tokens that stay what they were, or were drawn again by chance."""
    words_cut: int | None
    """Words of which a part is hidden and a part is not; None where the store does not mark words."""
    phrases_cut: int | None = None
    """The same of phrases."""
    entities_cut: int | None = None
    """The same of entities."""


def show_masks(
    store: str | Path,
    *,
    recipe: str,
    samples: int = 3,
    seed: int = 0,
    progress: float = 0.0,
    change: Sequence[str] = (),
) -> MaskSummary:
    """What the objective of a recipe makes of some documents of the store.

    `progress` is how much of the training lies behind, from 0 to 1, for rates and units that change on the
    way; `change` are changes to the recipe, such as `objectives.0.similar.vectors=vectors.txt`.

    >>> show_masks("wiki.store", recipe="bert-wwm").words_cut  # doctest: +SKIP
    0
    """
    import torch

    from polyseme.objectives.rows import lay_out
    from polyseme.objectives.units import UNIT_MARKS
    from polyseme.training.building import build_objective, model_config
    from polyseme.training.recipes import changed, read_recipe

    opened = Store.open(store)
    chosen_recipe = changed(read_recipe(recipe), change)
    with torch.random.fork_rng():
        objective = build_objective(chosen_recipe, model_config(chosen_recipe, None, opened), opened)
    length = chosen_recipe.training.length
    table = objective.corruption.plan(
        opened, _some_documents(opened, seed), length=length, seed=seed, epoch=0
    )
    numbers = generator(seed, "rows").permutation(len(table))[: max(samples, _COUNTED_ROWS)]
    rows = lay_out(opened, table, numbers, length=length, progress=progress)
    arrays = objective.corruption(rows, RowGenerator(numbers, seed, "corruption", 0))

    if "decoder_input_ids" in arrays:
        raise SettingsError(
            f"{recipe} has no masks to show: what is hidden is written by a decoder, and what is read has "
            "other tokens in its place"
        )
    if "mask" not in opened.tokenizer.special_tokens or "predicted" not in arrays:
        raise SettingsError(
            f"{recipe} hides no tokens; its objective predicts what stands in the text itself"
        )
    before = rows.input_ids
    after = np.asarray(arrays["input_ids"]).astype(np.int64)
    hidden = np.zeros(before.shape, dtype=np.bool_)
    if "predicted" in arrays:
        hidden.reshape(-1)[np.asarray(arrays["predicted"]).astype(np.int64)] = True
    masked = hidden & (after == opened.tokenizer.mask_id)
    kept = hidden & (after == before)
    count = max(1, int(hidden.sum()))
    cut = {
        mark: _units_cut(hidden, rows, mark) for mark in UNIT_MARKS.values() if mark in opened.marks_present
    }
    return MaskSummary(
        rows=[
            _row(opened, rows, i, after[i], hidden[i], objective.answers)
            for i in range(min(samples, len(numbers)))
        ],
        counted=len(numbers),
        hidden=float(hidden.sum() / rows.attention_mask.sum()),
        masked=float(masked.sum() / count),
        random=float((hidden & ~masked & ~kept).sum() / count),
        kept=float(kept.sum() / count),
        words_cut=cut.get(Mark.WORD),
        phrases_cut=cut.get(Mark.PHRASE),
        entities_cut=cut.get(Mark.ENTITY),
    )


def _some_documents(store: Store, seed: int) -> npt.NDArray[np.int64]:
    """Documents at random, in the store's order, of about `_MOST_TOKENS` tokens; two at least, for pairs."""
    lot = generator(seed, "documents").permutation(store.num_documents)[:_MOST_TOKENS]
    sizes = store.document_starts[lot + 1] - store.document_starts[lot]
    enough = max(2, int(np.searchsorted(np.cumsum(sizes), _MOST_TOKENS)))
    return np.sort(lot[:enough])


def _row(
    store: Store,
    rows: Rows,
    row: int,
    after: npt.NDArray[np.int64],
    hidden: npt.NDArray[np.bool_],
    answers: tuple[str, str] | None,
) -> SeenRow:
    width = int(rows.attention_mask[row].sum())
    before = rows.input_ids[row, :width]
    names = store.tokenizer.tokens(before.astype(np.int32))
    shown = store.tokenizer.tokens(after[:width].astype(np.int32))
    tokens = []
    for i in range(width):
        fate: Fate = "read"
        if hidden[i]:
            fate = "kept" if after[i] == before[i] else "masked"
            if fate == "masked" and after[i] != store.tokenizer.mask_id:
                fate = "random"
        starts = bool(rows.marks[row, i] & Mark.WORD) or not rows.real[row, i]
        tokens.append(SeenToken(token=names[i], shown=shown[i], fate=fate, starts_word=starts))
    label = None if rows.pair_labels is None else int(rows.pair_labels[row])
    answer = answers[label] if answers is not None and label is not None else None
    return SeenRow(tokens=tokens, pair_label=label, answer=answer)


def _units_cut(hidden: npt.NDArray[np.bool_], rows: Rows, mark: Mark) -> int:
    """The units that are hidden in part; one that a row's end cuts counts as what the row has of it."""
    real = rows.real.reshape(-1)
    before = np.concatenate([[False], real[:-1]])
    starts = real & (((rows.marks & mark) > 0).reshape(-1) | ~before)
    unit = np.cumsum(starts)[real]
    sizes = np.bincount(unit)
    parts = np.bincount(unit, weights=hidden.reshape(-1)[real])
    return int(((parts > 0) & (parts < sizes)).sum())
