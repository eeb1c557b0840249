"""The demo's pictures as SVG to put into a page: text stays text, and takes the page's colour."""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from polyseme.demo.senses import ToldApart, Vectors, fenced, flat
from polyseme.demo.shipped import CORPORA, DOMAINS, Context
from polyseme.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"tech": "#2f7ed8", "law": "#e8710a"}
_TEXT, _GROUND, _QUIET = "#010203", "#fdfeff", "#8a8f98"
_OF_PAGE = {
    _TEXT: "currentColor",
    _GROUND: "var(--ground, #ffffff)",
    _QUIET: f"var(--quiet, {_QUIET})",
    **{colour: f"var(--{name}, {colour})" for name, colour in COLOURS.items()},
}
"""What matplotlib draws with, and what the page puts in its place, light or dark."""
_COLUMNS = 4


def senses_picture(
    vectors: Vectors, contexts: Sequence[Context], glosses: dict[str, tuple[str, str]], told: ToldApart
) -> str:
    """One panel a word: a point a sentence, in the colour of its domain, and the one static point."""
    with _drawing():
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        rows = -(-len(glosses) // _COLUMNS)
        figure = Figure(figsize=(10, 2.75 * rows + 0.4))
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
        panels = np.atleast_1d(figure.subplots(rows, _COLUMNS)).ravel()
        for panel in panels[len(glosses) :]:
            panel.set_axis_off()
        for panel, (word, meanings) in zip(panels, glosses.items(), strict=False):
            own = [number for number, one in enumerate(contexts) if one.word == word]
            points = fenced(flat(vectors[own]))
            for domain in DOMAINS:
                chosen = [contexts[number].domain == domain for number in own]
                panel.scatter(*points[chosen].T, s=16, alpha=0.75, linewidths=0, color=COLOURS[domain])
            panel.scatter([0], [0], s=110, marker="X", color=_TEXT, edgecolors=_GROUND, linewidths=0.8)
            panel.set_title(word, fontsize=17, pad=17)
            for place, side, domain, meaning in zip(
                (0.47, 0.53), ("right", "left"), DOMAINS, meanings, strict=True
            ):
                at, colour = panel.transAxes, COLOURS[domain]
                panel.text(place, 1.04, meaning, transform=at, ha=side, fontsize=10, color=colour)
            panel.set_xlabel(f"{told.of_words[word]:.0%} told apart", fontsize=9, color=_QUIET)
            panel.set_xticks([])
            panel.set_yticks([])
            panel.margins(0.08)
        handles = [
            Line2D([], [], marker="o", linestyle="", color=COLOURS[d], label=f"in a sentence on {CORPORA[d]}")
            for d in DOMAINS
        ]
        handles.append(
            Line2D([], [], marker="X", markersize=9, linestyle="", color=_TEXT, label="one static vector")
        )
        figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=11)
        return _svg(figure)


def loss_picture(journal: Sequence[dict[str, Any]]) -> str:
    """The loss over the steps, in training and on held-out text, beside the level of word frequencies."""
    with _drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        styles: dict[str, Any] = {
            "train": {"color": COLOURS["tech"], "alpha": 0.55, "linewidth": 1.2, "label": "in training"},
            "held-out": {"color": COLOURS["law"], "marker": "o", "markersize": 4, "label": "held-out text"},
        }
        for kind, style in styles.items():
            lines = [line for line in journal if line["kind"] == kind]
            losses = [line["parts"]["masked-lm"] for line in lines]
            axes.plot([line["step"] for line in lines], losses, **style)
        if levels := [line["unigram"] for line in journal if line.get("unigram") is not None]:
            axes.axhline(levels[-1], color=_QUIET, linestyle="--", label="word frequencies alone")
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats a hidden token)")
        axes.legend(frameon=False)
        return _svg(figure)


@contextmanager
def _drawing() -> Iterator[None]:
    """matplotlib with the page's colours; it measures with its own font, the reader's browser draws."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("matplotlib", extra="demo") from error
    paint = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _TEXT)
    settings: Any = {
        **paint,
        "axes.edgecolor": _QUIET,
        "svg.fonttype": "none",
        "svg.hashsalt": "polyseme",
    }
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Glyph .* missing from .*")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _svg(figure: "Figure") -> str:
    """The figure as an `<svg>` element without prolog or metadata."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    for drawn, of_page in _OF_PAGE.items():
        text = text.replace(drawn, of_page)
    return text[text.index("<svg") :]
