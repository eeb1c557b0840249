"""`polyseme predict`: answers of a fine-tuned model."""

from typing import Literal

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.cli.task_options import with_settings_of_model
from polyseme.records import Record
from polyseme.tasks.settings import PredictSettings


class Columns(Record, frozen=True):
    """How the examples of a model that another library saved are read."""

    text_column: str | None = None
    """Column of the text, by name or by number from 0; usually found by its name."""
    pair_column: str | None = None
    """Column of the second text of a pair."""
    label_column: str | None = None
    """Column of the label."""
    format: str | None = None
    """Form of the file, in tasks that read several: of tagging columns, parallel, json, text or auto."""
    header: Literal["auto", "yes", "no"] | None = None
    """Whether the first row of a TSV or CSV file is a header."""
    quoting: Literal["auto", "csv", "none"] | None = None
    """Whether cells of a TSV or CSV file may be enclosed in double quotes."""
    delimiter: str | None = None
    """The delimiter of the columns of a TSV or CSV file: one character, or the word tab."""
    encoding: str | None = None
    """Encoding of the file, or auto."""
    errors: Literal["strict", "replace"] | None = None
    """What to do with bytes that are not in the encoding."""


class Answering(PredictSettings, frozen=True, kw_only=True):
    """What `predict` and `evaluate` share: the model, and how its examples are read."""

    model: str
    """The folder of the fine-tuned model; with it, --help shows the options of its task."""
    examples: Columns = Columns()
    """As in fine-tuning, if not given."""


class Options(Answering, frozen=True, kw_only=True):
    """Write an answer with its probabilities for each example of a file, as JSON lines, CSV or TSV."""

    file: Positional[str]
    """The examples, as in fine-tuning, or one text a line; labels are not looked at."""
    out: str
    """Where the answers go: .jsonl or no suffix (an object a line), .csv or .tsv (a row an example, with the
    columns of the input), or .conll (words and tags)."""
    keep: str | None = None
    """Columns of the input to copy to the output: names separated by commas, or all, or none; usually all in
    .csv and .tsv, none in .jsonl."""
    task: str | None = None
    """Of a model that another library saved, where its head serves several: ranking instead of regression."""


def options_for(arguments: list[str]) -> type[Options]:
    """The options with those of the model's task."""
    return with_settings_of_model(Options, arguments)


def run(options: Options) -> None:
    """Predict and say how many answers were written."""
    from polyseme.tasks.predicting import predict

    count = predict(**by_name(options))
    print(f"{options.out}: {count:,} answers")
