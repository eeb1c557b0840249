"""Next sentence: does segment B follow segment A, or does it come from anywhere?

Devlin et al. 2019, "BERT", section 3.1; with the opposite labels: Sun et al. 2019, "ERNIE", as released.
"""

from dataclasses import dataclass
from typing import Literal

from polyseme.models.transformer.config import TransformerConfig
from polyseme.objectives.pairs import (
    Chunk,
    Drawing,
    Pair,
    PairObjective,
    PairSampling,
    PairSettings,
    check_shares,
)
from polyseme.text.store import Store

FOLLOWS, RANDOM = 0, 1


class NextSentenceSettings(PairSettings, frozen=True, kw_only=True):
    """How pairs of segments are made."""

    random: float = 0.5
    """Share of the pairs whose second segment is drawn from another document. A chunk of one sentence has
    no second half, so it always gets a drawn one, and short documents raise the share."""
    follows: Literal[0, 1] = 0
    """The label of a pair that follows: 0 as BERT has it, 1 as ERNIE has it; a drawn one has the other."""

    def __post_init__(self) -> None:
        check_shares(self, "random", "short")


@dataclass(frozen=True)
class Pairs(PairSampling):
    """The loader's half: the second segment follows, or is drawn from another document."""

    settings: NextSentenceSettings

    def pair(self, chunk: Chunk, draw: Drawing) -> Pair | None:
        """What is not used of a chunk whose second segment is drawn comes again."""
        follows = self.settings.follows
        if chunk.sentences == 1 or draw.rng.random() < self.settings.random:
            least = chunk.target - (chunk.first[1] - chunk.first[0])
            drawn = draw.elsewhere(chunk.document, least=least)
            return Pair(chunk.first, drawn, label=1 - follows, used=chunk.cut)
        return Pair(chunk.first, chunk.second, label=follows, used=chunk.sentences)


class NextSentence(PairObjective):
    """The device's half."""

    Settings = NextSentenceSettings
    name = "next-sentence"

    def __init__(self, settings: NextSentenceSettings, config: TransformerConfig, store: Store) -> None:
        super().__init__(Pairs(settings), "next-sentence", settings.weight, config)
        answers = ("the second text follows", "the second text is a random one")
        self.answers = answers if settings.follows == FOLLOWS else answers[::-1]

    @classmethod
    def head_names(cls, settings: NextSentenceSettings) -> tuple[str, ...]:
        """The pair head."""
        return ("next-sentence",)
