"""Supervised uses of a model: each in one file, from reading its data to its scores."""

from typing import NamedTuple


class TaskEntry(NamedTuple):
    """Where a task lives; import paths, so that help never loads torch."""

    kind: str
    """Of its class."""
    settings: str
    """Of the record of its settings, in a module without torch."""


TASKS: dict[str, TaskEntry] = {
    "classification": TaskEntry(
        "polyseme.tasks.classification:Classification", "polyseme.tasks.settings:ClassificationSettings"
    ),
}
