"""Several tasks as a file says them; torch-free for the help."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from polyseme.errors import SettingsError
from polyseme.records import Record, from_plain, read_toml
from polyseme.tasks import TASKS

_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


class TaskFiles(Record, frozen=True):
    """One of the tasks: which, and its files."""

    task: str
    """A name in the table of tasks."""
    train: str
    """Examples to learn from."""
    dev: str
    """Examples that choose the best epoch."""
    test: str | None = None
    """Examples for a last score, which choose nothing."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """The task's own settings, such as `label_column`."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"there is no task {self.task!r}; choose {', '.join(TASKS)}")


class TogetherFile(Record, frozen=True):
    """A TOML file of `[tasks.NAME]` tables."""

    tasks: dict[str, TaskFiles]


def task_files(tasks: str | Path | Mapping[str, Mapping[str, Any]]) -> dict[str, TaskFiles]:
    """The tasks by the names that answers go by, from a TOML file or from dictionaries.

    Paths in a file count from the file's folder. There are at least two tasks, and their names are letters,
    digits, `_` and `-`.
    """
    if isinstance(tasks, str | Path):
        where, path = str(tasks), Path(tasks)
        found = {name: _beside(path.parent, one) for name, one in read_toml(path, TogetherFile).tasks.items()}
    else:
        where = "tasks"
        found = {
            name: from_plain(_plain(one), TaskFiles, where=f"tasks.{name}") for name, one in tasks.items()
        }
    if len(found) < 2:
        raise SettingsError(f"{where} has {len(found)} tasks; name at least two, each in [tasks.NAME]")
    for name in found:
        if not name or set(name) - set(_NAME):
            raise SettingsError(f"{where}: a task cannot be called {name!r}; take letters, digits, _ and -")
    return found


def _plain(one: Mapping[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in one.items()}


def _beside(folder: Path, one: TaskFiles) -> TaskFiles:
    files = {
        name: str(folder / value)
        for name in ("train", "dev", "test")
        if (value := getattr(one, name)) is not None
    }
    return msgspec.structs.replace(one, **files)
