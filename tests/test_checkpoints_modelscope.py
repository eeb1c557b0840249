"""A name on ModelScope becomes a folder: the official client, against a server that speaks its protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

pytest.importorskip("modelscope_hub")

SAFE = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "vocab.txt": b"[PAD]\n",
    "modules.json": b"[]",
    "1_Pooling/config.json": b"{}",
}
UNWANTED = {
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"raise SystemExit",
    "onnx/model.onnx": b"graph",
    "README.md": b"text",
}
REPOSITORIES = {
    "owner/safe": {**SAFE, **UNWANTED},
    "owner/old": {"bert_config.json": b"{}", "pytorch_model.bin": b"pickle", "run.py": b""},
    "owner/other": {"config.json": b"{}", "model-q4.gguf": b"3"},
    "owner/private": SAFE,
}
REVISIONS = ("master", "v1.0")
TOKEN = "token-of-nobody"
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
    """What the client asks of a model: the list of its files, and the bytes of one."""

    asked: list[str]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        words = {key: values[0] for key, values in parse_qs(parts.query).items()}
        path, name = unquote(parts.path).strip("/"), "/".join(unquote(parts.path).split("/")[4:6])
        self.asked.append(words.get("FilePath", path))
        files = REPOSITORIES.get(name)
        authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.headers.get("Authorization", f"Bearer {TOKEN}") != f"Bearer {TOKEN}":
            return self.send(401, {"Code": 401, "Message": "token is wrong", "Success": False})
        absent = files is None or (name == "owner/private" and not authorized)
        if files is None or absent or words.get("Revision", "master") not in REVISIONS:
            return self.send(404, {"Code": 10010205001, "Message": "not found", "Success": False})
        if path == f"api/v1/models/{name}/repo/files":
            listed = [
                {"Path": file, "Type": "blob", "Size": len(content), "Sha256": sha256(content)}
                for file, content in files.items()
            ]
            folder = {"Path": "1_Pooling", "Type": "tree", "Size": 0}
            return self.send(200, {"Code": 200, "Success": True, "Data": {"Files": [folder, *listed]}})
        if path == f"api/v1/models/{name}/repo" and words.get("FilePath") in files:
            return self.send_bytes(200, files[words["FilePath"]])
        return self.send(404, {"Code": 404, "Message": "not found", "Success": False})

    def send(self, status: int, content: object) -> None:
        self.send_bytes(status, json.dumps(content).encode())

    def send_bytes(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def resolve_elsewhere(
    name: str, home: Path, endpoint: str, *, program: str = PROGRAM, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`resolve` in a process of its own, since the client reads its environment when it is imported."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.lower().endswith("_proxy") and not key.startswith(("HF_", "MODELSCOPE_", "POLYSEME_"))
    }
    environment |= {
        "HOME": str(home),
        "MODELSCOPE_CACHE": str(home / "cache"),
        "MODELSCOPE_ENDPOINT": endpoint,
        "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
        **variables,
    }
    command = [sys.executable, "-c", program, name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def files_below(folder: str) -> set[str]:
    root = Path(folder.strip())
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_a_name_is_fetched_once_as_data_only_and_is_there_offline(hub: str, tmp_path: Path) -> None:
    first = resolve_elsewhere("modelscope:owner/safe", tmp_path, hub)
    assert first.returncode == 0, first.stderr
    assert files_below(first.stdout) == set(SAFE)
    assert not {*Hub.asked}.intersection(UNWANTED)
    for file, content in SAFE.items():
        assert Path(first.stdout.strip(), file).read_bytes() == content

    asked = len(Hub.asked)
    offline = resolve_elsewhere("modelscope:owner/safe", tmp_path, hub, HF_HUB_OFFLINE="1")
    assert (offline.stdout, len(Hub.asked)) == (first.stdout, asked), offline.stderr
    unreachable = resolve_elsewhere("modelscope:owner/safe", tmp_path, "http://127.0.0.1:9")
    assert unreachable.stdout == first.stdout, unreachable.stderr
    again = resolve_elsewhere("modelscope:owner/safe", tmp_path, hub)
    assert again.stdout == first.stdout
    assert not {*Hub.asked[asked:]}.intersection(SAFE), "nothing is fetched twice"


def test_what_the_older_client_fetched_is_found_offline(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "hub" / "models" / "owner" / "bge-v1___5"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    done = resolve_elsewhere("modelscope:owner/bge-v1.5", tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert done.stdout.strip() == str(folder), done.stderr


def test_one_setting_makes_it_the_default_hub(hub: str, tmp_path: Path) -> None:
    done = resolve_elsewhere("owner/safe", tmp_path, hub, POLYSEME_HUB="modelscope")
    assert files_below(done.stdout) == set(SAFE), done.stderr


def test_pickled_weights_are_taken_only_where_there_are_no_others(hub: str, tmp_path: Path) -> None:
    done = resolve_elsewhere("modelscope:owner/old", tmp_path, hub)
    assert files_below(done.stdout) == {"bert_config.json", "pytorch_model.bin"}, done.stderr


def test_a_revision_follows_the_name(hub: str, tmp_path: Path) -> None:
    done = resolve_elsewhere("modelscope:owner/safe@v1.0", tmp_path, hub)
    assert Path(done.stdout.strip()).name == "v1.0", done.stderr
    offline = resolve_elsewhere("modelscope:owner/safe@v1.0", tmp_path, hub, HF_HUB_OFFLINE="1")
    assert offline.stdout == done.stdout
    absent = only_line(resolve_elsewhere("modelscope:owner/safe@v9", tmp_path, hub))
    assert f"no model owner/safe on {hub}, or no revision 'v9' of it" in absent
    never = only_line(resolve_elsewhere("modelscope:owner/safe@v9", tmp_path, hub, HF_HUB_OFFLINE="1"))
    assert never == (
        "error: owner/safe at revision v9 was not fetched before from ModelScope, "
        "and the network is off (HF_HUB_OFFLINE)"
    )


def test_a_private_model_takes_a_token_and_says_so_without_one(hub: str, tmp_path: Path) -> None:
    without = only_line(resolve_elsewhere("modelscope:owner/private", tmp_path, hub))
    assert "if it is private, set MODELSCOPE_API_TOKEN to an access token that can read it" in without
    wrong = resolve_elsewhere("modelscope:owner/private", tmp_path, hub, MODELSCOPE_API_TOKEN="other")
    assert f"{hub} refuses access to owner/private (status 401); set MODELSCOPE_API_TOKEN" in only_line(wrong)
    done = resolve_elsewhere("modelscope:owner/private", tmp_path, hub, MODELSCOPE_API_TOKEN=TOKEN)
    assert files_below(done.stdout) == set(SAFE), done.stderr


def test_what_cannot_be_had_is_one_clear_line(hub: str, tmp_path: Path) -> None:
    absent = only_line(resolve_elsewhere("modelscope:owner/absent", tmp_path, hub))
    assert f"there is no model owner/absent on {hub}" in absent
    other = only_line(resolve_elsewhere("modelscope:owner/other", tmp_path, hub))
    assert f"owner/other on {hub} has no weights that polyseme reads" in other
    unreachable = only_line(resolve_elsewhere("modelscope:owner/safe", tmp_path, "http://127.0.0.1:9"))
    assert (
        "owner/safe was not fetched before from ModelScope, and http://127.0.0.1:9 cannot be" in unreachable
    )
    program = "import sys\nsys.modules['modelscope_hub'] = None\n" + PROGRAM
    missing = only_line(resolve_elsewhere("modelscope:owner/safe", tmp_path, hub, program=program))
    assert "modelscope-hub" in missing
    assert "[modelscope]" in missing
