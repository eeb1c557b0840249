"""`polyseme distill`: a teacher and a store become a smaller model."""

from typing import Annotated

from tyro.conf import Positional, arg

from polyseme.cli.parsing import by_name
from polyseme.cli.pretrain import print_outcome
from polyseme.training.settings import PretrainSettings


class Options(PretrainSettings, frozen=True, kw_only=True):
    """Train a small student on what its teacher says of a store. The same command again goes on."""

    teacher: Positional[str]
    """The model to learn from: a folder, or a name on a hub: owner/name, owner/name@revision or
    modelscope:owner/name."""
    store: Positional[str]
    """The store that polyseme prepare wrote with the teacher's vocabulary (--tokenizer TEACHER)."""
    out: str
    """The folder of the run; at the end it is a model folder too."""
    recipe: str = "distilbert"
    """distilbert, tinybert, or a TOML file whose objective learns from a teacher."""
    from_model: Annotated[str | None, arg(name="from")] = None
    """Let the student go on from this model (folder or hub name), for instance one distilled before."""


def run(options: Options) -> None:
    """Train and say how it ended."""
    from polyseme.training.distilling import distill

    print_outcome(distill(**by_name(options)))
