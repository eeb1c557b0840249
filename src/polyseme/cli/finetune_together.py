"""`polyseme finetune together`: one model learns several tasks at once."""

from polyseme.cli.finetune import in_words
from polyseme.cli.parsing import by_name
from polyseme.cli.tables import print_table
from polyseme.tasks.settings import FinetuneSettings


class Options(FinetuneSettings, frozen=True, kw_only=True):
    """Train a model for several tasks at once; polyseme predict then answers all of them in one pass.

    The file has a table a task: [tasks.NAME] with task, train, dev and perhaps test, and below it
    [tasks.NAME.options] with what is an option of polyseme finetune TASK, such as label_column = "stars".
    Paths count from the file. polyseme evaluate NAME FILE --model OUT scores one of them.
    """

    tasks: str
    """The TOML file of the tasks."""
    model: str
    """The model to start from: a folder, or a name on a hub: owner/name, owner/name@revision or
    modelscope:owner/name."""
    out: str
    """The folder of the fine-tuned model; it must not exist yet."""
    temperature: float = 1.0
    """Tasks take turns by their size to the power of 1/temperature: with 1 by size, higher more evenly."""


def run(options: Options) -> None:
    """Fine-tune and print the scores of each task."""
    from polyseme.tasks.together import finetune_together

    outcome = finetune_together(**by_name(options))
    columns = {"dev": outcome.dev} | ({"test": outcome.test} if outcome.test else {})
    rows = [
        (name, score, *(in_words(of[name][score]) if name in of else "" for of in columns.values()))
        for name, scores in outcome.dev.items()
        for score in scores
    ]
    print_table(["task", "score", *columns], rows, numbers=list(columns))
    print(f"{outcome.folder}: fine-tuned on {sum(outcome.examples.values()):,} examples")
