"""Options of commands that are about one of several tasks: those of the task that is named."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar, cast

import msgspec

from polyseme.tasks import TASKS
from polyseme.tasks.task import settings_kind

R = TypeVar("R", bound=msgspec.Struct)


def with_settings(options: type[R], arguments: Sequence[str]) -> type[R]:
    """The record whose `examples` are the settings of the first task among the arguments, if there is one."""
    named = [argument for argument in arguments if argument in TASKS]
    # What stands behind an option may be its value: a folder that is called as a task is.
    free = [argument for before, argument in pairwise(("", *arguments)) if not before.startswith("--")]
    name = next((argument for argument in (*free, *named) if argument in TASKS), None)
    if name is None:
        return options
    kind = settings_kind(name)
    made = msgspec.defstruct(
        options.__name__,
        [("examples", kind, kind())],
        bases=(options,),
        frozen=True,
        kw_only=True,
        module=options.__module__,
    )
    made.__doc__ = options.__doc__
    return cast("type[R]", made)
