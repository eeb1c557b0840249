"""Another fine-tuned model whose answers a task reads: the slots or entities that it finds in a text."""

from collections.abc import Callable, Sequence
from typing import Any

from polyseme.errors import SettingsError
from polyseme.tasks.predicting import Answerer
from polyseme.tasks.tagged_texts import Entity, TaggedText
from polyseme.tasks.utterances import Utterance

EXAMPLES: dict[str, Callable[[TaggedText], Any]] = {
    "tagging": lambda tagged: tagged,
    "intents": lambda tagged: Utterance(tagged, None),
}
"""How the tasks that find entities are asked, by their names."""


class Upstream:
    """The model of a folder, loaded when it is first asked."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._answerer: Answerer | None = None

    def entities(self, texts: Sequence[TaggedText]) -> list[Sequence[Entity]]:
        """What it finds in each text, whatever is known of it already."""
        if self._answerer is None:
            self._answerer = Answerer(self._folder)
        task = self._answerer.task.name
        if task not in EXAMPLES:
            raise SettingsError(
                f"{self._folder} was fine-tuned for {task}; a tagger is one of {', '.join(EXAMPLES)}"
            )
        answers = self._answerer.answers([EXAMPLES[task](text) for text in texts])
        return [answer.entities for answer in answers]
