"""`polyseme convert`: a model folder to one of ours."""

from tyro.conf import Positional

from polyseme.records import Record


class Options(Record, frozen=True, kw_only=True):
    """Read a model with all its heads and write it in safetensors, under the names of today.

    Every tensor is accounted for: what is missing, left over or cannot be said is an error.
    """

    source: Positional[str]
    """A model folder, or a hub name."""
    target: Positional[str]
    """The folder to write; it must not exist yet."""


def run(options: Options) -> None:
    """Convert and print the receipt."""
    from polyseme.checkpoints.convert import convert

    print(convert(options.source, options.target))
