"""Damaged files, failing system calls, kills and full disks: every command ends well or in one clear line.

    python bench/faults.py mutations --out FOLDER [--tries 20000] [--case NAME …]
    python bench/faults.py calls     --out FOLDER [--tries N] [--command NAME …]
    python bench/faults.py kills     --out FOLDER [--tries 200]
    python bench/faults.py disks     --out FOLDER          (needs root, for small tmpfs mounts)
    python bench/faults.py repeat    --out FOLDER --files FOLDER
    python bench/faults.py report    --out FOLDER

`mutations` damages one sound file at a time (flipped bits, lost and doubled bytes, wrong values in
well-formed files) and runs the command that reads it. Nothing may end in a traceback, a panic, a hang of more
than 10 s or 2 GB of memory, and a damaged file that carries a hash must be refused or make no difference.

`calls` lets every call that changes the disk go wrong in turn: the process is killed before or after it (a
write half done), or the call fails with EIO or ENOSPC, or a signal arrives. `kills` sends SIGKILL at random
times, `disks` runs on disks that are too small. The command is then given again, and must end with the result
of a run that nothing disturbed, leave nothing else behind, and change none of its inputs.

`repeat` puts damaged files that were kept, in FOLDER/found or by an earlier campaign, in the place of the
sound ones and runs their commands again.

Results are lines of FOLDER/results.jsonl; the same command continues where it was stopped. Inputs that ended
badly are kept in FOLDER/found. Commands run in forked children of this process, each with one thread.
"""

import argparse
import hashlib
import itertools
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fault_cases import CASES, COMMANDS, KEPT, Case, Command
from fault_fixtures import build
from fault_mutations import mutate
from fault_process import (
    ACTIONS,
    COUNT,
    Fault,
    Outcome,
    build_shim,
    one_line,
    preload,
    run,
    shim_is_loaded,
    verdict,
)

GOOD = ("ok", "refused")
LONG = 120.0
"""Seconds for commands that train."""


def digest(path: Path) -> dict[str, str]:
    """SHA-256 of every file at or below a path, by name."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    root = path.parent if path.is_file() else path
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


class Workplace:
    """Copies of the sound files for one try after the other, in memory where the system offers that."""

    def __init__(self, fixtures: Path) -> None:
        self.fixtures = fixtures
        shm = Path("/dev/shm")
        self._base = tempfile.mkdtemp(prefix="faults-", dir=shm if os.access(shm, os.W_OK) else None)
        self.folder = Path(self._base) / "try"

    def lay_out(self, names: tuple[str, ...]) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name in names:
            source = self.fixtures / name
            if name.startswith("interrupted-"):
                shutil.copytree(source, self.folder, dirs_exist_ok=True)
            else:
                shutil.copytree(source, self.folder / name)
        return self.folder

    def close(self) -> None:
        shutil.rmtree(self._base, ignore_errors=True)


class Results:
    """The lines of results.jsonl, read at the start and appended to."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / "results.jsonl"
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            whole, _, cut = self.path.read_bytes().rpartition(b"\n")
            self.rows = [json.loads(line) for line in whole.splitlines()]
            if cut:
                self.path.write_bytes(whole + b"\n")
        self.done = {(row["kind"], row["name"], row["number"]) for row in self.rows}

    def has(self, kind: str, name: str, number: int | str) -> bool:
        return (kind, name, number) in self.done

    def add(self, kind: str, name: str, number: int | str, found: str, outcome: Outcome, **more: Any) -> None:
        row = {
            "kind": kind,
            "name": name,
            "number": number,
            "verdict": found,
            "line": one_line(outcome),
            "status": outcome.status,
            "seconds": round(outcome.seconds, 3),
            "memory": outcome.memory,
            **more,
        }
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if found not in GOOD and found != "harmless":
            print(f"{kind} {name} {number}: {found}: {row['line']}", flush=True)


def mutations(
    fixtures: Path, results: Results, *, tries: int, seed: int, names: list[str], part: int, parts: int
) -> None:
    """At least `tries` damaged files, spread over the cases; of them, every `parts`-th from `part`."""
    cases = [case for case in CASES if not names or case.name in names]
    cases = [case for case in cases if (fixtures / case.folder).exists()]
    planned: list[tuple[Case, int]] = []
    for number in itertools.count():
        if len(planned) >= tries:
            break
        planned += [(case, number) for case in cases if number % case.every == 0]
    place = Workplace(fixtures)
    sound: dict[str, tuple[Outcome, dict[str, str]]] = {}
    try:
        for case, number in planned[part::parts]:
            if not results.has("mutation", case.name, number):
                _mutation(case, number, seed, place, results, sound)
    finally:
        place.close()


def _mutation(
    case: Case,
    number: int,
    seed: int,
    place: Workplace,
    results: Results,
    sound: dict[str, tuple[Outcome, dict[str, str]]],
) -> None:
    _make_sure(case, place, sound)
    folder = place.lay_out((case.folder, *case.also))
    files = [path for pattern in case.files for path in _below(case, folder).glob(pattern) if path.is_file()]
    files = [path for path in files if path.stat().st_size and path.name not in (".lock", "expected.npz")]
    rng = random.Random(f"{seed} {case.name} {number}")
    file = rng.choice(sorted(set(files)))
    content = file.read_bytes()
    damaged = mutate(content, file.name, rng)
    if damaged == content:
        damaged = content[:-1]
    file.write_bytes(damaged)
    outcome, found = _judged(case, folder, sound)
    if found not in (*GOOD, "harmless"):
        kept = results.folder / "found" / f"{case.slug}-{number}-{file.name}"
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(damaged)
    results.add("mutation", case.name, number, found, outcome, file=file.name)


def _below(case: Case, folder: Path) -> Path:
    """Where the files of a case lie."""
    return folder if case.folder.startswith("interrupted-") else folder / case.folder


def _make_sure(case: Case, place: Workplace, sound: dict[str, tuple[Outcome, dict[str, str]]]) -> None:
    """Remember what the command gives with the sound files."""
    if case.name in sound:
        return
    folder = place.lay_out((case.folder, *case.also))
    outcome = run(case.words, folder, seconds=LONG)
    if verdict(outcome) != "ok":
        raise SystemExit(f"{case.name}: the sound files give {verdict(outcome)}: {outcome.stderr}")
    sound[case.name] = outcome, digest(folder / case.out) if case.out else {}


def _judged(
    case: Case, folder: Path, sound: dict[str, tuple[Outcome, dict[str, str]]]
) -> tuple[Outcome, str]:
    """What the command does with the files as they are now, and the verdict."""
    limit = 60.0 if case.every > 1 and case.name not in ("recipe", "store: pretrain") else 10.0
    if case.accept:
        outcome = run(["verify", case.accept, "--accept"], folder, seconds=limit)
        if verdict(outcome) != "ok":
            return outcome, verdict(outcome)
    outcome = run(case.words, folder, seconds=limit)
    found = verdict(outcome)
    if case.ours and found == "ok":
        written = digest(folder / case.out) if case.out else {}
        same = written == sound[case.name][1] and outcome.stdout == sound[case.name][0].stdout
        found = "harmless" if same else "accepted"
    return outcome, found


def repeat(fixtures: Path, results: Results, *, files: Path) -> None:
    """Damaged files that were kept, each in the place of the sound file of its kind."""
    place = Workplace(fixtures)
    sound: dict[str, tuple[Outcome, dict[str, str]]] = {}
    try:
        for kept in sorted(path for path in files.iterdir() if path.suffix != ".md"):
            for case, pattern, without in _uses(kept.name):
                _make_sure(case, place, sound)
                folder = place.lay_out((case.folder, *case.also))
                below = _below(case, folder)
                for name in without:
                    (below / name).unlink()
                target = next(iter(sorted(below.glob(pattern))), below / pattern)
                target.write_bytes(kept.read_bytes())
                outcome, found = _judged(case, folder, sound)
                results.add("kept", case.name, kept.name, found, outcome, file=kept.name)
    finally:
        place.close()


def _uses(name: str) -> list[tuple[Case, str, tuple[str, ...]]]:
    """The cases that a kept file belongs to, the file whose place it takes, and files that go before."""
    fitting = [kept for kept in KEPT if name.startswith(kept.begins)]
    if fitting:
        kept = max(fitting, key=lambda kept: len(kept.begins))
        return [(case, kept.file, kept.without) for case in CASES if case.name in kept.cases]
    for case in CASES:
        if match := re.fullmatch(rf"{re.escape(case.slug)}-\d+-(.+)", name):
            return [(case, f"**/{match[1]}", ())]
    raise SystemExit(f"{name}: no case has files that are kept by such a name")


def calls(
    fixtures: Path,
    results: Results,
    *,
    tries: int | None,
    actions: list[str],
    names: list[str],
    part: int,
    parts: int,
) -> None:
    """Calls of every command that change the disk go wrong, in each way: all of them, or `tries` evenly."""
    place = Workplace(fixtures)
    try:
        commands = [command for command in COMMANDS if not names or command.name in names]
        references = {command.name: _reference(command, place) for command in commands}
        planned = [
            (command, action, nth)
            for command in commands
            for action in actions
            for nth in range(1, references[command.name][2] + 1)
        ]
        step = max(1, len(planned) / tries) if tries else 1
        planned = [planned[int(index * step)] for index in range(int(len(planned) / step))]
        for command, action, nth in planned[part::parts]:
            if results.has("call", f"{command.name}: {action}", nth):
                continue
            reference, ignored, _ = references[command.name]
            folder = place.lay_out(command.needs)
            outcome = run(command.words, folder, fault=Fault(folder, nth, ACTIONS[action]), seconds=LONG)
            name = f"{command.name}: {action}"
            _again(command, place, reference, ignored, outcome, results, "call", name, nth)
    finally:
        place.close()


def kills(
    fixtures: Path, results: Results, *, tries: int, seed: int, names: list[str], part: int, parts: int
) -> None:
    """SIGKILL and SIGTERM at random times."""
    place = Workplace(fixtures)
    commands = [command for command in COMMANDS if not names or command.name in names]
    references = {}
    try:
        for number in range(part, tries, parts):
            command = commands[number // parts % len(commands)]
            if results.has("kill", command.name, number):
                continue
            if command.name not in references:
                references[command.name] = _reference(command, place)
            reference, ignored, _ = references[command.name]
            rng = random.Random(f"{seed} {number}")
            folder = place.lay_out(command.needs)
            last = float(reference["seconds"])
            sent = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
            outcome = run(
                command.words, folder, kill_after=rng.uniform(0, 1.05 * last), kill_signal=sent, seconds=LONG
            )
            _again(command, place, reference, ignored, outcome, results, "kill", command.name, number)
    finally:
        place.close()


def disks(fixtures: Path, results: Results, *, names: list[str]) -> None:
    """Disks of all sizes from far too small to just enough."""
    if os.geteuid() != 0:
        raise SystemExit("small disks are tmpfs mounts, which only root can make")
    place = Workplace(fixtures)
    try:
        for command in COMMANDS:
            if names and command.name not in names:
                continue
            reference, ignored, _ = _reference(command, place)
            needed = int(reference["bytes"])
            for share in range(0, 22, 3):
                if results.has("disk", command.name, share):
                    continue
                folder = place.lay_out(command.needs)
                used = sum(path.stat().st_size + 4096 for path in folder.rglob("*"))
                size = used + needed * share // 10 + 8192
                with _small_disk(place, size):
                    place.lay_out(command.needs)
                    outcome = run(command.words, folder, seconds=LONG)
                    if verdict(outcome) not in GOOD or b"Traceback" in outcome.stderr.encode():
                        results.add("disk", command.name, share, verdict(outcome), outcome)
                        continue
                    subprocess.run(["mount", "-o", "remount,size=1G", str(folder.parent)], check=True)
                    _again(command, place, reference, ignored, outcome, results, "disk", command.name, share)
    finally:
        place.close()


class _small_disk:
    """A tmpfs of `size` bytes in the place of the workplace."""

    def __init__(self, place: Workplace, size: int) -> None:
        self.place, self.size = place, size

    def __enter__(self) -> None:
        base = self.place.folder.parent
        shutil.rmtree(self.place.folder, ignore_errors=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", str(base)], check=True)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self.place.folder.parent)], check=True)


def _reference(command: Command, place: Workplace) -> tuple[dict[str, Any], set[str], int]:
    """What two undisturbed runs write; files that differ between them hold times, and are not compared."""
    found = []
    for _ in range(2):
        folder = place.lay_out(command.needs)
        outcome = run(command.words, folder, fault=Fault(folder, 0, COUNT), seconds=LONG)
        if verdict(outcome) != "ok":
            raise SystemExit(f"{command.name}: {verdict(outcome)} without any fault: {outcome.stderr}")
        found.append((digest(folder / command.out), _names(folder), outcome))
    ignored = {name for name, value in found[0][0].items() if found[1][0].get(name) != value}
    size = sum(path.stat().st_size + 4096 for path in folder.rglob("*") if command.out in str(path))
    reference = {
        "files": found[0][0],
        "names": found[0][1],
        "inputs": {need: digest(place.fixtures / need) for need in command.needs},
        "seconds": found[1][2].seconds,
        "bytes": size,
    }
    return reference, ignored, found[1][2].calls


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _again(
    command: Command,
    place: Workplace,
    reference: dict[str, Any],
    ignored: set[str],
    first: Outcome,
    results: Results,
    kind: str,
    name: str,
    number: int,
) -> None:
    """Judge what a disturbed run did, give the command again, and judge the result."""
    folder = place.folder
    found = disturbed = verdict(first)
    if found.startswith("signal") or (found == "unclear" and first.status >= 128):
        found = "ok"  # it was killed, or ended by the signal that it got
    if found in GOOD:
        second = run(command.words, folder, seconds=LONG)
        state = verdict(second)
        if state != "ok":
            found, first = f"again: {state}", second
        else:
            files = digest(folder / command.out)
            changed = sorted(
                n for n, v in reference["files"].items() if n not in ignored and files.get(n) != v
            )
            extra = sorted(_names(folder) - reference["names"])
            inputs = {need: digest(folder / need) for need in command.needs}
            if changed:
                found = f"differs: {' '.join(changed[:3])}"
            elif extra:
                found = f"left behind: {' '.join(extra[:3])}"
            elif inputs != reference["inputs"]:
                found = "inputs changed"
            else:
                found = "ok"
    results.add(kind, name, number, found, first, disturbed=disturbed)


def report(results: Results) -> str:
    """A table for each kind of try."""
    lines = [
        f"{date.today()}, {platform.machine()}, Python {platform.python_version()}, "
        f"torch {version('torch')}, tokenizers {version('tokenizers')}"
    ]
    for kind in ("mutation", "kept", "call", "kill", "disk"):
        rows = [row for row in results.rows if row["kind"] == kind]
        if not rows:
            continue
        table: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for row in rows:
            table[row["name"]][row["verdict"].split(":")[0]] += 1
        verdicts = sorted({found for counts in table.values() for found in counts})
        lines += [
            "",
            f"| {kind} | tries | {' | '.join(verdicts)} | slowest, s |",
            "| --- |" + " --- |" * (len(verdicts) + 2),
        ]
        for name, counts in table.items():
            slowest = max(row["seconds"] for row in rows if row["name"] == name)
            cells = " | ".join(str(counts[found]) for found in verdicts)
            lines.append(f"| {name} | {counts.total()} | {cells} | {slowest:.1f} |")
        total: Counter[str] = Counter()
        for counts in table.values():
            total += counts
        lines.append(f"| all | {total.total()} | {' | '.join(str(total[found]) for found in verdicts)} | |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("mutations", "repeat", "calls", "kills", "disks", "report"))
    parser.add_argument("--out", type=Path, required=True, help="folder of results and of the sound files")
    parser.add_argument("--tries", type=int, help="mutations: 20,000; calls: all; kills: 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", "--command", dest="names", nargs="*", default=[], help="only these")
    parser.add_argument("--files", type=Path, help="repeat: the folder of the files that were kept")
    parser.add_argument(
        "--actions", nargs="*", default=list(ACTIONS), choices=list(ACTIONS), help="calls: only in these ways"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes side by side")
    return parser.parse_args()


def _fork(chosen: argparse.Namespace, fixtures: Path, results: Results, part: int) -> int:
    """One worker, a process with its share of the tries."""
    worker = os.fork()
    if worker:
        return worker
    status = 1
    share: dict[str, Any] = {"names": chosen.names, "part": part, "parts": chosen.workers}
    try:
        if chosen.what == "mutations":
            mutations(fixtures, results, tries=chosen.tries or 20_000, seed=chosen.seed, **share)
        elif chosen.what == "calls":
            calls(fixtures, results, tries=chosen.tries, actions=chosen.actions, **share)
        else:
            kills(fixtures, results, tries=chosen.tries or 200, seed=chosen.seed, **share)
        status = 0
    except SystemExit as error:
        print(error, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def main() -> None:
    chosen = arguments()
    results = Results(chosen.out)
    if chosen.what == "report":
        print(report(results))
        return
    if not shim_is_loaded():
        shim = build_shim(chosen.out)
        os.environ["LD_PRELOAD"] = f"{shim.resolve()} {os.environ.get('LD_PRELOAD', '')}".strip()
        os.execv(sys.executable, [sys.executable, *sys.argv])
    preload([*(case.words for case in CASES), *(command.words for command in COMMANDS)])
    fixtures = chosen.out / "fixtures"
    build(fixtures.resolve(), shim=True)
    if chosen.what == "disks":
        disks(fixtures, results, names=chosen.names)
    elif chosen.what == "repeat":
        repeat(fixtures, results, files=chosen.files or chosen.out / "found")
    else:
        workers = [_fork(chosen, fixtures, results, part) for part in range(chosen.workers)]
        ends = [os.waitpid(worker, 0)[1] for worker in workers]
        if any(ends):
            raise SystemExit("a worker ended early; the same command goes on")
    print(report(Results(chosen.out)))


if __name__ == "__main__":
    main()
