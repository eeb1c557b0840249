"""The demo: its text, its measure, its page, and what it leaves behind."""

import itertools
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyseme.demo import shipped
from polyseme.demo.pictures import loss_picture, senses_picture
from polyseme.demo.report import Report, table
from polyseme.demo.senses import ToldApart, fenced, flat, nearer_to_own, static_vectors, told_apart
from polyseme.demo.settings import DemoSettings
from polyseme.demo.shipped import Context
from polyseme.demo.story import demo
from polyseme.demo.words import AMBIGUOUS, CONTROLS
from polyseme.embedding.embedder import Embedder
from polyseme.errors import DataError
from polyseme.progress import reporting
from polyseme.records import read_json
from polyseme.tasks.predicting import evaluate

TINY: dict[str, Any] = {"minutes": 0.02, "share": 0.01, "threads": 1}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return demo(out=tmp_path_factory.mktemp("demo") / "out", **TINY)


class Heard:
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def bar(self, label: str, *, total: float | None, unit: str) -> "Heard":
        return self

    def __enter__(self) -> "Heard":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, amount: float = 1, *, total: float | None = None, **figures: float | str) -> None:
        pass

    note = say


def test_the_text_that_ships_is_small_and_named_in_the_notice() -> None:
    files = list(shipped.FOLDER.iterdir())
    assert sum(path.stat().st_size for path in files) < 10_000_000
    notice = (Path(__file__).parent.parent / "NOTICE").read_text(encoding="utf-8")
    assert all(path.name in notice for path in files)


def test_every_word_has_as_many_sentences_of_both_domains_and_stands_in_each_once() -> None:
    chosen = shipped.contexts([*AMBIGUOUS, *CONTROLS], share=1.0)
    for word in (*AMBIGUOUS, *CONTROLS):
        counts = [sum(one[:2] == (domain, word) for one in chosen) for domain in shipped.DOMAINS]
        assert counts[0] == counts[1] >= 40
    for one in chosen:
        assert one.sentence.count(one.word) == 1
        begin, end = one.place
        assert one.sentence[begin:end] == one.word


def test_the_sentences_of_the_words_are_not_in_the_corpora() -> None:
    text = "".join(shipped._read(f"{name}.txt.xz") for name in shipped.DOMAINS)
    chosen = shipped.contexts(list(AMBIGUOUS), share=1.0)
    # A sentence that many laws have word for word may stand in another document too.
    assert sum(one.sentence in text for one in chosen) < 0.03 * len(chosen)


def test_no_poem_holds_a_line_of_dev_or_test() -> None:
    poems = set(re.split(r"[^\w]+", shipped._read("poetry.txt.xz")))
    for part in ("dev", "test"):
        rows = shipped._read(f"poems_{part}.tsv.xz").splitlines()[1:]
        assert poems.isdisjoint(row.split("\t")[0] for row in rows)


def test_a_vector_is_compared_with_the_others_and_not_with_itself() -> None:
    vectors = np.array([[0.0], [1.0], [5.0], [4.0], [6.0]], dtype=np.float32)
    first = np.array([True, True, True, False, False])
    # 0 has 3 and 5 as means; 1 has 2.5 and 5; 5 has 0.5 and 5; 4 has 6 and 2; 6 has 4 and 2.
    assert nearer_to_own(vectors, first).tolist() == [1, 1, 0, 0.5, 1]


def test_static_vectors_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    contexts = [
        Context(domain, word, word) for word in "甲乙" for domain in ("tech", "law") for _ in range(7)
    ]
    vectors = rng.normal(size=(len(contexts), 16)).astype(np.float32)
    static = static_vectors(vectors, contexts)
    assert len(np.unique(static, axis=0)) == 2
    result = told_apart(static, contexts, seed=0)
    assert (result.share, result.low, result.high) == (0.5, 0.5, 0.5)


def test_meanings_far_apart_are_told_apart_and_the_interval_holds_the_share() -> None:
    rng = np.random.default_rng(0)
    contexts = [Context(d, w, w) for w in "甲乙" for d in ("tech", "law") for _ in range(30)]
    noise = rng.normal(size=(len(contexts), 8))
    side = np.array([one.domain == "tech" for one in contexts])[:, None]
    apart = told_apart((noise + 9 * side).astype(np.float32), contexts, seed=0)
    assert apart.of_words == {"甲": 1.0, "乙": 1.0}
    near = told_apart((noise + 0.5 * side).astype(np.float32), contexts, seed=0)
    assert 0.5 < near.low < near.share < near.high < 1


def test_the_plot_has_the_two_directions_of_greatest_spread() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 5)) * [1, 10, 1, 4, 1]
    points = flat(vectors.astype(np.float32))
    assert np.allclose(points.std(axis=0), [10, 4], rtol=0.15)
    assert np.allclose(points.mean(axis=0), 0, atol=1e-4)


def test_points_far_out_stand_at_the_edge_and_all_others_where_they_were() -> None:
    points = np.array([*((x, -x) for x in range(9)), (1000, 4)], dtype=np.float32)
    found = fenced(points)
    assert (found[:-1] == points[:-1]).all()
    assert found[-1].tolist() == [pytest.approx(6.75 + 3 * 4.5), 4]


def test_the_page_needs_nothing_else_and_has_the_figures_of_the_run(told: Report) -> None:
    page = (Path(told.folder) / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", page)
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#", "", page)
    assert page.count("<svg") == 2
    for word in AMBIGUOUS:
        assert re.search(rf"<text[^>]*>{word}</text>", page)
    for row in table(told):
        for cell in row:
            assert cell in page
    assert f"{told.pretrained.held_out:.2f}" in page
    assert str(told.machine["torch"]) in page


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2, from 1 to 21; small text needs 4.5."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_page_can_be_read_by_day_and_by_night() -> None:
    page = files("polyseme").joinpath("demo/page.html").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", rule)) for rule in re.findall(r":root {.*?}", page, re.DOTALL)
    )
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        for name, ground in itertools.product(("text", "quiet", "tech", "law"), ("ground", "card")):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def test_the_pictures_take_every_colour_from_the_page() -> None:
    pytest.importorskip("matplotlib")
    contexts = [Context(domain, "程序", "程序") for domain in ("tech", "law") for _ in range(3)]
    measured = ToldApart(share=1.0, low=1.0, high=1.0, of_words={"程序": 1.0})
    vectors = np.random.default_rng(0).normal(size=(6, 4))
    lines = [
        {"kind": kind, "step": 1, "parts": {"masked-lm": 2.0}, "unigram": 3.0}
        for kind in ("train", "held-out")
    ]
    for picture in (senses_picture(vectors, contexts, {"程序": ("a", "b")}, measured), loss_picture(lines)):
        assert re.findall(r"#[0-9a-f]{6}\b", re.sub(r"var\(.*?\)", "", picture)) == []


def test_the_folder_has_report_model_and_classifier_and_nothing_else(told: Report, tmp_path: Path) -> None:
    folder = Path(told.folder)
    assert {path.name for path in folder.iterdir()} == {"index.html", "report.json", "model", "classifier"}
    assert read_json(folder / "report.json", Report) == told
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert Embedder.load(folder / "model").sentences(["程序"]).shape == (1, 256)
    test = shipped.poems(tmp_path, share=TINY["share"])["test"]
    scores = evaluate("classification", test, model=folder / "classifier")
    close = 2.5 / len(test.read_text("utf-8").splitlines())  # in bf16, a near tie may fall either way
    assert scores["accuracy"] == pytest.approx(told.classified["pretrained"].accuracy, abs=close)


def test_a_folder_with_anything_else_than_a_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something else than a demo; name another folder with --out"):
        demo(out=tmp_path, **TINY)
    with pytest.raises(DataError, match=r"thesis\.txt is a file; name a folder with --out"):
        demo(out=tmp_path / "thesis.txt", **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_second_demo_goes_on_after_an_interruption_and_replaces_the_first_when_complete(
    told: Report,
) -> None:
    class Stopped(Heard):
        def say(self, line: str) -> None:
            super().say(line)
            if line.startswith("\n4/6"):
                raise KeyboardInterrupt

    out = Path(told.folder)
    with reporting(Stopped()), pytest.raises(KeyboardInterrupt):
        demo(out=out, seed=1, **TINY)
    assert read_json(out / "report.json", Report) == told
    heard = Heard()
    with reporting(heard):
        second = demo(out=out, seed=1, **TINY)
    for said in ("takes its place", "going on with what lies in", "already trained"):
        assert any(said in line for line in heard.lines)
    assert read_json(out / "report.json", Report) == second != told
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_written_is_one_line() -> None:
    command = [sys.executable, "-m", "polyseme", "demo", "--out", "/proc/demo", "--minutes", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"polyseme: error: /proc/demo\S* cannot be written: .*\n", done.stderr)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"minutes": 0.0}, "minutes must be above 0, got 0.0"),
        ({"share": 1.5}, "share must lie above 0 and up to 1, got 1.5"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_settings_check_themselves(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DemoSettings(**wrong)  # type: ignore[arg-type]
