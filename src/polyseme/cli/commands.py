"""The one table of commands, and the help that lists them."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from polyseme.records import nearest


class UsageError(Exception):
    """A command line that cannot be understood: one line, and where to read on."""

    def __init__(self, message: str, *, command: str = "") -> None:
        super().__init__(message)
        self.command = command


class Command(NamedTuple):
    """Where a command lives and what it is for."""

    module: str
    """The module that holds `Options`, a record, and `run(options)`."""
    summary: str


COMMANDS: dict[str, Command] = {
    "demo": Command("polyseme.cli.demo", "the whole road on text that ships, in five minutes"),
    "recipes": Command("polyseme.cli.recipes", "list the published systems; print or copy a recipe"),
    "tokenizer learn": Command("polyseme.cli.tokenizer_learn", "learn a vocabulary from text"),
    "prepare": Command("polyseme.cli.prepare", "read text once into a token store"),
    "pretrain": Command("polyseme.cli.pretrain", "train a recipe on a store; the same again resumes"),
    "distill": Command("polyseme.cli.distill", "train a small student on what a teacher says"),
    "embed": Command("polyseme.cli.embed", "texts to vectors, one text a line"),
    "generate": Command("polyseme.cli.generate", "continue texts with a model that writes"),
    "fill": Command("polyseme.cli.fill", "fill blanks in a text with a masked model"),
    "finetune": Command("polyseme.cli.finetune", "train a model for a task on labelled examples"),
    "finetune together": Command("polyseme.cli.finetune_together", "train a model for several tasks at once"),
    "predict": Command("polyseme.cli.predict", "answer with a fine-tuned model"),
    "evaluate": Command("polyseme.cli.evaluate", "score a fine-tuned model on labelled examples"),
    "evaluate perplexity": Command(
        "polyseme.cli.evaluate_perplexity", "how well a model predicts held-out text"
    ),
    "show tokens": Command("polyseme.cli.show_tokens", "how a text is cut"),
    "show masks": Command("polyseme.cli.show_masks", "what an objective makes of a store"),
    "show model": Command("polyseme.cli.show_model", "a model's layers, parameter counts and scales"),
    "show store": Command("polyseme.cli.show_store", "what a token store holds"),
    "show machine": Command("polyseme.cli.show_machine", "this machine, and what is picked on it"),
    "verify": Command("polyseme.cli.verify", "whether the files of a folder are as they were written"),
    "convert": Command("polyseme.cli.convert", "a model folder to another format"),
}


def find(arguments: list[str]) -> tuple[str, list[str]]:
    """The command that `arguments` begin with, by its name in the table, and what follows it."""
    for length in (2, 1):
        name = " ".join(arguments[:length])
        if len(arguments) >= length and name in COMMANDS:
            return name, arguments[length:]
    below = members(arguments[0])
    if not below:
        raise UsageError(f"there is no command {arguments[0]!r}{nearest(arguments[0], _first_words())}")
    choices = ", ".join(below)
    if len(arguments) == 1 or arguments[1].startswith("-"):
        raise UsageError(f"{arguments[0]} needs one of: {choices}", command=arguments[0])
    raise UsageError(
        f"{arguments[0]} knows {choices}, not {arguments[1]!r}{nearest(arguments[1], below)}",
        command=arguments[0],
    )


def members(group: str) -> list[str]:
    """The second words of the commands whose first word is `group`: tokens, masks … for show."""
    return [name.split()[1] for name in COMMANDS if name.startswith(group + " ")]


def load(name: str, arguments: Sequence[str] = ()) -> tuple[type[Any], Callable[[Any], None]]:
    """The options and the function of a command; nothing heavy is imported for it.

    A module with `options_for` has options that depend on the arguments.
    """
    module = importlib.import_module(COMMANDS[name].module)
    options = module.options_for(list(arguments)) if hasattr(module, "options_for") else module.Options
    return cast("type[Any]", options), cast("Callable[[Any], None]", module.run)


def overview(group: str = "") -> str:
    """The help of `polyseme`, or of a group such as `show`."""
    listed = {
        name: command for name, command in COMMANDS.items() if not group or name.startswith(group + " ")
    }
    width = max(map(len, listed))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in listed.items()]
    return "\n".join(
        [
            f"usage: polyseme {group or 'COMMAND'} …",
            "",
            "From raw text to pre-trained models, vectors and classifiers.",
            "",
            "commands:",
            *lines,
            "",
            "with every command:",
            "  -h, --help   its options",
            "  --quiet      no progress, results only",
            "  --traceback  where an error came from (or set POLYSEME_TRACEBACK=1)",
            "  --version    the version, and nothing else",
        ]
    )


def _first_words() -> list[str]:
    return list(dict.fromkeys(name.split()[0] for name in COMMANDS))
