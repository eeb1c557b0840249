"""Runs of pre-training: exact under kills and signals, careful with what is in the folder, and learning."""

import contextlib
import fcntl
import hashlib
import json
import os
import pty
import random
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import small_store

from polyseme.checkpoints.loading import load
from polyseme.errors import CheckpointError, DataError, PolysemeError, SettingsError
from polyseme.models.batch import Batch
from polyseme.text.store import Store
from polyseme.training.building import build_objective, model_config
from polyseme.training.journal import journal_line, read_journal
from polyseme.training.loader import Loader, Position, ahead, split_documents
from polyseme.training.pretraining import pretrain
from polyseme.training.recipes import changed, read_recipe

SMALL = (
    "training.batch_size=4",
    "training.length=48",
    "training.held_out=0.05",
    "sizes.tiny.num_layers=1",
    "sizes.tiny.hidden_size=32",
    "sizes.tiny.num_heads=2",
    "sizes.tiny.intermediate_size=64",
)


FAST = ("training.learning_rate=1e-2", "training.matrix_learning_rate=1e-2")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("pretraining"), documents=120)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def options(store: Store, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "recipe": "modernbert-wwm",
        "store": str(store.folder),
        "out": str(out),
        "size": "tiny",
        "threads": 1,
        "steps": 24,
        "change": list(SMALL),
        **more,
    }


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


class Runs:
    """Forks runs in another process and kills them at will."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("pretraining_runs.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, order: dict[str, Any]) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def kill(self, child: int, number: signal.Signals) -> int:
        """Send the signal, unless the run has ended before; its exit code, negative for a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        return self.end()

    def end(self) -> int:
        return int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    started = Runs()
    yield started
    assert started.process.stdin is not None
    started.process.stdin.close()
    started.process.wait()


@pytest.mark.parametrize("recipe", ["modernbert-wwm", "bert"])  # with Muon, and with dropout
def test_a_run_killed_at_twenty_moments_ends_with_the_same_weights(
    store: Store, runs: Runs, tmp_path: Path, recipe: str
) -> None:
    order = {"recipe": recipe, "save_steps": 1 if recipe == "bert" else 2}
    begin = time.monotonic()
    runs.start(options(store, tmp_path / "whole", **order))
    assert runs.end() == 0
    seconds = time.monotonic() - begin

    moments = random.Random(0)
    kills = 0
    while kills < (20 if recipe == "modernbert-wwm" else 5):
        child = runs.start(options(store, tmp_path / "killed", **order))
        time.sleep(moments.uniform(0.05, 0.9) * seconds)
        if runs.kill(child, signal.SIGKILL) == 0:  # ended before: another run begins
            assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
            (tmp_path / "killed").rename(tmp_path / f"ended-{kills}")
        kills += 1
    runs.start(options(store, tmp_path / "killed", **order))
    assert runs.end() == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_call_goes_on(
    store: Store, runs: Runs, tmp_path: Path, number: signal.Signals
) -> None:
    child = runs.start(options(store, tmp_path / "run", steps=200))
    deadline = time.monotonic() + 60
    while not read_journal(tmp_path / "run" / "journal.jsonl"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert runs.kill(child, number) == 0
    (state,) = (tmp_path / "run" / "state").iterdir()
    assert 0 < int(state.name.removeprefix("step-")) < 150
    load(tmp_path / "run", heads=["masked-lm"])  # what was reached is a model already
    runs.start(options(store, tmp_path / "run", steps=200))
    assert runs.end() == 0
    runs.start(options(store, tmp_path / "whole", steps=200))
    assert runs.end() == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_ctrl_c_in_a_terminal_saves_and_leaves_the_terminal_as_it_was(store: Store, tmp_path: Path) -> None:
    words = options(store, tmp_path / "run", steps=5_000)
    command = ["pretrain", words["recipe"], words["store"], "--out", words["out"], "--size", "tiny"]
    command += ["--threads", "1", "--steps", "5000", "--change", *SMALL]
    ours, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "polyseme", *command],
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # else Ctrl-C is only a character
    )
    os.close(child)
    shown, pressed, deadline = b"", False, time.monotonic() + 120
    while select.select([ours], [], [], deadline - time.monotonic())[0]:
        try:
            shown += os.read(ours, 1 << 16)
        except OSError:  # the other side is closed
            break
        if not pressed and len(read_journal(tmp_path / "run" / "journal.jsonl")) > 0:
            os.write(ours, b"\x03")
            pressed = True
    os.close(ours)
    assert process.wait(timeout=10) == 0, shown.decode()
    told = shown.decode()
    assert "stopped and saved at step" in told
    assert "stopped, the same command goes on" in told
    assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l"), "the cursor is there again"
    (state,) = (tmp_path / "run" / "state").iterdir()
    assert 0 < int(state.name.removeprefix("step-")) < 5_000


def objective_of(store: Store) -> tuple[Loader, Any]:
    recipe = changed(read_recipe("modernbert-wwm"), SMALL)
    objective = build_objective(recipe, model_config(recipe, "tiny", store), store)
    documents, _ = split_documents(store, held_out=0.05, most_tokens=2_000)
    return Loader(store, objective.corruption, documents, 48, 4, seed=3), objective


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.input_ids, other.input_ids) and torch.equal(one.labels, other.labels)  # type: ignore[arg-type]


def test_a_resume_is_a_seek_to_the_batch_that_would_have_come(store: Store) -> None:
    loader, _ = objective_of(store)
    stream = loader.batches(Position(), lambda drawn: drawn / 1_000)
    walked = [next(stream) for _ in range(300)]
    assert walked[-1][1].epoch >= 2
    for number in range(0, 299, 23):
        position = walked[number][1]
        batch, after = next(loader.batches(position, lambda _, n=number: (n + 1) / 1_000))  # type: ignore[misc]
        assert same(batch, walked[number + 1][0])
        assert after == walked[number + 1][1]


def test_what_is_prepared_ahead_is_the_same(store: Store) -> None:
    loader, _ = objective_of(store)
    plain = loader.batches(Position(), lambda drawn: 0.0)
    early = ahead(loader.batches(Position(), lambda drawn: 0.0))
    for _ in range(50):
        assert same(next(plain)[0], next(early)[0])
    early.close()


def test_held_out_documents_are_never_trained_on(store: Store) -> None:
    train_on, kept = split_documents(store, held_out=0.05, most_tokens=2_000)
    assert len(kept)
    assert not set(train_on) & set(kept)


def test_copies_of_held_out_documents_are_not_trained_on_either_and_nothing_else_is_lost(
    tmp_path: Path,
) -> None:
    tripled = small_store(tmp_path, documents=40, vocab_size=150, copies=3)
    train_on, kept = split_documents(tripled, held_out=0.1, most_tokens=2_000)
    starts = tripled.document_starts
    texts = [
        tripled.gather(starts[[number]], starts[[number + 1]])[0].tobytes()
        for number in range(tripled.num_documents)
    ]
    held = {texts[number] for number in kept}
    left = set(range(len(texts))) - set(train_on) - set(kept)
    assert held
    assert left
    assert not held & {texts[number] for number in train_on}
    assert {texts[number] for number in left} <= held


def test_a_store_of_one_document_is_enough_for_packed_rows_and_too_little_for_pairs(tmp_path: Path) -> None:
    single = small_store(tmp_path, documents=1, vocab_size=150)
    assert [len(part) for part in split_documents(single, held_out=0.05, most_tokens=100)] == [1, 0]
    outcome = pretrain(**options(single, tmp_path / "run", steps=2))
    assert (outcome.finished, outcome.losses) == (True, {})
    with pytest.raises(DataError, match="need at least 2 documents to draw from, and there is 1; separate"):
        pretrain(**options(single, tmp_path / "pairs", recipe="bert", steps=2))


def test_the_loss_falls_and_the_run_says_where_word_frequencies_are(store: Store, tmp_path: Path) -> None:
    change = [*SMALL, *FAST, "training.warmup=10", "training.batch_size=16", "sizes.tiny.hidden_size=64"]
    outcome = pretrain(**options(store, tmp_path / "run", steps=300, change=change))
    assert outcome.finished
    assert outcome.unigram is not None
    assert outcome.losses["masked-lm"] < outcome.unigram - 0.5
    lines = read_journal(tmp_path / "run" / "journal.jsonl")
    assert {line["kind"] for line in lines} == {"train", "held-out"}
    assert (tmp_path / "run" / "curves.svg").read_text().startswith("<?xml")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(store: Store, tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        pretrain(**options(store, tmp_path / name, steps=3, seed=seed))
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert weights(tmp_path / "one") != weights(tmp_path / "other")


def test_going_on_from_a_model_begins_with_its_weights(store: Store, tmp_path: Path) -> None:
    pretrain(**options(store, tmp_path / "first", steps=30))
    change = [*SMALL, "training.learning_rate=1e-12", "training.matrix_learning_rate=1e-12"]
    pretrain(
        **options(store, tmp_path / "second", steps=1, from_model=str(tmp_path / "first"), change=change)
    )
    first, second = (load(tmp_path / name, heads=["masked-lm"]) for name in ("first", "second"))
    for (name, one), (_, two) in zip(
        first.backbone.state_dict().items(), second.backbone.state_dict().items(), strict=True
    ):
        assert torch.allclose(one, two, atol=1e-6), name
    assert torch.allclose(
        first.heads["masked-lm"].bias,
        second.heads["masked-lm"].bias,
        atol=1e-6,  # type: ignore[arg-type]
    )


def test_another_vocabulary_is_refused(store: Store, tmp_path: Path) -> None:
    pretrain(**options(store, tmp_path / "first", steps=1))
    (tmp_path / "other").mkdir()
    other = small_store(tmp_path / "other", vocab_size=300)
    with pytest.raises(
        SettingsError, match="different vocabularies; prepare the text again with --tokenizer"
    ):
        pretrain(**options(other, tmp_path / "second", from_model=str(tmp_path / "first")))


def test_a_finished_run_is_left_alone_and_another_one_does_not_overwrite_it(
    store: Store, tmp_path: Path
) -> None:
    first = pretrain(**options(store, tmp_path / "run", steps=3))
    before = weights(tmp_path / "run")
    again = pretrain(**options(store, tmp_path / "run", steps=3))
    assert (again.finished, again.losses) == (True, first.losses)
    with pytest.raises(SettingsError, match=r"started with another steps \(3 then, 5 now\)"):
        pretrain(**options(store, tmp_path / "run", steps=5))
    with pytest.raises(SettingsError, match=r"started with another seed \(0 then, 1 now\)"):
        pretrain(**options(store, tmp_path / "run", steps=3, seed=1))
    assert weights(tmp_path / "run") == before


def test_a_damaged_state_is_said_and_not_used(store: Store, tmp_path: Path) -> None:
    pretrain(**options(store, tmp_path / "run", steps=3))
    (state,) = (tmp_path / "run" / "state").iterdir()
    content = bytearray((state / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (state / "weights.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="step-00000003 is damaged"):
        pretrain(**options(store, tmp_path / "run", steps=3))


@pytest.mark.parametrize("kept", [0, 1], ids=["none", "an older one"])
def test_a_run_killed_before_its_last_held_out_loss_was_written_evaluates_again(
    store: Store, tmp_path: Path, kept: int
) -> None:
    more = {"steps": 2, "save_steps": 1}
    pretrain(**options(store, tmp_path / "m", **more | {"steps": 1}))  # the loss of another step
    older = [line for line in read_journal(tmp_path / "m" / "journal.jsonl") if line["kind"] == "held-out"]
    whole = pretrain(**options(store, tmp_path / "n", **more))
    journal = tmp_path / "n" / "journal.jsonl"
    lines = [line for line in read_journal(journal) if line["kind"] != "held-out"] + older[:kept]
    journal.write_bytes(b"".join(map(journal_line, lines)))
    (tmp_path / "n" / "polyseme.json").unlink()
    again = pretrain(**options(store, tmp_path / "n", **more))
    assert (again.losses, again.measures, again.unigram) == (whole.losses, whole.measures, whole.unigram)
    last = read_journal(journal)[-1]
    assert (last["kind"], last["step"], last["parts"]) == ("held-out", 2, whole.losses)


def test_states_that_a_killed_process_did_not_remove_go_when_the_run_is_finished_again(
    store: Store, tmp_path: Path
) -> None:
    more = {"steps": 2, "save_steps": 1}
    pretrain(**options(store, tmp_path / "m", **more))
    states = tmp_path / "m" / "state"
    for name in ("step-00000001", ".step-00000002.part"):
        shutil.copytree(states / "step-00000002", states / name)
    pretrain(**options(store, tmp_path / "m", **more))
    assert [path.name for path in states.iterdir()] == ["step-00000002"]


def test_two_runs_do_not_share_a_folder(store: Store, runs: Runs, tmp_path: Path) -> None:
    child = runs.start(options(store, tmp_path / "run", steps=100_000))
    while not (tmp_path / "run" / "journal.jsonl").exists():
        time.sleep(0.01)
    with pytest.raises(PolysemeError, match="another process is training in"):
        pretrain(**options(store, tmp_path / "run", steps=100_000))
    assert runs.kill(child, signal.SIGKILL) == -signal.SIGKILL


def test_minutes_end_the_run_in_about_that_time(store: Store, tmp_path: Path) -> None:
    words = options(store, tmp_path / "run", minutes=0.05)
    del words["steps"]
    outcome = pretrain(**words)
    assert outcome.finished
    assert outcome.steps > 3
    rates = [
        line["rate"] for line in read_journal(tmp_path / "run" / "journal.jsonl") if line["kind"] == "train"
    ]
    assert rates[-1] < 0.2, "the cooldown came to its end"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"recipe": "modernbert-wmw"}, r"no recipe 'modernbert-wmw' \(did you mean 'modernbert-wwm'\?\)"),
        ({"size": "minni"}, r"no size 'minni' \(did you mean 'mini'\?\)"),
        ({"minutes": 1.0}, "steps and minutes exclude each other"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"change": ["training.lenght=3"]}, r"lenght is not a setting here \(did you mean 'length'\?\)"),
        ({"change": ["objectives.0.name=masked"]}, r"no objective 'masked' \(did you mean 'masked-lm'\?\)"),
        ({"change": ["objectives.0.rat=1"]}, r"rat is not a setting here \(did you mean 'rate'\?\)"),
        ({"change": ["training"]}, "a change is written place=value"),
        ({"change": ["training.length=4096"]}, "training.length is 4096, but the model has 512 positions"),
        ({"store": "nowhere"}, "nowhere is not a token store"),
    ],
)
def test_wrong_words_are_one_clear_line(
    store: Store, tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(PolysemeError, match=message) as caught:
        pretrain(**(options(store, tmp_path / "run") | words))
    assert "\n" not in str(caught.value)


def test_accumulated_gradients_are_those_of_the_larger_batch(store: Store) -> None:
    rates = []
    for accumulation, size in ((1, 8), (2, 4)):
        change = [*SMALL, f"training.accumulation={accumulation}", f"training.batch_size={size}"]
        recipe = changed(read_recipe("modernbert-wwm"), change)
        loader = Loader(
            store,
            build_objective(recipe, model_config(recipe, "tiny", store), store).corruption,
            np.arange(store.num_documents),
            48,
            size,
            seed=0,
        )
        stream = loader.batches(Position(), lambda _: 0.0)
        rates.append(torch.cat([next(stream)[0].input_ids for _ in range(accumulation)]))
    assert torch.equal(rates[0], rates[1])
