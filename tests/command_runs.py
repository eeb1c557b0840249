"""Runs commands quickly: what they load is loaded once here (torch's compiler too, which its optimizers load,
and matplotlib), and each command is a fork of this process.

Reads lines of JSON (`["prepare", …]`) from standard input and answers each with a line: its exit status and
what it wrote to standard error.
"""

import json
import os
import pkgutil
import sys
import tempfile
from importlib import import_module

import matplotlib.figure  # noqa: F401

import polyseme
from polyseme.cli import main


def run(words: list[str]) -> tuple[int, str]:
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(errors.fileno(), 2)
            status = 1
            try:
                status = main(words)
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        return os.waitstatus_to_exitcode(status), errors.read().decode("utf-8", "replace")


if __name__ == "__main__":
    for module in pkgutil.walk_packages(polyseme.__path__, "polyseme."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
