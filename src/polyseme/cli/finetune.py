"""`polyseme finetune`: a model learns a task from labelled examples."""

from typing import TYPE_CHECKING

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.cli.tables import print_table
from polyseme.cli.task_options import with_settings
from polyseme.tasks.settings import ClassificationSettings, FinetuneSettings

if TYPE_CHECKING:
    from polyseme.tasks.finetuning import Score


class Options(FinetuneSettings, frozen=True, kw_only=True):
    """Train a model for a task; the epoch that is best on dev becomes the model folder."""

    task: Positional[str]
    """classification, regression, tagging, reading-comprehension, multiple-choice, ranking …; polyseme
    finetune TASK --help shows the options of one."""
    train: str
    """Examples to learn from."""
    dev: str
    """Examples that choose the best epoch."""
    test: str | None = None
    """Examples for a last score, which choose nothing."""
    model: str
    """The model to start from: a folder, or a name on a hub: owner/name, owner/name@revision or
    modelscope:owner/name."""
    out: str
    """The folder of the fine-tuned model; it must not exist yet."""
    examples: ClassificationSettings = ClassificationSettings()
    """How the labelled files are read, and what is made of them."""


def options_for(arguments: list[str]) -> type[Options]:
    """The options with those of the task that is named."""
    return with_settings(Options, arguments)


def run(options: Options) -> None:
    """Fine-tune and print the scores."""
    from polyseme.tasks.finetuning import finetune

    outcome = finetune(**by_name(options))
    columns = {"dev": outcome.dev, "test": outcome.test, "out of fold": outcome.out_of_fold}
    columns = {name: scores for name, scores in columns.items() if scores}
    print_table(
        ["score", *columns],
        [(name, *(in_words(scores[name]) for scores in columns.values())) for name in outcome.dev],
        numbers=list(columns),
    )
    print(f"{outcome.folder}: fine-tuned on {outcome.examples:,} examples")


def in_words(score: "Score") -> str:
    """Mean, and deviation where there are several seeds."""
    deviation = f" ± {score.deviation:.4f}" if len(score.of_seeds) > 1 else ""
    return f"{score.mean:.4f}{deviation}"
