"""Every version of the hub clients that pyproject.toml admits passes the tests of what it fetches."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
TESTS = {"hub": "test_checkpoints_hub.py", "modelscope": "test_checkpoints_modelscope.py"}

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("newest", [False, True], ids=["lowest", "newest"])
@pytest.mark.parametrize("extra", TESTS)
def test_a_version_of_the_client_passes(extra: str, newest: bool, tmp_path: Path) -> None:
    (requirement,) = EXTRAS[extra]
    package, lowest = requirement.split(">=")
    wanted = package if newest else f"{package}=={lowest}"
    # A folder of its own, first on the path, leaves the environment that runs the tests as it is.
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(tmp_path)]
    subprocess.run([*install, wanted], check=True, timeout=300)
    module = package.replace("-", "_")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}"}
    program = f"import importlib.metadata as m, {module}; print({module}.__file__, m.version('{package}'))"
    told = run_python(["-c", program], environment)
    file, version = told.stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert newest or re.fullmatch(rf"{re.escape(lowest)}(\.0)*", version)
    done = run_python(
        ["-m", "pytest", "-p", "no:cacheprovider", str(ROOT / "tests" / TESTS[extra])], environment
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def run_python(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
