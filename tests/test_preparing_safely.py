"""`prepare` leaves a whole store or none, and no process, whatever happens to it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polyseme.errors import DataError, PolysemeError
from polyseme.text.preparing import prepare
from polyseme.text.store import Store

SLOW_CUTTER = """
import time
from pathlib import Path
def cut(text):
    Path(__file__).with_name("begun").touch()
    time.sleep(0.02)
    return [text]
"""
PREPARE = """
import sys
from polyseme.text.preparing import prepare
prepare(["text"], tokenizer="tokenizer", out="store", workers=int(sys.argv[1]), words=sys.argv[2])
"""
COMMAND = """
import sys
from polyseme.cli import main
words = ["prepare", "text", "--tokenizer", "tokenizer", "--out", "store"]
if __name__ == "__main__":
    sys.exit(main([*words, "--workers", sys.argv[1], "--words", sys.argv[2]]))
"""
PREPARE_ON_FULL_DISK = """
import os
from polyseme.text.preparing import prepare
try:
    prepare(["../text"], tokenizer="../tokenizer", out="store")
finally:
    assert os.listdir() == []
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with 1.2 MB of text in several blocks, a tokenizer, and a cutter that takes its time."""
    (tmp_path / "tokenizer").mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"我们在北京"]
    (tmp_path / "tokenizer" / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    (tmp_path / "text").write_text(("我们在北京" * 20 + "\n") * 4_000, encoding="utf-8")
    (tmp_path / "slow_cutter.py").write_text(SLOW_CUTTER)
    return tmp_path


def _listen_to_interrupts() -> None:
    """A program in the background of a script inherits that signals are ignored, and would never stop."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(
    place: Path, code: str = PREPARE, *, workers: int, words: str = "slow_cutter:cut"
) -> "subprocess.Popen[str]":
    """`prepare` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, str(workers), words],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_listen_to_interrupts,
    )


def wait_until(true: Callable[[], object], *, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def members(group: int) -> list[int]:
    """The living processes of a process group, in which zombies do not count as living."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    """The processes that do the work: those of the group that were spawned to serve."""
    return [
        pid
        for pid in members(process.pid)
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != process.pid
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_leaves_no_store_and_no_process_and_the_next_one_clears_up(
    place: Path, workers: int
) -> None:
    process = start(place, workers=workers)
    wait_until((place / "begun").exists)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (place / "store").exists()
    wait_until(lambda: not members(process.pid))
    prepare([place / "text"], tokenizer=place / "tokenizer", out=place / "store")
    assert Store.open(place / "store", check=True).num_tokens == 400_000
    assert [path.name for path in place.iterdir() if path.name.startswith(".")] == []


def test_a_killed_worker_ends_the_run_with_one_line_and_leaves_nothing(place: Path) -> None:
    process = start(place, workers=2)
    wait_until((place / "begun").exists)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith(
        "polyseme.errors.PolysemeError: a worker process died (killed, or out of memory"
    )
    wait_until(lambda: not members(process.pid))
    assert sorted(path.name for path in place.iterdir() if path.name.startswith((".", "store"))) == []


def test_an_interrupted_run_leaves_nothing(place: Path) -> None:
    process = start(place, workers=2)
    wait_until((place / "begun").exists)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to the whole group
    _, errors = process.communicate(timeout=120)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    wait_until(lambda: not members(process.pid))
    assert sorted(path.name for path in place.iterdir() if path.name.startswith((".", "store"))) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("group", [True, False])
def test_a_command_that_is_asked_to_end_leaves_nothing_and_says_so(
    place: Path, number: signal.Signals, workers: int, group: bool
) -> None:
    process = start(place, COMMAND, workers=workers)
    wait_until((place / "begun").exists)
    if group:
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1] == f"polyseme: ended by {number.name}"
    wait_until(lambda: not members(process.pid))
    assert sorted(path.name for path in place.iterdir() if path.name.startswith((".", "store"))) == []


def test_a_second_process_is_refused_at_once_and_leaves_the_first_alone(place: Path) -> None:
    process = start(place, workers=1)
    wait_until((place / "begun").exists)
    try:
        with pytest.raises(DataError, match=r"another process is writing .*store; wait for it, or write"):
            prepare([place / "text"], tokenizer=place / "tokenizer", out=place / "store")
        assert process.poll() is None
        assert [path for path in place.iterdir() if path.suffix == ".part"]
    finally:
        process.kill()
        process.communicate()


def test_what_stands_in_the_way_is_refused_and_stays(place: Path) -> None:
    (place / "store").mkdir()
    (place / "store" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="store exists and is not empty; name another folder, or remove it"):
        prepare([place / "text"], tokenizer=place / "tokenizer", out=place / "store")
    assert (place / "store" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_in_the_text_are_one_line_and_leave_nothing(place: Path, workers: int) -> None:
    (place / "empty").write_text("\n \n\n")
    (place / "damaged").write_bytes((place / "text").read_bytes() + b"\xff\n")
    (place / "invisible").write_text("\u200b\n")
    expected = {
        "empty": "there is no text in",
        "damaged": "byte 1204000 .0xff. is not utf-8",
        "invisible": "invisible: no token in all the text; check the files and their format",
        "absent": "absent is no file",
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message):
            prepare([place / name], tokenizer=place / "tokenizer", out=place / "store", workers=workers)
    assert sorted(path.name for path in place.iterdir() if path.name.startswith((".", "store"))) == []


def test_an_error_of_a_worker_is_the_error_of_the_run(place: Path) -> None:
    sys.path.insert(0, str(place))
    (place / "odd_cutter.py").write_text("def cut(text): return ['not in the text']\ndef fail(text): 1 / 0\n")
    try:
        with pytest.raises(DataError, match="the word cutter odd_cutter:cut returned 'not in the text'"):
            prepare(
                [place / "text"],
                tokenizer=place / "tokenizer",
                out=place / "s",
                workers=2,
                words="odd_cutter:cut",
            )
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            prepare(
                [place / "text"],
                tokenizer=place / "tokenizer",
                out=place / "s",
                workers=2,
                words="odd_cutter:fail",
            )
    finally:
        sys.path.remove(str(place))
    assert not (place / "s").exists()


def test_a_limit_on_the_size_of_files_is_one_line_and_leaves_nothing(place: Path) -> None:
    limited = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
    )
    _one_line(
        place, [sys.executable, "-c", limited + PREPARE, "2", "rjieba"], "store cannot be written: File too"
    )


def test_a_full_disk_is_one_line_and_leaves_nothing(place: Path) -> None:
    (place / "full").mkdir()
    mount = 'mount -t tmpfs -o size=600k none full && cd full && exec "$@"'
    mounted = ["unshare", "--mount", "sh", "-c", mount]
    if os.geteuid() != 0 or subprocess.run([*mounted, "sh", "true"], cwd=place, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    _one_line(place, [*mounted, "sh", sys.executable, "-c", PREPARE_ON_FULL_DISK], "No space left on device")


def _one_line(place: Path, command: list[str], message: str) -> None:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("polyseme.errors.DataError: store cannot be written: ")
    assert message in last
    assert last.endswith("; nothing half-written was left")
    assert sorted(path.name for path in place.iterdir() if path.name.startswith((".", "store"))) == []


def test_fewer_blocks_than_workers_do_no_harm(place: Path) -> None:
    (place / "text").write_text("我们\n", encoding="utf-8")
    store = prepare([place / "text"], tokenizer=place / "tokenizer", out=place / "store", workers=3)
    assert store.num_tokens == 2


def test_the_tokenizer_of_a_store_is_its_own(place: Path) -> None:
    store = prepare([place / "text"], tokenizer=place / "tokenizer", out=place / "store")
    (place / "tokenizer" / "vocab.txt").write_text("nonsense")
    assert store.tokenizer.tokens([5, 6]) == ["我", "们"]
    with pytest.raises(PolysemeError):
        prepare([place / "text"], tokenizer=place / "tokenizer", out=place / "other")
