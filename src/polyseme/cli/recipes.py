"""`polyseme recipes`: the published systems, to read, copy and edit."""

from pathlib import Path

from tyro.conf import Positional

from polyseme.cli.tables import print_json, print_table
from polyseme.files import write_whole
from polyseme.records import Record, to_plain
from polyseme.training.recipes import recipe_path, recipes


class Options(Record, frozen=True, kw_only=True):
    """List the published systems, or print one recipe as the TOML file that it is.

    Copy one with --out, edit it, and name the file instead of the system: polyseme pretrain mine.toml …
    """

    name: Positional[str | None] = None
    """The recipe to print; all are listed when none is named."""
    out: str | None = None
    """Write the recipe to this file, instead of printing it."""
    json: bool = False
    """Everything, as JSON."""

    def __post_init__(self) -> None:
        if self.out is not None and self.name is None:
            raise ValueError("--out needs the name of a recipe")


def run(options: Options) -> None:
    """Print the table, a recipe or JSON."""
    if options.json:
        print_json(
            {name: to_plain(recipe) for name, recipe in recipes().items() if options.name in (None, name)}
        )
    elif options.name is None:
        print_table(
            ["recipe", "year", "system", "sizes"],
            [
                (name, recipe.paper.year, recipe.title, " ".join(recipe.sizes))
                for name, recipe in recipes().items()
            ],
        )
    elif options.out is not None:
        write_whole(Path(options.out), recipe_path(options.name).read_bytes())
        print(
            f"{options.out}: {options.name}, to edit; then: polyseme pretrain {options.out} STORE --out RUN"
        )
    else:
        print(recipe_path(options.name).read_text(encoding="utf-8"), end="")
