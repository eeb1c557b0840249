"""`polyseme evaluate`: scores of a fine-tuned model on labelled examples."""

from typing import Any

from tyro.conf import Positional

from polyseme.cli.parsing import by_name
from polyseme.cli.predict import Answering
from polyseme.cli.tables import print_json, print_table
from polyseme.cli.task_options import with_settings_of_model


class Options(Answering, frozen=True, kw_only=True):
    """Score a fine-tuned model on a labelled file.

    A pre-trained model and a text: polyseme evaluate perplexity.
    """

    task: Positional[str]
    """The task that the model was fine-tuned for."""
    file: Positional[str]
    """The labelled examples."""
    json: bool = False
    """The scores as JSON."""


def options_for(arguments: list[str]) -> type[Options]:
    """The options with those of the model's task."""
    return with_settings_of_model(Options, arguments)


def run(options: Options) -> None:
    """Evaluate and print scores, each label's scores, and the confusion."""
    from polyseme.tasks.predicting import evaluate

    report = evaluate(**by_name(options, leave="json"))
    if options.json:
        print_json(report)
        return
    print_table(
        ["score", "value"],
        [(name, f"{value:.4f}" if isinstance(value, float) else value) for name, value in _plain(report)],
        numbers=("value",),
    )
    for name, table in report.items():
        if name in ("labels", "slots"):
            _print_labels(table)
        elif name == "confusion":
            _print_confusion(table)


def _plain(report: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in report.items() if isinstance(value, int | float)]


def _print_labels(table: dict[str, dict[str, Any]]) -> None:
    columns = list(next(iter(table.values()), {}))
    print()
    print_table(
        ["label", *columns],
        [
            (label, *(f"{score[c]:.4f}" if isinstance(score[c], float) else score[c] for c in columns))
            for label, score in table.items()
        ],
        numbers=columns,
    )


def _print_confusion(table: dict[str, Any]) -> None:
    labels = [str(label) for label in table["labels"]]
    print()
    print_table(
        ["true ↓ answered →", *labels],
        [(label, *counts) for label, counts in zip(labels, table["counts"], strict=True)],
        numbers=labels,
    )
