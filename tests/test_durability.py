"""A power cut at any moment leaves the old or the new state: SIGKILL does not test fsync, this does.

Every call that changes the disk is followed by two imagined power cuts. In one, names survive at once but
content that was not synced is lost (as on ext4); in the other, names too survive only after their folder
was synced. Both pictures are laid out in another folder and must load.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polyseme.training.optimizers import build_optimizers
from polyseme.training.settings import TrainingSettings
from polyseme.training.state import Progress, load_state, newest_state, save_state


class Disk:
    """Follows what is synced below `root`, and lays out what a power cut would leave."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.folders: set[int] = set()
        self.cuts = 0

    def synced(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        inode = os.fstat(descriptor).st_ino
        if path.is_dir():
            self.names[inode] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self.content[inode] = path.read_bytes()

    def created(self, descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino  # perhaps that of something removed before
        self.content[inode] = b""
        self.folders.discard(inode)

    def made(self, path: Path) -> None:
        inode = path.stat().st_ino
        self.folders.add(inode)
        self.names[inode] = {}

    def pictures(self, target: Path) -> list[Path]:
        """The two folders a power cut at this moment could leave."""
        eager, lazy = target / "eager", target / "lazy"
        shutil.rmtree(target, ignore_errors=True)
        for path in [self.root, *self.root.rglob("*")]:
            copy = eager / path.relative_to(self.root)
            if path.is_dir():
                copy.mkdir(parents=True, exist_ok=True)
            else:
                copy.write_bytes(self.content.get(path.stat().st_ino, b""))
        self._lay_out(self.root.stat().st_ino, lazy)
        return [eager, lazy]

    def _lay_out(self, inode: int, target: Path) -> None:
        target.mkdir(parents=True)
        for name, child in self.names.get(inode, {}).items():
            if child in self.folders:
                self._lay_out(child, target / name)
            else:
                (target / name).write_bytes(self.content.get(child, b""))


def watched(disk: Disk, monkeypatch: pytest.MonkeyPatch, after: Callable[[], None]) -> None:
    """Let `disk` see every call that changes names or content, and call `after` behind each."""
    real = {
        name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "mkdir", "unlink", "rmdir")
    }

    def wrap(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            result = real[name](*args, **options)
            if name == "open" and args[1] & os.O_CREAT and os.fstat(result).st_size == 0:
                disk.created(result)
            elif name == "fsync":
                disk.synced(args[0])
            elif name == "mkdir":
                disk.made(Path(args[0]))
            if name != "open":
                after()
            return result

        return call

    for name in real:
        monkeypatch.setattr(os, name, wrap(name))


def test_whatever_was_not_synced_may_be_lost_at_any_moment_of_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = nn.Linear(64, 64)
    optimizers = build_optimizers(net, TrainingSettings())
    states: dict[int, torch.Tensor] = {}
    root = tmp_path / "state"
    root.mkdir()
    disk = Disk(root)
    disk.made(root)

    def step_and_save(step: int) -> None:
        net(torch.randn(4, 64)).square().sum().backward()
        optimizers.step(factor=1.0)
        states[step] = net.weight.detach().clone()
        progress = Progress(
            step=step, epoch=0, batch=step, tokens=0, seconds=0.0, total_steps=9, settled=True, environment={}
        )
        save_state(root, net, optimizers, progress)

    cuts = []
    expected: set[int] = set()

    def cut() -> None:
        for picture in disk.pictures(tmp_path / "after"):
            found = newest_state(picture)
            if found is None:
                assert not expected, "the state that was there is lost"
                continue
            other = nn.Linear(64, 64)
            progress = load_state(found, other, build_optimizers(other, TrainingSettings()))
            assert progress.step in states
            assert not expected or progress.step >= max(expected)
            assert torch.equal(other.weight, states[progress.step])
            cuts.append(progress.step)

    checking = False

    def after() -> None:
        nonlocal checking
        if not checking:  # the checks change the disk too, elsewhere
            checking = True
            try:
                cut()
            finally:
                checking = False

    watched(disk, monkeypatch, after)
    for step in range(1, 5):
        step_and_save(step)
        expected.add(step)
    assert {1, 2, 3, 4} <= set(cuts)
    assert len(cuts) > 60
