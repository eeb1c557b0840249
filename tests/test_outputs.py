"""Outputs: replaced at once where they are files, written to where they are not, and nothing left behind."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_models import small_model

from polyseme.embedding.embedding import embed
from polyseme.errors import DataError
from polyseme.files import whole_file, whole_folder, write_whole


def test_a_device_is_written_to_and_stays_a_device(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_bytes(b"")
    except PermissionError:
        pytest.skip("only root may make a device")
    (tmp_path / "link").symlink_to(device)
    for path in (device, tmp_path / "link"):
        write_whole(path, b"gone")
        assert stat.S_ISCHR(device.stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "null"]


def test_a_named_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"lines" * 50_000)
    reader.join(timeout=60)
    assert read == [b"lines" * 50_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("to_file", [True, False])
def test_standard_output_is_written_to_where_it_leads(tmp_path: Path, name: str, to_file: bool) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom polyseme.files import write_whole\n"
        "os.write(1, b'before ')\nwrite_whole(Path(sys.argv[1]), b'answers ')\nos.write(1, b'after')"
    )
    command = [sys.executable, "-c", code, name]
    if to_file:
        with (tmp_path / "file").open("wb") as file:
            subprocess.run(command, cwd=tmp_path, stdout=file, check=True)
        assert (tmp_path / "file").read_bytes() == b"before answers after"
    else:
        done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, check=True)
        assert done.stdout == b"before answers after"


def test_a_links_target_is_replaced_and_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_bytes(b"old")
    for name, target in (("link", "far/file"), ("dangling", "far/other"), ("twice", "link")):
        (tmp_path / name).symlink_to(target)
        write_whole(tmp_path / name, name.encode())
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_bytes() == name.encode()
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["file", "other"]
    (tmp_path / "to-folder").symlink_to("far")
    with pytest.raises(DataError, match="to-folder is a folder; name a file"):
        write_whole(tmp_path / "to-folder", b"")
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(DataError, match="round cannot be written: Too many levels of symbolic links"):
        write_whole(tmp_path / "round", b"")


def test_a_link_to_a_folder_is_filled_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, target in (("link", "empty"), ("dangling", "new")):
        (tmp_path / name).symlink_to(target)
        with whole_folder(tmp_path / name) as building:
            (building / "file").touch()
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target / "file").exists()
    (tmp_path / "file").touch()
    (tmp_path / "to-file").symlink_to("file")
    with (
        pytest.raises(DataError, match="to-file is a file; name a folder"),
        whole_folder(tmp_path / "to-file"),
    ):
        pass


def test_what_embed_cannot_go_back_in_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "text").write_text("一\n", encoding="utf-8")
    (tmp_path / "folder.npy").mkdir()
    for name, message in (
        ("pipe.npy", "pipe.npy is a named pipe, and embed writes into a file at several places; name a file"),
        ("folder.npy", "folder.npy is a folder; name a file"),
    ):
        with pytest.raises(DataError, match=message):
            embed(tmp_path / "text", model="none", out=tmp_path / name)


def test_vectors_go_where_a_link_leads(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m", num_layers=1)
    (tmp_path / "text").write_text("一\n", encoding="utf-8")
    (tmp_path / "far").mkdir()
    (tmp_path / "v.npy").symlink_to("far/real.npy")
    embed(tmp_path / "text", model=model, out=tmp_path / "v.npy", threads=1)
    assert (tmp_path / "v.npy").is_symlink()
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["real.npy", "real.npy.json"]


WRITER = """
import sys, time
from pathlib import Path
from polyseme.files import whole_file, whole_folder
with whole_folder(Path("folder")) as building, whole_file(Path("file")) as file:
    (building / "half").write_bytes(b"x" * 9000)
    file.write(b"x" * 9000)
    print("begun", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def writer(tmp_path: Path) -> "subprocess.Popen[str]":
    """Another process that is writing `file` and `folder`."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_two_processes_do_not_write_the_same_output(tmp_path: Path, writer: "subprocess.Popen[str]") -> None:
    try:
        with pytest.raises(
            DataError, match=r"another process is writing .*/file; wait for it, or write to another path"
        ):
            write_whole(tmp_path / "file", b"mine")
        with (
            pytest.raises(DataError, match=r"another process is writing .*/folder; wait for it, or write"),
            whole_folder(tmp_path / "folder"),
        ):
            pass
        assert sorted(path.name for path in tmp_path.iterdir()) == [".file.part", ".folder.part"]
    finally:
        writer.kill()
        writer.communicate()


def test_what_a_killed_process_left_is_taken_over_by_the_next(
    tmp_path: Path, writer: "subprocess.Popen[str]"
) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file.part", ".folder.part"]
    write_whole(tmp_path / "file", b"mine")
    with whole_folder(tmp_path / "folder") as building:
        (building / "whole").touch()
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_that_was_set_aside_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames of a replacement, the next writer finds the old folder again."""
    (tmp_path / ".folder.old").mkdir()
    (tmp_path / ".folder.old" / "years of work").touch()
    with pytest.raises(DataError, match="exists and is not empty"), whole_folder(tmp_path / "folder"):
        pass
    assert (tmp_path / "folder" / "years of work").exists()
    (tmp_path / ".folder.old").mkdir()
    with whole_folder(tmp_path / "folder", replace=True) as building:
        (building / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    refused = []

    def write(letter: bytes) -> None:
        for _ in range(50):
            try:
                with whole_file(tmp_path / "file") as file:
                    file.write(letter * 3000)
                    time.sleep(0)
                    file.write(letter * 3000)
            except DataError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=write, args=(bytes([65 + n]),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / "file").read_bytes()
    assert content == content[:1] * 6000
    assert all("another process is writing" in line for line in refused)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
