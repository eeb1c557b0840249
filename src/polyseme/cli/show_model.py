"""`polyseme show model`: layers, parameter counts, the scale of the matrices."""

from tyro.conf import Positional

from polyseme.cli.tables import print_json, print_table
from polyseme.inspection.model import show_model
from polyseme.records import Record, to_plain


class Options(Record, frozen=True, kw_only=True):
    """Show what a model is made of: its choices, parts, parameters, and the deviations of its matrices."""

    model: Positional[str]
    """A model folder, or a name on a hub: owner/name, owner/name@revision or modelscope:owner/name."""
    json: bool = False
    """The same as JSON."""


def run(options: Options) -> None:
    """Print the choices in a line, then parts and matrices as tables."""
    summary = show_model(options.model)
    if options.json:
        print_json(to_plain(summary))
        return
    print(f"{summary.folder}: {summary.family}, {summary.parameters:,} parameters")
    print("  ".join(f"{name}={value}" for name, value in summary.config.items()))
    print()
    print_table(
        ["part", "parameters", "share"],
        [
            (part.name, f"{part.parameters:,}", f"{part.parameters / summary.parameters:.1%}")
            for part in summary.parts
        ],
        numbers=("parameters", "share"),
    )
    print()
    print_table(
        ["matrix", "shape", "number", "deviation"],
        [
            (
                m.name,
                " × ".join(map(str, m.shape)),
                m.count,
                _range(m.smallest_deviation, m.largest_deviation),
            )
            for m in summary.matrices
        ],
        numbers=("shape", "number", "deviation"),
    )


def _range(low: float, high: float) -> str:
    return f"{low:.4f}" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f}–{high:.4f}"
