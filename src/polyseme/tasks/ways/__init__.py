"""The ways of fine-tuning: what of a network learns when, and what stands on it."""

WAYS: dict[str, str] = {
    "full": "polyseme.tasks.ways.full:Full",
    "filling": "polyseme.tasks.ways.filling:Filling",
    "frozen": "polyseme.tasks.ways.frozen:Frozen",
    "head-first": "polyseme.tasks.ways.head_first:HeadFirst",
    "gradual": "polyseme.tasks.ways.gradual:Gradual",
}
"""Import paths, so that help never loads torch."""
