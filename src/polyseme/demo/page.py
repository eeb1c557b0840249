"""The demo's page: one HTML file that needs nothing else."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from polyseme.demo import shipped
from polyseme.demo.report import COLUMNS, Report, table
from polyseme.demo.words import AMBIGUOUS


def page(report: Report, *, senses: str, loss: str, layers: int, width: int, recipe: str) -> str:
    """The page of a run; `senses` and `loss` are its pictures, as SVG elements."""
    template = Template(files("polyseme").joinpath("demo/page.html").read_text(encoding="utf-8"))
    pretrained, ours = report.pretrained, report.senses["pretrained"]
    return template.substitute(
        megabytes=f"{sum(report.text.values()) / 1e6:.0f}",
        minutes=spoken(report.total_seconds),
        vocab_size=f"{report.vocab_size:,}",
        parameters=f"{pretrained.parameters / 1e6:.1f}",
        pretrain_minutes=spoken(pretrained.seconds),
        told=f"{ours.two_meanings.share:.1%}",
        told_untrained=f"{report.senses['untrained'].two_meanings.share:.1%}",
        told_control=f"{ours.one_meaning.share:.1%}",
        told_untrained_control=f"{report.senses['untrained'].one_meaning.share:.1%}",
        accuracy=f"{report.classified['pretrained'].accuracy:.1%}",
        table=_table(COLUMNS, table(report), marked=len(table(report)) - 1),
        reading=_reading(report),
        senses=senses,
        loss=loss,
        examples=_table(("", "computing", "law"), _examples(), kind="examples", safe=True),
        width=width,
        layers=layers,
        recipe=recipe,
        rate=f"{pretrained.tokens_per_second:,.0f}",
        steps=f"{pretrained.steps:,}",
        held_out=f"{pretrained.held_out:.2f}",
        unigram=f"{pretrained.unigram:.2f}",
        folder=escape(report.folder),
        made=_table(("", ""), _made(report), kind="examples"),
        sources=", ".join(
            f"{shipped.CORPORA[name]} {size / 1e6:.1f} MB" for name, size in report.text.items()
        ),
        **{part: f"{count:,}" for part, count in report.examples.items()},
    )


def spoken(seconds: float) -> str:
    """«3 min 20 s» or «48 seconds»"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} seconds"


def _reading(report: Report) -> str:
    """What the poems' figures say, whichever way they fell."""
    ours, random = (report.classified[name].accuracy for name in ("pretrained", "untrained"))
    ngrams = report.classified["tfidf"].accuracy
    error = (2 * 0.25 / report.examples["test"]) ** 0.5 * 1.96
    said = []
    for gain, other in ((ours - random, "the same network from random weights"), (ours - ngrams, "n-grams")):
        word = "above" if gain > 0 else "below"
        sure = "" if abs(gain) > error else ", which may be chance"
        said.append(f"{abs(100 * gain):.1f} points {word} {other}{sure}")
    return f"In this run, pre-training ended {said[0]}, and {said[1]}."


def _examples() -> Iterable[Sequence[str]]:
    rows = shipped.contexts(list(AMBIGUOUS), share=1.0)
    for word, meanings in AMBIGUOUS.items():
        cells = [f"<b>{escape(word)}</b>"]
        for domain, meaning in zip(shipped.DOMAINS, meanings, strict=True):
            own = (row.sentence for row in rows if (row.domain, row.word) == (domain, word))
            sentence = escape(min(own, key=len)).replace(word, f'<mark class="{domain}">{word}</mark>')
            cells.append(f'{sentence}<br><span class="quiet">{escape(meaning)}</span>')
        yield cells


def _made(report: Report) -> Iterable[Sequence[str]]:
    for name, value in report.machine.items():
        yield name, str(value)
    yield "seed", str(report.settings.seed)
    for name, seconds in report.seconds.items():
        yield f"time: {name}", spoken(seconds)


def _table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    kind: str = "",
    marked: int | None = None,
    safe: bool = False,
) -> str:
    """An HTML table; `safe` cells are HTML already; the row `marked` stands out."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = [f'<table class="{kind}">']
    if any(columns):
        lines.append(f"<tr>{head}</tr>")
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{cell if safe else escape(cell) or '–'}</td>" for cell in row)
        lines.append(f'<tr class="ours">{cells}</tr>' if number == marked else f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</table>"])
