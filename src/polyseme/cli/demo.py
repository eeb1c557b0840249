"""`polyseme demo`: the story of the library on text that ships with it."""

from polyseme.cli.parsing import by_name
from polyseme.cli.tables import print_table
from polyseme.demo.settings import DemoSettings


class Options(DemoSettings, frozen=True, kw_only=True):
    """Learn a vocabulary, pre-train a small network, draw words of two meanings and fine-tune a classifier,
    on Chinese text that ships: a table here, and a page to look at in the folder. The same command after
    an interruption goes on; an earlier demo in the folder gives way when the new one is complete."""


def run(options: Options) -> None:
    """Tell the story and print its table."""
    from polyseme.demo.report import COLUMNS, table
    from polyseme.demo.story import demo

    report = demo(**by_name(options))
    print()
    print_table(COLUMNS, table(report), numbers=COLUMNS[1:])
    minutes, seconds = divmod(round(report.total_seconds), 60)
    print(f"\n{minutes} min {seconds:02d} s in all. The page: {report.folder}/index.html")
