"""Long jobs of `embed`: killed at any moment and given again, they end in the same file, byte for byte."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embed_runs import BLOCK, HERE, LINES, TINY, Recorder, Runner, done, some_lines, write_lines
from small_models import small_model
from test_durability import Disk, watched

from polyseme.embedding import embedding, jobs
from polyseme.embedding.embedder import Embedder, Vectors
from polyseme.embedding.embedding import embed
from polyseme.embedding.files import format_of, made, read_vectors
from polyseme.errors import DataError, SettingsError
from polyseme.progress import reporting


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"), **TINY, normalize=True)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_TEXTS", BLOCK)


@pytest.fixture(scope="module")
def runner(model: Path) -> Iterator[Runner]:
    runner = Runner(model)
    yield runner
    runner.process.kill()
    runner.process.communicate()


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
    os.truncate(folder / "journal", (folder / "journal").stat().st_size - 1)


def zero_journal(folder: Path) -> None:
    size = (folder / "journal").stat().st_size
    with (folder / "journal").open("r+b") as file:
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
