"""Where phrases and entities come from, and which words start one: those that lie inside none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from polyseme.errors import SettingsError
from polyseme.text.annotation import Annotated, Spans
from polyseme.text.normalising import NormalisingSettings, normaliser
from polyseme.text.store import Mark
from polyseme.text.unit_lists import Finder, read_unit_list

Int64s = npt.NDArray[np.int64]

Source = Finder | Literal["markup"] | None
"""What finds units among the pieces of a text; or the text's own brackets; or nothing: no marks."""


@dataclass(frozen=True)
class UnitSources:
    """What marks phrases, and what marks entities; it can be pickled, for worker processes."""

    phrases: Source = None
    entities: Source = None

    @property
    def markup(self) -> bool:
        """Whether the text has brackets to be read and left out."""
        return self.phrases == "markup" or self.entities == "markup"

    def starts(self, annotated: Annotated, words: Int64s) -> dict[Mark, Int64s]:
        """The words that start a phrase, and those that start an entity, as places in the text.

        `words` are the places where words start, and where the annotated units begin and end.
        """
        text = annotated.text
        ends = np.append(words[1:], len(text))
        found: dict[Mark, Int64s] = {}
        pieces: list[str] = []
        kinds = (
            (Mark.PHRASE, self.phrases, annotated.phrases),
            (Mark.ENTITY, self.entities, annotated.entities),
        )
        for mark, source, spans in kinds:
            if source is None:
                continue
            if source != "markup":
                pieces = pieces or [text[a:b] for a, b in zip(words.tolist(), ends.tolist(), strict=True)]
                spans = [(int(words[first]), int(ends[stop - 1])) for first, stop in source(pieces)]
            found[mark] = _outside(words, spans)
        return found


def with_borders(words: Int64s, annotated: Annotated) -> Int64s:
    """Where words start, when what is annotated begins and ends words too."""
    borders = [border for span in (*annotated.phrases, *annotated.entities) for border in span]
    inside = [border for border in borders if border < len(annotated.text)]
    return np.union1d(words, np.asarray(inside, dtype=np.int64)) if inside else words


def unit_sources(phrases: str, entities: str, normalising: NormalisingSettings) -> UnitSources:
    """The sources by the words of the settings; statistics are not among them, they need a corpus."""
    return UnitSources(_source(phrases, normalising), _source(entities, normalising))


def _source(choice: str, normalising: NormalisingSettings) -> Source:
    if choice == "none":
        return None
    if choice == "markup":
        return "markup"
    if choice == "statistics":
        raise SettingsError(
            "statistics are taken over a corpus, by prepare; name a file, markup or none here"
        )
    return read_unit_list(Path(choice), normaliser(normalising))


def _outside(words: Int64s, spans: Spans) -> Int64s:
    """The words that do not lie inside a span; its first word does not."""
    if not spans:
        return words
    borders = np.asarray(spans, dtype=np.int64)
    depth = np.zeros(len(words) + 1, dtype=np.int64)
    np.add.at(depth, np.searchsorted(words, borders[:, 0], side="right"), 1)
    np.add.at(depth, np.searchsorted(words, borders[:, 1], side="left"), -1)
    starts: Int64s = words[np.cumsum(depth)[:-1] == 0]
    return starts
