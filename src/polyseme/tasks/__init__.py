"""Supervised uses of a model: each in one file, from reading its data to its scores."""

TASKS: dict[str, str] = {
    "classification": "polyseme.tasks.classification:Classification",
}
"""Import paths, so that help never loads torch."""
