"""Progress as a terminal and as a log show it."""

import importlib.machinery
import io
import logging
import sys
import threading
import types
from pathlib import Path

import pytest
from small_models import small_model

import polyseme
from polyseme.cli import main, reporter
from polyseme.cli.reporter import TerminalReporter, amount, duration, number, shows_bars
from polyseme.errors import PolysemeWarning
from polyseme.progress import bar, reporting, say, warn


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end() -> None:
    stream = io.StringIO()
    with reporting(TerminalReporter(stream)), bar("train", total=1000, unit="steps") as work:
        for _ in range(1000):
            work.advance(1, loss=1.5)
    assert stream.getvalue() == "train: 1,000 steps in 0 s; loss 1.500\n"


def test_a_line_of_a_log_says_how_far_how_fast_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "FIRST_LINE_AFTER", 0.0)
    stream = io.StringIO()
    with reporting(TerminalReporter(stream)), bar("train", unit="steps") as work:
        work.advance(1, total=4, tokens_per_second=12345.6)
    first = stream.getvalue().splitlines()[0]
    assert first.startswith("train:  25% of 4 steps, ")
    assert first.endswith(" left; tokens/s 12,346")


def test_a_failed_work_does_not_claim_an_end() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="stop"), reporting(TerminalReporter(stream)), bar("train"):
        raise ValueError("stop")
    assert stream.getvalue() == ""


def test_a_terminal_shows_bars_inside_bars_with_lines_above_them() -> None:
    stream = Terminal()
    with TerminalReporter(stream) as live, reporting(live):
        with bar("outer", total=2, unit="steps") as work:
            work.advance(1, loss=0.25)
            with bar("inner", total=100, unit="B") as inside:
                inside.advance(50)
                inside.note("a [line]")
            say("another line")
            work.advance(1)
        say("after all")
    shown = stream.getvalue()
    assert all(part in shown for part in ("outer", "100%", "loss 0.250", "a [line]", "another line"))
    assert shown.endswith("after all\n")


def test_numbers_are_short_and_units_fit() -> None:
    assert [number(x) for x in (3, 12345.6, 3.14159, 123.456, 0.00012345, "x")] == [
        "3",
        "12,346",
        "3.142",
        "123.5",
        "0.0001234",
        "x",
    ]
    assert [amount(x, "B") for x in (12, 3400, 5.6e6, 7.8e9)] == ["12 B", "3.4 kB", "5.6 MB", "7.8 GB"]
    assert [amount(x, "steps") for x in (1, 2.5, 12345.0)] == ["1 steps", "2.5 steps", "12,345 steps"]
    assert [duration(x) for x in (5, 65, 3725)] == ["5 s", "1 min 05 s", "1 h 02 min"]


def test_what_the_user_should_know_is_a_warning_where_no_command_line_runs() -> None:
    with pytest.warns(PolysemeWarning, match="cut at 512 tokens"):
        warn("cut at 512 tokens")


def test_a_warning_names_the_line_of_the_program_that_called_the_library(tmp_path: Path) -> None:
    embedder = polyseme.Embedder.load(small_model(tmp_path, "bert"), long_texts="truncate")
    with pytest.warns(PolysemeWarning, match="were cut") as caught:
        embedder.sentences(["的" * 100])
    assert [one.filename for one in caught] == [__file__]


def test_information_goes_to_the_log_where_no_command_line_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="polyseme"), bar("train") as work:
        say("a line")
        work.note("a note")
    assert [(one.name, one.levelname, one.message) for one in caplog.records] == [
        ("polyseme", "INFO", "a line"),
        ("polyseme", "INFO", "a note"),
    ]


def test_the_same_warning_is_shown_once_in_a_command() -> None:
    for _ in range(2):
        stream = io.StringIO()
        with reporting(TerminalReporter(stream)):
            for _ in range(3):
                warn("slow")
        assert stream.getvalue() == "slow\n"


def test_progress_is_shown_in_a_program_that_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> str:
        with bar("embed", unit="texts") as shown:
            shown.advance(3)
            say("done")
        return capsys.readouterr().err

    expected = "done\nembed: 3 texts in 0 s\n"
    assert work() == ""
    with polyseme.show_progress():
        assert work() == expected
        with polyseme.show_progress(False):
            assert work() == ""
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(work()))
        thread.start()
        thread.join()
        assert found == [expected]
    assert work() == ""
    try:
        polyseme.show_progress()
        assert work() == expected
    finally:
        polyseme.show_progress(False)
    assert work() == ""


def test_a_notebook_shows_bars_if_it_has_widgets_and_lines_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not shows_bars(io.StringIO())
    assert shows_bars(Terminal())
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    widgets = types.ModuleType("ipywidgets")
    widgets.__spec__ = importlib.machinery.ModuleSpec("ipywidgets", None)
    monkeypatch.setitem(sys.modules, "ipywidgets", widgets)
    assert shows_bars(io.StringIO())
    widgets.__spec__ = None
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert not shows_bars(io.StringIO())


def test_a_quiet_command_still_says_what_changes_its_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_model(tmp_path, "bert")
    (tmp_path / "long.txt").write_text("的" * 100, encoding="utf-8")
    words = ["embed", str(tmp_path / "long.txt"), "--model", str(model), "--out", str(tmp_path / "v.npy")]
    assert main([*words, "--long-texts", "truncate", "--quiet"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("polyseme: warning: 1 of the 1 texts read so far are longer than the 48")
