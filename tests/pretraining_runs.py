"""Starts pre-training runs quickly: all that a run loads is loaded once here (torch's compiler too, which its
optimizers load, and matplotlib), and each run is a fork of this process.

Reads lines of JSON (`{"out": …, …}`) from standard input, answers each with the number of the forked
process; the caller kills or awaits it.
"""

import json
import os
import sys

import matplotlib.figure  # noqa: F401
import torch
import torch._dynamo

from polyseme.training.pretraining import pretrain


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            try:
                pretrain(**order)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
