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
from polyseme.errors import CheckpointError, SettingsError

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
    "owner/mixed": {"config.json": b"{}", "model.safetensors": b"1", "2_Dense/pytorch_model.bin": b"2"},
    "owner/other": {"config.json": b"{}", "model-q4.gguf": b"3", "README.md": b""},
    "owner/private": SAFE,
    "owner/gated": SAFE,
}
COMMITS = {"main": COMMIT, "v1.0": "f" * 40}
TOKEN = "hf_of_nobody"
PROGRAM = """
import sys
from polyseme.checkpoints.hub import resolve
from polyseme.errors import PolysemeError
try:
    print(resolve(sys.argv[1]))
except PolysemeError as error:
    sys.exit(f"error: {error}")
"""
OTHER_DEFAULT = """
import importlib.abc, importlib.util, os, sys

class OtherDefault(importlib.abc.MetaPathFinder):
    # The client's own default address becomes the test's server whenever its constants are loaded.
    def find_spec(self, name, path=None, target=None):
        if name != "huggingface_hub.constants":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            module.ENDPOINT = os.environ["TEST_DEFAULT"]
            module.HUGGINGFACE_CO_URL_TEMPLATE = module.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, OtherDefault())
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
            if not path.startswith((f"api/models/{name}", f"{name}/")):
                continue
            if refusal := self.refusal(name):
                return self.refuse(*refusal)
            revision = path.removeprefix(f"api/models/{name}").removeprefix("/revision/") or "main"
            commit = COMMITS.get(revision, revision)
            if path.startswith(f"api/models/{name}/tree/"):
                return self.send(
                    [{"type": "file", "path": f, "size": len(c), "oid": oid(c)} for f, c in files.items()]
                )
            if path.startswith("api/models/"):
                if commit not in COMMITS.values():
                    return self.refuse(404, "RevisionNotFound")
                return self.send({"id": name, "sha": commit, "siblings": [{"rfilename": f} for f in files]})
            commit, _, file = path.removeprefix(f"{name}/resolve/").partition("/")
            if file in files:
                content = files[file] + (b"" if commit == COMMIT else b" old")
                return self.send_bytes(
                    content if with_body else b"", content, headers={"X-Repo-Commit": commit}
                )
        return self.refuse(404, "RepoNotFound")

    def refusal(self, name: str) -> tuple[int, str] | None:
        """What the hub answers who has no token, a wrong one, or has not accepted the terms."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN):
            return 401, ""
        if name == "owner/private" and token != TOKEN:
            return 401, "RepoNotFound"
        return (403, "GatedRepo") if name == "owner/gated" else None

    def refuse(self, status: int, code: str) -> None:
        message = "Invalid credentials in Authorization header" if not code else "refused"
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send_bytes(b"{}", b"{}", status=status, headers=headers)

    def send(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_bytes(data, data)

    def send_bytes(
        self, body: bytes, whole: bytes, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(whole)))
        self.send_header("ETag", f'"{oid(whole)}"')
        for name, value in ({"X-Repo-Commit": COMMIT} | (headers or {})).items():
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


def resolve_elsewhere(
    name: str, cache: Path, endpoint: str, *, default: str = "", program: str = PROGRAM, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`resolve` in a process of its own, since the client reads its environment when it is imported."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.lower().endswith("_proxy") and not key.startswith(("HF_", "POLYSEME_"))
    }
    environment |= {"HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"} | variables
    environment |= {"HF_ENDPOINT": endpoint} if endpoint else {"TEST_DEFAULT": default}
    command = [sys.executable, "-c", program if endpoint else OTHER_DEFAULT + program, name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


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


def test_without_a_setting_the_address_is_that_of_the_client(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    default = f"http://127.0.0.1:{hub.server_port}"
    first = resolve_elsewhere("owner/safe", tmp_path, "", default=default)
    assert first.returncode == 0, first.stderr
    assert files_below(first.stdout) == set(SAFE)

    asked = len(Hub.asked)
    offline = resolve_elsewhere("owner/safe", tmp_path, "", default=default, HF_HUB_OFFLINE="1")
    assert (offline.stdout, len(Hub.asked)) == (first.stdout, asked), offline.stderr
    unreachable = resolve_elsewhere("owner/safe", tmp_path, "", default="http://127.0.0.1:9")
    assert unreachable.stdout == first.stdout, unreachable.stderr
    never = resolve_elsewhere("owner/old", tmp_path, "", default=default, HF_HUB_OFFLINE="1")
    assert "owner/old was not fetched before" in only_line(never)


def test_a_revision_follows_the_name(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    for revision, commit in (("v1.0", COMMITS["v1.0"]), (COMMITS["v1.0"], COMMITS["v1.0"]), ("main", COMMIT)):
        name = f"owner/safe@{revision}"
        done = resolve_elsewhere(name, tmp_path, endpoint)
        assert Path(done.stdout.strip()).name == commit, done.stderr
        offline = resolve_elsewhere(name, tmp_path, endpoint, HF_HUB_OFFLINE="1")
        assert offline.stdout == done.stdout, offline.stderr
    assert Path(done.stdout.strip(), "vocab.txt").read_bytes() == SAFE["vocab.txt"]
    absent = only_line(resolve_elsewhere("owner/safe@v9", tmp_path, endpoint))
    assert absent == f"error: owner/safe has no revision 'v9' on {endpoint}"
    never = only_line(resolve_elsewhere("owner/safe@v9", tmp_path, endpoint, HF_HUB_OFFLINE="1"))
    assert "owner/safe at revision v9 was not fetched before" in never


def test_a_private_model_takes_a_token_and_says_so_without_one(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    without = only_line(resolve_elsewhere("owner/private", tmp_path, endpoint))
    assert "if it is private, set HF_TOKEN to an access token that can read it" in without
    wrong = only_line(resolve_elsewhere("owner/private", tmp_path, endpoint, HF_TOKEN="hf_other"))
    assert f"{endpoint} refuses access to owner/private (status 401); set HF_TOKEN" in wrong
    gated = only_line(resolve_elsewhere("owner/gated", tmp_path, endpoint, HF_TOKEN=TOKEN))
    assert f"accept its terms at {endpoint}/owner/gated, and set HF_TOKEN" in gated
    done = resolve_elsewhere("owner/private", tmp_path, endpoint, HF_TOKEN=TOKEN)
    assert files_below(done.stdout) == set(SAFE), done.stderr


def test_a_command_says_which_cached_copy_it_reads_when_the_hub_cannot_be_reached(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    folder = resolve_elsewhere("owner/safe", tmp_path, endpoint).stdout.strip()
    shown = (
        "import sys\nfrom polyseme.cli.reporter import TerminalReporter\n"
        "from polyseme.progress import reporting\nfrom polyseme.checkpoints.hub import resolve\n"
        "with TerminalReporter() as reporter, reporting(reporter):\n    resolve(sys.argv[1])\n"
    )
    done = resolve_elsewhere("owner/safe", tmp_path, "http://127.0.0.1:9", program=shown)
    told = " ".join(done.stderr.split())
    assert "http://127.0.0.1:9 cannot be reached; owner/safe is read from the cache" in told
    assert Path(folder).name in told.replace(" ", "")


def test_pickled_weights_are_taken_only_where_there_are_no_others(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    done = resolve_elsewhere("owner/old", tmp_path, f"http://127.0.0.1:{hub.server_port}")
    assert files_below(done.stdout) == {"config.json", "vocab.txt", "pytorch_model.bin"}


def test_each_folder_has_its_own_kind_of_weights(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    done = resolve_elsewhere("owner/mixed", tmp_path, f"http://127.0.0.1:{hub.server_port}")
    assert files_below(done.stdout) == set(REPOSITORIES["owner/mixed"]), done.stderr


def test_a_repository_without_weights_says_what_it_holds(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    line = only_line(resolve_elsewhere("owner/other", tmp_path, endpoint))
    assert f"owner/other on {endpoint} has no weights that polyseme reads" in line
    assert line.endswith("; it holds README.md, config.json, model-q4.gguf")


def test_a_name_that_the_hub_does_not_know_is_one_clear_line(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    done = resolve_elsewhere("owner/absent", tmp_path, endpoint)
    assert only_line(done) == (
        f"error: there is no folder owner/absent, and no model of this name on {endpoint}; "
        "if it is private, set HF_TOKEN to an access token that can read it"
    )


def test_a_name_never_fetched_is_one_clear_line_without_a_network(tmp_path: Path) -> None:
    done = resolve_elsewhere("owner/safe", tmp_path, "http://127.0.0.1:9")
    assert "was not fetched before, and http://127.0.0.1:9 cannot be asked" in only_line(done)


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "runs/a/b",
        "./absent",
        "../absent",
        "a b",
        "/absent",
        "",
        "owner/name@",
        "other:owner/name",
        "owner/name@../x",
        "models--bert-base-chinese",
        "runs/models--owner--name",
        "owner--name",
    ],
)
def test_what_is_neither_a_folder_nor_a_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no folder .*\(owner/name, modelscope:owner/name, owner/name@rev"
    ):
        resolve(name)


@pytest.mark.parametrize("name", ["owner/name.git", "owner/name-", "name.", "o" * 97])
def test_a_name_that_the_client_refuses_is_one_line(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"there is no folder .*, and it is no name on http"):
        resolve(name)


def test_an_absent_folder_of_a_clients_cache_gives_the_name_on_the_hub() -> None:
    for folder, name in (("models--bert-base-chinese", "bert-base-chinese"), ("a/models--b--c", "b/c")):
        with pytest.raises(CheckpointError, match=f"; on the hub it is {name}$"):
            resolve(folder)


def test_a_folder_of_a_clients_cache_names_the_folders_of_its_versions(tmp_path: Path) -> None:
    for name in ("models--owner--name", "owner--name"):
        cache = tmp_path / name
        (cache / "snapshots" / "0123").mkdir(parents=True)
        with pytest.raises(
            CheckpointError, match=rf"cache of the model owner/name; .*{name}/snapshots/0123$"
        ):
            resolve(cache)
        assert resolve(cache / "snapshots" / "0123") == cache / "snapshots" / "0123"


def test_a_wrong_name_of_the_default_hub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSEME_HUB", "modelscop")
    with pytest.raises(
        SettingsError, match="POLYSEME_HUB is 'modelscop'; it can be huggingface or modelscope"
    ):
        resolve("owner/name")


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
    assert "pip install huggingface-hub (" in done.stderr
    assert "pip install -e '.[hub]'" in done.stderr
