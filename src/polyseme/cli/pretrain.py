"""`polyseme pretrain`: a recipe and a store become a model."""

from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from polyseme.cli.parsing import by_name
from polyseme.training.settings import PretrainSettings

if TYPE_CHECKING:
    from polyseme.training.pretraining import Outcome


class Options(PretrainSettings, frozen=True, kw_only=True):
    """Train the model of a recipe on a store. The same command again goes on where a run was stopped."""

    recipe: Positional[str]
    """A published system (see polyseme recipes), or a TOML file of one's own."""
    store: Positional[str]
    """The store that polyseme prepare wrote."""
    out: str
    """The folder of the run; at the end it is a model folder too."""
    from_model: Annotated[str | None, arg(name="from")] = None
    """Go on from this model (folder or hub name) instead of random weights: domain adaptation."""


def run(options: Options) -> None:
    """Train and say how it ended."""
    from polyseme.training.pretraining import pretrain

    print_outcome(pretrain(**by_name(options)))


def print_outcome(outcome: "Outcome") -> None:
    """One line: the folder, the steps, the held-out figures."""
    line = f"{outcome.folder}: {outcome.steps:,} steps"
    if outcome.losses:
        figures = outcome.losses | outcome.measures
        line += "; held-out " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    if outcome.unigram is not None:
        line += f" (word frequencies alone: {outcome.unigram:.3f})"
    print(line if outcome.finished else f"{line}; stopped, the same command goes on")
