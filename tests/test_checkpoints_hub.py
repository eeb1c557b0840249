"""A name becomes a folder: with the real client, against a server that speaks the hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from polyseme.checkpoints.hub import resolve
from polyseme.errors import CheckpointError

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAFE = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "vocab.txt": b"[PAD]\n",
    "modules.json": b"[]",
    "1_Pooling/config.json": b"{}",
}
UNWANTED = {
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"raise SystemExit",
    "onnx/model.onnx": b"graph",
    "onnx/config.json": b"{}",
    "tf_model.h5": b"tensorflow",
    "README.md": b"text",
}
REPOSITORIES = {
    "owner/safe": {**SAFE, **UNWANTED},
    "owner/old": {"config.json": b"{}", "vocab.txt": b"", "pytorch_model.bin": b"pickle", "run.py": b""},
}
PROGRAM = """
import sys
from polyseme.checkpoints.hub import resolve
from polyseme.errors import PolysemeError
try:
    print(resolve(sys.argv[1]))
except PolysemeError as error:
    sys.exit(f"error: {error}")
"""


class Hub(BaseHTTPRequestHandler):
    """The three questions that the client asks: what is there, which files, and their bytes."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.asked.append(path)
        for name, files in REPOSITORIES.items():
            if path == f"api/models/{name}" or path.startswith(f"api/models/{name}/revision/"):
                siblings = [{"rfilename": file} for file in files]
                return self.send({"id": name, "sha": COMMIT, "siblings": siblings})
            if path == f"api/models/{name}/tree/{COMMIT}":
                return self.send(
                    [{"type": "file", "path": f, "size": len(c), "oid": oid(c)} for f, c in files.items()]
                )
            file = path.removeprefix(f"{name}/resolve/{COMMIT}/")
            if file != path and file in files:
                return self.send_bytes(files[file] if with_body else b"", files[file])
        return self.send_bytes(b"{}", b"{}", status=404, headers={"X-Error-Code": "RepoNotFound"})

    def send(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_bytes(data, data)

    def send_bytes(
        self, body: bytes, whole: bytes, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(whole)))
        self.send_header("ETag", f'"{oid(whole)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def resolve_elsewhere(name: str, cache: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """`resolve` in a process of its own, since the client reads its environment when it is imported."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment |= {"HF_HOME": str(cache), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", PROGRAM, name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def files_below(folder: str) -> set[str]:
    root = Path(folder.strip())
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_a_name_is_fetched_once_as_data_only_and_is_there_offline(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    first = resolve_elsewhere("owner/safe", tmp_path, endpoint)
    assert first.returncode == 0, first.stderr
    assert files_below(first.stdout) == set(SAFE)
    asked = {path.rpartition(f"{COMMIT}/")[2] for path in Hub.asked if "/resolve/" in path}
    assert asked <= set(SAFE)

    hub.shutdown()
    hub.server_close()
    second = resolve_elsewhere("owner/safe", tmp_path, endpoint)
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.stdout


def test_pickled_weights_are_taken_only_where_there_are_no_others(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    done = resolve_elsewhere("owner/old", tmp_path, f"http://127.0.0.1:{hub.server_port}")
    assert files_below(done.stdout) == {"config.json", "vocab.txt", "pytorch_model.bin"}


def test_a_name_that_the_hub_does_not_know_is_one_clear_line(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    done = resolve_elsewhere("owner/absent", tmp_path, endpoint)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"error: there is no folder owner/absent, and no model of this name on {endpoint}"
    )


def test_a_name_never_fetched_is_one_clear_line_without_a_network(tmp_path: Path) -> None:
    done = resolve_elsewhere("owner/safe", tmp_path, "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "it was not fetched before, and http://127.0.0.1:9 cannot be asked" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["runs/a/b", "./absent", "../absent", "a b", "/absent", ""])
def test_what_is_neither_a_folder_nor_a_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        resolve(name)


def test_a_file_is_refused_as_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"is a file; name the model's folder"):
        resolve(tmp_path / "model.safetensors")


def test_without_the_client_the_error_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys\nsys.modules['huggingface_hub'] = None\nfrom polyseme.checkpoints.hub import resolve\n"
        "resolve('owner/safe')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'polyseme[hub]'" in done.stderr
