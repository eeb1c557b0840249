"""Commands run where standard error, output or input is missing, closed or not a stream."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from corpora import SENTENCES, small_store
from small_models import small_model

from polyseme.cli import main
from polyseme.cli.commands import COMMANDS


class NoStream:
    """As some programs put in the place of standard error: it can be written to, and nothing else."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.written.append(text)
        return len(text)

    def flush(self) -> None:
        pass


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS: dict[str, Any] = {"missing": lambda: None, "closed": closed, "not a stream": NoStream}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("streams")
    small_store(at)
    small_model(at, "bert")
    (at / "lines.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    return at


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", ["stderr", "stdout"])
def test_long_work_is_done_without_bars(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str, name: str
) -> None:
    if (stream, name) == ("closed", "stdout"):
        pytest.skip("results that cannot be printed are an error")
    monkeypatch.setattr(sys, name, STREAMS[stream]())
    commands = [
        f"embed {folder}/lines.txt --model {folder}/bert --out {tmp_path}/v.npy",
        f"prepare {folder}/text.txt --tokenizer {folder}/vocab --out {tmp_path}/store",
        f"pretrain bert {folder}/store --out {tmp_path}/model --size tiny --steps 1",
        f"tokenizer learn {folder}/text.txt --out {tmp_path}/vocab --vocab-size 300",
        f"show store {folder}/store",
        f"show store {folder}/store --json",
        "show machine",
        "recipes",
    ]
    assert [main(command.split()) for command in commands] == [0] * len(commands)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("command", COMMANDS)
def test_mistakes_have_their_status_whatever_standard_error_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stream: str, command: str
) -> None:
    monkeypatch.setattr(sys, "stderr", STREAMS[stream]())
    assert main([*command.split(), "--no-such-option"]) == 2
    assert "error" not in capsys.readouterr().out


def test_a_closed_descriptor_is_not_given_to_a_file(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "polyseme", "embed", f"{folder}/lines.txt", "--model", f"{folder}/bert"]
    closing = 'exec "$@" 0<&- 2>&-'
    words = ["sh", "-c", closing, "sh", *command, "--out", str(tmp_path / "v.npy")]
    subprocess.run(words, check=True, timeout=100)
    code = (
        "import os; from polyseme.cli import main; main(['--version']); null = os.stat(os.devnull); "
        "print([os.path.samestat(os.fstat(number), null) for number in (0, 2)])"
    )
    words = ["sh", "-c", closing, "sh", sys.executable, "-c", code]
    done = subprocess.run(words, check=True, timeout=100, stdout=subprocess.PIPE, text=True)
    assert done.stdout.splitlines()[-1] == "[True, True]"


def test_standard_input_that_is_closed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    status = main(["embed", "-", "--model", str(folder / "bert"), "--out", str(tmp_path / "v.npy")])
    assert (status, capsys.readouterr().err.count("standard input, which is closed")) == (2, 1)


@pytest.mark.parametrize(
    "code",
    ["from polyseme.cli import main; sys.exit(main(['show', 'machine']))", "polyseme.prepare('a', out='b')"],
)
def test_a_system_without_file_locks_is_told_in_one_line(code: str) -> None:
    start = "import sys; sys.modules['fcntl'] = None; import polyseme; "
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert "polyseme runs on Linux and macOS, not on this system" in done.stderr.splitlines()[-1]
