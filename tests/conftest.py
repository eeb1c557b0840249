"""What holds for every test."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _threads_stay_as_they_were() -> Iterator[None]:
    """Else all tests behind one that takes more threads have them too, and wait for one another's cores."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)
