"""Long jobs of `embed`: killed at any moment and given again, they end in the same file, byte for byte."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reporters import Said
from small_models import CHARACTERS, small_model
from test_durability import Disk, watched

import polyseme
from polyseme.embedding import embedding, jobs
from polyseme.embedding.embedder import Embedder, Vectors
from polyseme.embedding.embedding import embed
from polyseme.embedding.files import format_of, made, read_vectors
from polyseme.errors import DataError, SettingsError
from polyseme.progress import reporting

HERE = {"PYTHONPATH": str(Path(polyseme.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
TINY = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "intermediate_size": 16}
BLOCK = 64
"""Rows of a block in these tests; a job for use has more."""
LINES = 12_000

FORKING = """
import json, os, sys
import torch
torch.set_num_threads(1)
from polyseme.embedding import embedding
from polyseme.embedding.embedding import embed
embedding._TEXTS = int(sys.argv[1])
embedding.load(sys.argv[2])
for line in sys.stdin:
    words = json.loads(line)
    child = os.fork()
    if child == 0:
        embed(words.pop("text"), **words)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Loads torch and what torch loads late, then runs each job that it is given in a process of its own."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"), **TINY, normalize=True)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_TEXTS", BLOCK)


def some_lines(count: int, *, seed: int = 0) -> list[str]:
    """Texts of 0 to 19 characters; many stand there twice."""
    rng = np.random.default_rng(seed)
    letters = np.array(list(CHARACTERS))
    return ["".join(rng.choice(letters, rng.integers(20))) for _ in range(count)]


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


class Recorder(Said):
    """Remembers of each bar its total and how far it came, too."""

    def __init__(self) -> None:
        super().__init__()
        self.bars: list[list[float | None]] = []

    @contextmanager
    def bar(self, label: str, *, total: float | None, unit: str) -> Iterator["Recorder"]:
        self.bars.append([total, 0])
        yield self

    def advance(self, amount: float = 1, *, total: float | None = None, **figures: float | str) -> None:
        self.bars[-1][1] = (self.bars[-1][1] or 0) + amount


class Runner:
    """Jobs in processes of their own, started one after the other."""

    def __init__(self, model: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKING, str(BLOCK), str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **HERE},
        )

    def start(self, text: Path, **words: Any) -> int:
        assert self.process.stdin
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in words.items()}
        self.process.stdin.write(json.dumps({"text": str(text), "threads": 1, **plain}) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def status(self) -> int:
        """Of the job that was started last, once it has ended."""
        return int(self._line())

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()


@pytest.fixture(scope="module")
def runner(model: Path) -> Iterator[Runner]:
    runner = Runner(model)
    yield runner
    runner.process.kill()
    runner.process.communicate()


def done(out: Path) -> int:
    """Blocks that the journal of an unfinished job counts."""
    journal = out.with_name(f".{out.name}.embedding") / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@pytest.mark.parametrize(
    ("suffix", "precision", "kills"),
    [(".parquet", "int8", 20), (".npy", "fp32", 5), (".jsonl", "fp16", 5)],
)
def test_a_job_killed_again_and_again_ends_in_the_same_bytes(
    tmp_path: Path, model: Path, runner: Runner, suffix: str, precision: str, kills: int
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    text = write_lines(tmp_path / "text", some_lines(LINES))
    words = {"model": model, "output_precision": precision, "dimensions": 12}
    runner.start(text, out=tmp_path / f"whole{suffix}", **words)
    assert runner.status() == 0
    out = tmp_path / f"killed{suffix}"
    rng = np.random.default_rng(0)
    reached = [0]
    for _ in range(kills):
        job = runner.start(text, out=out, **words)
        # Long enough to begin; then anywhere: reading, computing, writing, moving on.
        end = time.monotonic() + 60
        while done(out) < reached[-1] + rng.integers(1, 3) and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.005))
        os.kill(job, signal.SIGKILL)
        assert runner.status() == -signal.SIGKILL
        assert not out.exists()
        reached.append(done(out))
    assert reached == sorted(set(reached)), "each run went on where the one before it was"
    assert reached[-1] < -(-LINES // BLOCK)
    runner.start(text, out=out, **words)
    assert runner.status() == 0
    assert out.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert len(read_vectors(out)) == LINES
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("synced", [-1.0, 1e9])
def test_a_power_cut_at_any_moment_leaves_what_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: float
) -> None:
    monkeypatch.setattr(jobs, "_SYNC_AFTER", synced)
    rng = np.random.default_rng(0)
    blocks = [([f"text {n}"] * 4, rng.standard_normal((4, 3)).astype(np.float32)) for n in range(4)]
    how = {"text": "fingerprint", "dimensions": 3, "output_precision": "fp32"}
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    disk.made(disk.root)

    def run(place: Path) -> int:
        """What `embed` does; the number of rows that were there."""
        path, folder = place / "v.npy", place / ".v.npy.embedding"
        folder.mkdir(exist_ok=True)
        jobs.mend(path, folder)
        if told := jobs.finished(path, how):
            return told.rows
        job = jobs.resumed(path, folder, format_of(path), how)
        before = job.rows if job else 0
        job = job or jobs.begun(path, folder, format_of(path), how, ranges=None, environment={})
        for texts, vectors in blocks[job.rows // 4 :]:
            job.add(texts, vectors)
        job.finish()
        return before

    found = []
    checking = False

    def cut() -> None:
        nonlocal checking
        if checking:
            return
        checking = True
        for picture in disk.pictures(tmp_path / "after"):
            found.append(run(picture))
            np.testing.assert_array_equal(
                read_vectors(picture / "v.npy"), np.concatenate([vectors for _, vectors in blocks])
            )
        checking = False

    watched(disk, monkeypatch, cut)
    run(disk.root)
    assert len(found) > 30
    assert found[0] == 0
    assert found[-1] == 16
    assert ({4, 8, 12} <= set(found)) == (synced < 0)


def test_a_torn_block_is_noticed_and_made_again(tmp_path: Path, model: Path) -> None:
    text = write_lines(tmp_path / "text", some_lines(1_000))
    embed(text, model=model, out=tmp_path / "whole.npy", threads=1)
    for tear in (cut_vectors, zero_vectors, cut_journal, zero_journal):
        stop_after(4, text, model=model, out=tmp_path / "v.npy")
        tear(tmp_path / ".v.npy.embedding")
        with reporting(recorder := Recorder()):
            embed(text, model=model, out=tmp_path / "v.npy", threads=1)
        assert any(line.startswith("going on behind ") for line in recorder.lines), tear
        assert f"going on behind {4 * BLOCK:,} vectors that are done" not in recorder.lines, tear
        assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
        (tmp_path / "v.npy").unlink()


def cut_vectors(folder: Path) -> None:
    os.truncate(folder / "vectors", (folder / "vectors").stat().st_size - 5)


def zero_vectors(folder: Path) -> None:
    size = (folder / "vectors").stat().st_size
    with (folder / "vectors").open("r+b") as file:
        file.seek(size - 100)
        file.write(bytes(50))


def cut_journal(folder: Path) -> None:
    os.truncate(folder / "journal.jsonl", (folder / "journal.jsonl").stat().st_size - 1)


def zero_journal(folder: Path) -> None:
    size = (folder / "journal.jsonl").stat().st_size
    with (folder / "journal.jsonl").open("r+b") as file:
        file.seek(size - 10)
        file.write(bytes(10))


def stop_after(blocks: int, text: Path | str, **words: Any) -> None:
    """Interrupt a job when it asks for the vectors of one block more."""
    real = Embedder.sentences
    asked = 0

    def sentences(self: Embedder, texts: Any) -> Vectors:
        nonlocal asked
        if asked == blocks:
            raise KeyboardInterrupt
        asked += 1
        return real(self, texts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Embedder, "sentences", sentences)
        with pytest.raises(KeyboardInterrupt):
            embed(text, threads=1, **words)


def test_an_interrupted_job_says_what_is_kept_and_where_the_next_goes_on(tmp_path: Path, model: Path) -> None:
    text = write_lines(tmp_path / "text", some_lines(1_000))
    with reporting(recorder := Recorder()):
        stop_after(3, text, model=model, out=tmp_path / "v.npy")
        embed(text, model=model, out=tmp_path / "v.npy", threads=1)
    assert "stopped: 192 vectors are kept, and the same command goes on from there" in recorder.lines
    assert "going on behind 192 vectors that are done" in recorder.lines
    assert recorder.bars == [[1_000, 192], [808, 808]]


def test_a_whole_file_is_left_alone_unless_anything_differs(tmp_path: Path, model: Path) -> None:
    text = write_lines(tmp_path / "text", some_lines(300))
    words = {"model": model, "out": tmp_path / "v.npy", "threads": 1}
    assert embed(text, **words) == 300
    first = (tmp_path / "v.npy").stat().st_mtime_ns
    with reporting(recorder := Recorder()):
        assert embed(text, **words) == 300
    assert (tmp_path / "v.npy").stat().st_mtime_ns == first
    assert recorder.lines[0].startswith(f"{tmp_path / 'v.npy'} is whole already")
    assert embed(text, **words, replace=True) == 300
    assert (tmp_path / "v.npy").stat().st_mtime_ns != first
    assert embed(text, **words, pooling="max") == 300
    told = made(tmp_path / "v.npy")
    assert told is not None
    assert told.how["pooling"] == "max"
    write_lines(text, some_lines(301))
    assert embed(text, **words, pooling="max") == 301


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"pooling": "max"},
            r"v\.npy was begun with another pooling \(mean then, max now\); repeat the first",
        ),
        ({"dimensions": 3}, r"begun with another dimensions \(16 then, 3 now\)"),
        ({"output_precision": "fp16"}, r"another output_precision \(fp32 then, fp16 now\)"),
        (
            {"model": "other"},
            r"begun with another model; repeat the first command to go on, or begin anew with",
        ),
        ({"text": "longer"}, r"begun with another text; .* --replace"),
        ({"text": "-"}, r"begun with another text; .* --replace"),
    ],
)
def test_a_job_does_not_go_on_with_anything_else(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    text = write_lines(tmp_path / "text", some_lines(700))
    stop_after(2, text, model=model, out=tmp_path / "v.npy")
    words: dict[str, Any] = {"text": text, "model": model, "out": tmp_path / "v.npy", "threads": 1, **change}
    if "model" in change:
        words["model"] = small_model(tmp_path / "other", seed=1, **TINY, normalize=True)
    if change.get("text") == "longer":
        words["text"] = write_lines(tmp_path / "longer", some_lines(701))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    with pytest.raises(SettingsError, match=message):
        embed(**words)
    assert done(tmp_path / "v.npy") == 2
    assert embed(**words, replace=True) == {"longer": 701, "-": 2}.get(change.get("text", ""), 700)


def test_a_text_that_changes_while_it_is_read_is_refused(tmp_path: Path, model: Path) -> None:
    text = write_lines(tmp_path / "text", some_lines(700))
    real = Embedder.sentences

    def sentences(self: Embedder, texts: Any) -> Vectors:
        with text.open("a") as file:
            file.write("more\n")
        return real(self, texts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Embedder, "sentences", sentences)
        with pytest.raises(DataError, match=r"text was changed while it was read; begin anew with --replace"):
            embed(text, model=model, out=tmp_path / "v.npy", threads=1)
    assert not (tmp_path / "v.npy").exists()


def test_a_second_process_gets_one_line(tmp_path: Path, model: Path, runner: Runner) -> None:
    text = write_lines(tmp_path / "text", some_lines(LINES))
    job = runner.start(text, model=model, out=tmp_path / "v.npy")
    while not done(tmp_path / "v.npy"):
        time.sleep(0.002)
    message = r"another process is embedding in .*\.v\.npy\.embedding; wait for it, or name another file"
    with pytest.raises(DataError, match=message):
        embed(text, model=model, out=tmp_path / "v.npy", threads=1, replace=True)
    os.kill(job, signal.SIGKILL)
    assert runner.status() == -signal.SIGKILL
    assert embed(text, model=model, out=tmp_path / "v.npy", threads=1) == LINES


def test_standard_input_is_embedded_but_leaves_nothing_to_go_on_with(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = some_lines(600)
    out = tmp_path / "v.npy"

    def given() -> None:
        content = "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    given()
    with reporting(recorder := Recorder()):
        stop_after(2, "-", model=model, out=out)
    assert recorder.lines == ["the text can be read only once: a job that is stopped will have to begin anew"]
    assert list(tmp_path.iterdir()) == []
    given()
    with reporting(recorder := Recorder()):
        assert embed("-", model=model, out=out, threads=1) == 600
    assert recorder.bars == [[None, 600]]
    embed(write_lines(tmp_path / "text", lines), model=model, out=tmp_path / "w.npy", threads=1)
    np.testing.assert_array_equal(np.load(out), np.load(tmp_path / "w.npy"))


def test_a_folder_and_a_pattern_are_read_in_order_and_packing_does_not_matter(
    tmp_path: Path, model: Path
) -> None:
    import gzip

    lines = some_lines(400)
    (tmp_path / "texts").mkdir()
    write_lines(tmp_path / "texts" / "a.txt", lines[:150])
    write_lines(tmp_path / "texts" / "b.txt", lines[150:])
    words = {"model": model, "threads": 1}
    assert embed(tmp_path / "texts", out=tmp_path / "folder.npy", **words) == 400
    assert embed(tmp_path / "texts" / "*.txt", out=tmp_path / "pattern.npy", **words) == 400
    assert embed(write_lines(tmp_path / "one", lines), out=tmp_path / "one.npy", **words) == 400
    assert np.array_equal(np.load(tmp_path / "folder.npy"), np.load(tmp_path / "one.npy"))
    assert np.array_equal(np.load(tmp_path / "folder.npy"), np.load(tmp_path / "pattern.npy"))
    packed = tmp_path / "texts" / "a.txt"
    (tmp_path / "texts" / "a.txt.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    with reporting(recorder := Recorder()):
        assert embed(tmp_path / "texts", out=tmp_path / "folder.npy", **words) == 400
    assert "is whole already" in recorder.lines[0]


def test_what_stands_twice_in_a_block_is_computed_once(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Embedder.sentences
    read: list[str] = []

    def sentences(self: Embedder, texts: Any) -> Vectors:
        read.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(Embedder, "sentences", sentences)
    lines = ["很好", "差", "很好", "", "差", ""] * 100
    text = write_lines(tmp_path / "text", lines)
    embed(text, model=model, out=tmp_path / "v.npy", threads=1)
    # 600 lines are ten blocks, and each has the same three texts.
    assert len(read) == 30
    assert set(read) == {"很好", "差", ""}
    vectors = np.load(tmp_path / "v.npy")
    alone = real(Embedder.load(model, threads=1), ["很好", "差", ""])
    np.testing.assert_allclose(vectors, alone[[("很好", "差", "").index(line) for line in lines]], atol=1e-6)


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".jsonl"])
def test_shortened_and_quantised_vectors_are_those_of_the_model(
    tmp_path: Path, model: Path, suffix: str
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    lines = ["酒店很好", "", *some_lines(300)]
    text = write_lines(tmp_path / "text", lines)
    plain = Embedder.load(model, threads=1, normalize=False).sentences(lines)[:, :6]
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    words = {"model": model, "threads": 1, "dimensions": 6}
    for precision, atol in (("fp32", 1e-5), ("fp16", 1e-3), ("int8", 5e-3)):
        out = tmp_path / f"{precision}{suffix}"
        embed(
            text,
            out=out,
            output_precision=precision,
            calibration=text if precision == "int8" else None,
            **words,
        )
        np.testing.assert_allclose(read_vectors(out), plain, atol=atol)
    embed(text, out=tmp_path / f"binary{suffix}", output_precision="binary", **words)
    clear = np.abs(plain) > 1e-5
    signs = read_vectors(tmp_path / f"binary{suffix}")
    np.testing.assert_array_equal(signs[clear], np.sign(plain)[clear])


def test_the_ranges_of_int8_are_the_first_block_s_or_the_sample_s(tmp_path: Path, model: Path) -> None:
    lines = some_lines(600)
    text = write_lines(tmp_path / "text", lines)
    words = {"model": model, "threads": 1, "output_precision": "int8"}
    embed(text, out=tmp_path / "first.npy", **words)
    embed(text, out=tmp_path / "sample.npy", calibration=write_lines(tmp_path / "s", lines[400:500]), **words)
    vectors = Embedder.load(model, threads=1).sentences(lines)
    for name, sample in (("first", vectors[:BLOCK]), ("sample", vectors[400:500])):
        told = made(tmp_path / f"{name}.npy")
        assert told is not None
        np.testing.assert_allclose(told.how["ranges"], [sample.min(axis=0), sample.max(axis=0)], atol=1e-5)


def test_more_dimensions_than_there_are_is_refused(tmp_path: Path, model: Path) -> None:
    text = write_lines(tmp_path / "text", ["很好"])
    with pytest.raises(SettingsError, match="dimensions=17, but the vectors of this model have 16"):
        embed(text, model=model, out=tmp_path / "v.npy", dimensions=17)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


ON_FULL_DISK = """
import sys
from polyseme.embedding import embedding
embedding._TEXTS = 64
embedding.embed("../text", model=sys.argv[1], out="v.npy", threads=1)
"""


def test_a_full_disk_is_one_line_and_what_was_done_is_kept(tmp_path: Path, model: Path) -> None:
    text = write_lines(tmp_path / "text", some_lines(LINES))
    (tmp_path / "small").mkdir()
    mount = (
        'mount -t tmpfs -o size=400k none small && cd small && "$@"; '
        "cp -r .v.npy.embedding ../kept 2>/dev/null; test ! -e v.npy"
    )
    mounted = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    if os.geteuid() != 0 or subprocess.run([*mounted, "true"], cwd=tmp_path, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    command = [*mounted, sys.executable, "-c", ON_FULL_DISK, str(model)]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **HERE}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(
        "polyseme.errors.DataError: v.npy cannot be written: No space left on device; the "
    )
    assert last.endswith(" vectors done are kept: mend that and repeat the command to go on")
    (tmp_path / "kept").rename(tmp_path / ".v.npy.embedding")
    assert done(tmp_path / "v.npy") > 10
    with reporting(recorder := Recorder()):
        assert embed(text, model=model, out=tmp_path / "v.npy", threads=1) == LINES
    assert recorder.lines[0].startswith("going on behind ")
    embed(text, model=model, out=tmp_path / "whole.npy", threads=1)
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
