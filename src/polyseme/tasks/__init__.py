"""Supervised uses of a model: each in one file, from reading its data to its scores."""

from typing import NamedTuple


class TaskEntry(NamedTuple):
    """Where a task lives; import paths, so that help never loads torch."""

    kind: str
    """Of its class."""
    settings: str
    """Of the record of its settings, in a module without torch."""


TASKS: dict[str, TaskEntry] = {
    "tagging": TaskEntry("polyseme.tasks.tagging:Tagging", "polyseme.tasks.tagging_settings:TaggingSettings"),
    "classification": TaskEntry(
        "polyseme.tasks.classification:Classification", "polyseme.tasks.settings:ClassificationSettings"
    ),
    "intents": TaskEntry("polyseme.tasks.intents:Intents", "polyseme.tasks.intent_settings:IntentSettings"),
    "fused-intents": TaskEntry(
        "polyseme.tasks.fused_intents:FusedIntents", "polyseme.tasks.intent_settings:FusedIntentSettings"
    ),
    "reading-comprehension": TaskEntry(
        "polyseme.tasks.reading_comprehension:ReadingComprehension",
        "polyseme.tasks.answer_settings:ReadingSettings",
    ),
    "multiple-choice": TaskEntry(
        "polyseme.tasks.multiple_choice:MultipleChoice", "polyseme.tasks.answer_settings:ChoiceSettings"
    ),
    "ranking": TaskEntry("polyseme.tasks.ranking:Ranking", "polyseme.tasks.answer_settings:RankingSettings"),
    "regression": TaskEntry(
        "polyseme.tasks.regression:Regression", "polyseme.tasks.settings:RegressionSettings"
    ),
}
