"""Options from records: tyro reads the fields and the text under each; refusals become one line."""

import contextlib
import io
import itertools
import os
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import tyro

from polyseme.cli.commands import UsageError
from polyseme.records import nearest

R = TypeVar("R", bound=msgspec.Struct)

# Records inside a record (how text is read, normalised …) give plain options: not --text.encoding.
_FLAT = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName)

_PLACE = get_args(tyro.conf.Positional[int])[1]


def parse(options: type[R], arguments: list[str], *, command: str) -> R:
    """The record that `arguments` say; `--help` prints and leaves through `SystemExit(0)`."""
    if _asks_for_help(arguments):
        tyro.cli(options, args=["--help"], prog=f"polyseme {command}", config=_FLAT)
    arguments = together(arguments)
    refusal = io.StringIO()
    try:
        with _wide_terminal(), contextlib.redirect_stderr(refusal):
            record, unknown = tyro.cli(
                options, args=arguments, prog=f"polyseme {command}", config=_FLAT, return_unknown_args=True
            )
    except SystemExit as left:
        line = _one_line(refusal.getvalue())
        unknown = [a for a in arguments if a.startswith("--") and a not in known_options(options)]
        raise UsageError(_unknown(unknown, options) if unknown else line, command=command) from left
    if unknown:
        raise UsageError(_unknown(unknown, options), command=command)
    return record


def together(arguments: list[str]) -> list[str]:
    """`--change a --change b` as `--change a b`: what is given again is added, where tyro would forget.

    An option that takes one value and is given twice then has a value too many, which is refused.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    places: list[str] = []
    values: dict[str, list[str]] = {}
    into = places
    for argument in arguments[:end]:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            into = values.setdefault(name, [])
            into += [value] if equals else []
        else:
            into.append(argument)
    options = itertools.chain.from_iterable([name, *given] for name, given in values.items())
    return [*places, *options, *arguments[end:]]


def by_name(options: msgspec.Struct, *, leave: str | None = None) -> dict[str, Any]:
    """The options as keywords for the function with the same words; records inside give their fields.

    `leave` names the one option that is about printing and not for the function.
    """
    named: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(options).items():
        if isinstance(value, msgspec.Struct):
            named |= by_name(value)
        elif name != leave:
            named[name] = value
    return named


def known_options(options: type[msgspec.Struct]) -> list[str]:
    """The options of a record and of the records inside it, as they are typed; places have no name."""
    names: list[str] = []
    for name, hint in get_type_hints(options, include_extras=True).items():
        kind, *details = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            names += known_options(kind)
        elif _PLACE not in details:
            given = next((found for found in (getattr(d, "name", None) for d in details) if found), name)
            names.append("--" + given.replace("_", "-"))
            names += ["--no-" + name.replace("_", "-")] if kind is bool else []
    return names


def _unknown(unknown: list[str], options: type[msgspec.Struct]) -> str:
    first = unknown[0].partition("=")[0]
    if first.startswith("-"):
        return f"there is no option {first}{nearest(first, known_options(options))}"
    return f"{first!r} is one argument too many"


def _asks_for_help(arguments: list[str]) -> bool:
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--help" in before or "-h" in before


@contextlib.contextmanager
def _wide_terminal() -> Iterator[None]:
    """tyro draws its refusals as boxes of the terminal's width; a wide one keeps a message on one line."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "2000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _one_line(box: str) -> str:
    """What a box says under its title, up to the next rule or gap: the message without the advice."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    body = (
        lines[2:] if _is_rule(lines[1]) else lines[1:]
    )  # a rule under the title where Unicode cannot be shown
    said = itertools.takewhile(lambda line: line and not _is_rule(line), body)
    message = re.sub(r"^Error parsing (?!-)[^:]*: ", "", " ".join(said).replace(" (required)", ""))
    message = re.sub(r"^Error parsing ", "", message)
    return re.sub(r"^Missing from [^:]*: ", "missing: ", message)


def _is_rule(line: str) -> bool:
    return len(line) > 4 and not line.strip("─-")
