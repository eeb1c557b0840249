"""Options of commands that are about one of several tasks: those of the task that is named."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, cast

import msgspec

from polyseme.checkpoints.cards import how_made
from polyseme.records import from_plain
from polyseme.tasks import TASKS
from polyseme.tasks.task import settings_from_training, settings_kind

R = TypeVar("R", bound=msgspec.Struct)


def with_settings(options: type[R], arguments: Sequence[str]) -> type[R]:
    """The record whose `examples` are the settings of the first task among the arguments, if there is one."""
    named = [argument for argument in arguments if argument in TASKS]
    # What stands behind an option may be its value: a folder that is called as a task is.
    free = [argument for before, argument in pairwise(("", *arguments)) if not before.startswith("--")]
    name = next((argument for argument in (*free, *named) if argument in TASKS), None)
    return options if name is None else _with_examples(options, settings_kind(name)())


def with_settings_of_model(options: type[R], arguments: Sequence[str]) -> type[R]:
    """The record whose `examples` are the settings of the task of `--model`, as they were in fine-tuning.

    Where `--model` is no folder with a card that names a task, the record stays as it is.
    """
    folder = _value_of("--model", arguments)
    made = how_made(Path(folder)) if folder is not None and Path(folder).is_dir() else {}
    name = made.get("task")
    if name not in TASKS:
        return options
    return _with_examples(
        options,
        from_plain(settings_from_training(made.get("task_settings", {})), settings_kind(name), where=name),
    )


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    for argument, following in pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else following
    return None


def _with_examples(options: type[R], settings: msgspec.Struct) -> type[R]:
    made = msgspec.defstruct(
        options.__name__,
        [("examples", type(settings), settings)],
        bases=(options,),
        frozen=True,
        kw_only=True,
        module=options.__module__,
    )
    made.__doc__ = options.__doc__
    return cast("type[R]", made)
