"""Distillation: a teacher and a store become a smaller model."""

import json
from pathlib import Path
from typing import Any

from polyseme.training.pretraining import Outcome, pretrain


def distill(
    teacher: str, store: str | Path, *, out: str | Path, recipe: str = "distilbert", **options: Any
) -> Outcome:
    """Train the student of a recipe on the store, with the model `teacher` (folder or hub name) before it.

    It is `pretrain` with the teacher named in the recipe's objective: `options` are the same, and the same
    call goes on with a run that was stopped.

    >>> distill("bert-model", "law.store", out="student", size="small", minutes=20)  # doctest: +SKIP
    """
    name = json.dumps(str(teacher), ensure_ascii=False)
    change = (*options.pop("change", ()), f"objectives.0.teacher={name}")
    return pretrain(recipe, store, out=out, change=change, **options)
