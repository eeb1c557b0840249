"""The number of torch's threads, inside a block and by default."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from polyseme import threads
from polyseme.devices import usable_cores
from polyseme.threads import default_threads, kept_for_new_threads, one_torch_thread, torch_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def elsewhere() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_a_block_has_its_number_of_threads_and_nobody_else() -> None:
    with torch_threads(3):
        assert (torch.get_num_threads(), elsewhere()) == (3, 2)
        with torch_threads():
            assert torch.get_num_threads() == 3
    assert (torch.get_num_threads(), elsewhere()) == (2, 2)


@torch_threads(3)
def fails() -> None:
    raise KeyError(torch.get_num_threads())


def test_a_block_that_fails_gives_its_threads_back() -> None:
    with pytest.raises(KeyError, match="3"):
        fails()
    assert (torch.get_num_threads(), elsewhere()) == (2, 2)


@pytest.mark.parametrize("has_openmp", [True, False])
def test_a_short_block_of_one_thread_changes_nothing_elsewhere(
    has_openmp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_openmp:
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    with one_torch_thread():
        assert (torch.get_num_threads(), elsewhere()) == (1, 2)
    assert (torch.get_num_threads(), elsewhere()) == (2, 2)


def test_a_thread_that_torch_has_not_met_gets_its_number_back() -> None:
    found: list[int] = []

    def work() -> None:
        with one_torch_thread():
            found.append(torch.get_num_threads())
        found.append(torch.get_num_threads())

    torch.set_num_threads(3)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [1, 3]


def test_what_is_set_for_one_thread_is_not_left_to_others() -> None:
    with kept_for_new_threads():
        torch.set_num_threads(5)
    assert (torch.get_num_threads(), elsewhere()) == (5, 2)


def test_the_program_s_own_number_is_the_default() -> None:
    torch.set_num_threads(1)
    assert default_threads() == 1
    torch.set_num_threads(1000)
    assert default_threads() == usable_cores()


def test_openmp_s_number_is_the_default() -> None:
    code = "import polyseme; print(polyseme.show_machine().threads)"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
