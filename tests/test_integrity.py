"""Whatever byte of whatever file of ours changes: it is noticed when it is read, or by `verify` at last."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from corpora import small_store, write_text
from embed_runs import some_lines, write_lines
from foreign_models import foreign_folder
from small_models import small_model
from test_finetuning import reviews
from test_two_networks import die_behind_call
from test_two_networks import options as electra_options

from polyseme.checkpoints.convert import convert
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.saving import save
from polyseme.cli import main
from polyseme.embedding import embedding
from polyseme.embedding.embedding import embed
from polyseme.embedding.jobs import Job
from polyseme.errors import CheckpointError, DataError, PolysemeError, PolysemeWarning
from polyseme.files import write_whole
from polyseme.inspection.verifying import verify
from polyseme.integrity import (
    RECORD,
    accept_folder,
    read_checked,
    with_checksum,
    without_checksum,
    write_checked,
)
from polyseme.tasks.finetuning import finetune
from polyseme.text.preparing import prepare
from polyseme.text.store import Store
from polyseme.text.tokenizer import Tokenizer
from polyseme.text.tokenizer_learning import learn_tokenizer
from polyseme.training.journal import read_journal
from polyseme.training.pretraining import pretrain
from polyseme.training.state import newest_state

FLIPS = 12
"""Random bits of each file that are flipped, beside the first and the last byte's."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind of folder that we write."""
    place = tmp_path_factory.mktemp("integrity")
    threads = torch.get_num_threads()
    small_model(place, "bert", num_layers=1)
    small_model(place / "st", "bert", num_layers=1, pooling="mean", normalize=True, prompt="query: ")
    convert(foreign_folder(place / "plain", "T5ForConditionalGeneration"), place / "t5")
    convert(place / "bert", place / "tensorflow", to="tensorflow")
    store = small_store(place, documents=40)
    learn_tokenizer([place / "text.txt"], out=place / "tokenizer", vocab_size=200)
    pretrain(**electra_options(store, place / "electra", steps=2, save_steps=1))
    reviews(place / "train.tsv", 16, seed=0)
    words = {"train": place / "train.tsv", "dev": place / "train.tsv", "model": place / "bert", "threads": 1}
    finetune("classification", **words, out=place / "classifier", epochs=1, folds=2)
    stopped(
        place / "stopped", lambda: finetune("classification", **words, out=place / "stopped", seeds=(1, 2))
    )
    stopped_embedding(place)
    torch.set_num_threads(threads)
    return place


def stopped(out: Path, work: Callable[[], Any]) -> None:
    """A fine-tuning that is stopped when its first run is done, with a state of the second."""
    import polyseme.tasks.finetuning as module

    original = module.run

    def run(shared: Any, seed: int, data: Any, **options: Any) -> Any:
        done = original(shared, seed, data, **options)
        if seed == 2:
            raise KeyboardInterrupt
        return done

    module.run = run
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        module.run = original
    assert (out.with_name("stopped.partial") / "seed-1.json").exists()


def stopped_embedding(place: Path) -> None:
    write_lines(place / "lines.txt", some_lines(200))
    original, size = Job.finish, embedding._TEXTS

    def finish(job: Job) -> int:
        raise KeyboardInterrupt

    Job.finish, embedding._TEXTS = finish, 64  # type: ignore[method-assign]
    try:
        with pytest.raises(KeyboardInterrupt):
            embed(place / "lines.txt", model=place / "st" / "bert", out=place / "v.npy", threads=1)
    finally:
        Job.finish, embedding._TEXTS = original, size  # type: ignore[method-assign]


KINDS = (
    "bert",
    "st/bert",
    "t5",
    "tensorflow",
    "electra",
    "classifier",
    "tokenizer",
    "store",
    "stopped.partial",
    ".v.npy.embedding",
)


def files_of(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock" and p.stat().st_size]


def flips(path: Path) -> Iterator[None]:
    """The file with one bit after the other flipped; as it was at the end."""
    content = path.read_bytes()
    rng = np.random.default_rng(len(content))
    places = {0, len(content) - 1, *rng.integers(0, len(content), FLIPS).tolist()}
    try:
        for place in sorted(places):
            bit = 1 << int(rng.integers(8))
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            yield
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("kind", KINDS)
def test_verify_notices_a_flipped_bit_in_every_file(folder: Path, kind: str) -> None:
    found = verify(folder / kind)
    assert found.damaged == {}
    assert found.unlisted == ()
    assert found.files == len(files_of(folder / kind))
    unnoticed = []
    for path in files_of(folder / kind):
        for _ in flips(path):
            damaged = verify(folder / kind).damaged
            if not damaged:
                unnoticed.append(path.name)
    assert unnoticed == []
    assert verify(folder / kind).damaged == {}


MODELS: dict[str, Callable[[Path], object]] = {
    "bert": load,
    "st/bert": load,
    "t5": lambda path: load(path, heads=["seq2seq-lm"]),
    "tensorflow": load,
    "electra": lambda path: (load(path), load(path / "generator")),
    "classifier": load,
    "tokenizer": Tokenizer.load,
}
UNREAD = ("journal.jsonl", "run.json", "state.json", "weights.safetensors", "optimizers.safetensors")


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_with_a_changed_byte_is_refused_by_the_files_name(folder: Path, kind: str) -> None:
    for path in files_of(folder / kind):
        if kind == "electra" and path.name in UNREAD:
            continue
        for _ in flips(path):
            with pytest.raises(CheckpointError, match=path.name):
                MODELS[kind](folder / kind)
    MODELS[kind](folder / kind)


def test_a_changed_byte_of_a_store_is_noticed_when_it_is_first_read(folder: Path) -> None:
    def read_all() -> None:
        store = Store.open(folder / "store")
        assert len(store.document_starts) + len(store.sentence_starts) + len(store.counts)
        assert store.tokenizer.vocab_size
        half = np.array([0, store.num_tokens // 2]), np.array([store.num_tokens // 2, store.num_tokens])
        store.gather(*half)

    for path in files_of(folder / "store"):
        if path.name == "origin.json":
            continue
        for _ in flips(path):
            with pytest.raises(CheckpointError, match=path.name):
                read_all()
    read_all()


def test_each_block_of_a_store_is_compared_when_it_is_first_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 100 tokens in shards of 250: a damaged one is noticed by whoever reads it, and only then."""
    for module in ("store", "store_writing"):
        monkeypatch.setattr(f"polyseme.text.{module}.BLOCK", 100)
    store = prepare(
        [folder / "text.txt"], tokenizer=folder / "tokenizer", out=tmp_path / "s", shard_tokens=250
    )
    path = tmp_path / "s" / "ids-00002.bin"
    content = bytearray(path.read_bytes())
    content[2 * 170] ^= 4
    path.write_bytes(content)
    store = Store.open(tmp_path / "s")
    store.gather(np.array([0, 700, 130]), np.array([600, 750, 130]))
    for start, stop in ((599, 601), (680, 681), (600, 700), (0, store.num_tokens)):
        with pytest.raises(CheckpointError, match=r"ids-00002\.bin has changed since it was written"):
            store.gather(np.array([start]), np.array([stop]))
    Store.open(tmp_path / "s", verify=False).gather(np.array([600]), np.array([700]))


def test_a_changed_byte_of_a_state_is_noticed(folder: Path) -> None:
    state = newest_state(folder / "electra" / "state")
    assert state is not None
    for path in files_of(state):
        for _ in flips(path):
            with pytest.raises(CheckpointError, match="is damaged, and there is no other state"):
                newest_state(folder / "electra" / "state")


def test_a_run_with_a_changed_byte_does_not_go_on(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "electra", tmp_path / "run")
    store = Store.open(folder / "store")
    for _ in flips(tmp_path / "run" / "run.json"):
        with pytest.raises(
            CheckpointError, match=r"run\.json is damaged: its checksum is not that of its cont"
        ):
            pretrain(**electra_options(store, tmp_path / "run", steps=2, save_steps=1))


def test_a_damaged_line_of_a_journal_is_left_out_with_a_warning(folder: Path) -> None:
    journal = folder / "electra" / "journal.jsonl"
    whole = read_journal(journal)
    content = journal.read_bytes()
    for _ in flips(journal):
        with pytest.warns(PolysemeWarning, match=r"journal\.jsonl: line .* is damaged and left out"):
            assert len(read_journal(journal)) < len(whole)
    journal.write_bytes(content[:-5])
    assert read_journal(journal) == whole[:-1]
    journal.write_bytes(content)


def test_a_fine_tuning_does_not_go_on_from_a_changed_byte(folder: Path) -> None:
    words = {"train": folder / "train.tsv", "dev": folder / "train.tsv", "model": folder / "bert"}
    for name in ("command.json", "seed-1.json", "seed-1.safetensors"):
        for _ in flips(folder / "stopped.partial" / name):
            with pytest.raises(CheckpointError, match=name):
                finetune("classification", **words, threads=1, out=folder / "stopped", seeds=(1, 2))
            break  # the other bits are read by the same function


def test_an_embedding_goes_on_from_the_last_whole_block(folder: Path, tmp_path: Path) -> None:
    def again(name: str) -> bytes:
        shutil.copytree(folder / ".v.npy.embedding", tmp_path / f".{name}.embedding")
        return (tmp_path / f".{name}.embedding" / "vectors").read_bytes()

    size, embedding._TEXTS = embedding._TEXTS, 64
    words = {"model": folder / "st" / "bert", "threads": 1}
    try:
        again("whole.npy")
        embed(folder / "lines.txt", out=tmp_path / "whole.npy", **words)
        whole = (tmp_path / "whole.npy").read_bytes()
        for number, path in enumerate(files_of(folder / ".v.npy.embedding")):
            vectors = again(f"{number}.npy")
            damaged = tmp_path / f".{number}.npy.embedding" / path.name
            content = bytearray(damaged.read_bytes())
            content[200 if path.name == "vectors" else 9] ^= 1
            damaged.write_bytes(content)
            with pytest.warns(PolysemeWarning, match="is damaged"):
                embed(folder / "lines.txt", out=tmp_path / f"{number}.npy", **words)
            assert (tmp_path / f"{number}.npy").read_bytes() == whole
            assert len(vectors) == len(whole)
    finally:
        embedding._TEXTS = size


def test_missing_and_added_files_are_noticed_where_they_matter(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder / "st" / "bert", model)
    for name in ("vocab.txt", "1_Pooling/config.json", "model.safetensors"):
        (model / name).rename(tmp_path / "aside")
        with pytest.raises(CheckpointError, match=f"{name} is missing, but polyseme.json lists it"):
            load(model)
        assert list(verify(model).damaged) == [name]
        (tmp_path / "aside").rename(model / name)
    for name in ("added_tokens.json", "model.safetensors.index.json", "sentence_xlnet_config.json"):
        (model / name).write_text("{}")
        with pytest.raises(
            CheckpointError, match=rf"{name} would be read, but polyseme\.json does not list it"
        ):
            load(model)
        assert list(verify(model).damaged) == [name]
        (model / name).unlink()
    (model / "README.md").write_text("my notes")
    load(model)
    assert verify(model).unlisted == ("README.md",)


def test_an_intended_change_is_accepted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("st/bert", "electra", "store", "tokenizer"):
        shutil.copytree(folder / kind, tmp_path / kind)
    changes = {
        "st/bert/config_sentence_transformers.json": ('"query: "', '"passage: "'),
        "electra/generator/config.json": ("{", "{ "),
        "electra/run.json": ("{", "{ "),
        "electra/journal.jsonl": ('"kind"', ' "kind"'),
        "store/manifest.json": ("{", "{ "),
        "store/tokenizer/tokenizer_config.json": ("{", "{ "),
        "tokenizer/vocab.txt": ("的", "之的"),
    }
    for name, (old, new) in changes.items():
        path = tmp_path / name
        path.write_text(path.read_text("utf-8").replace(old, new, 1), "utf-8")
        kind = next(kind for kind in ("st/bert", "electra", "store", "tokenizer") if name.startswith(kind))
        capsys.readouterr()
        assert main(["verify", str(tmp_path / kind)]) == 2
        said = capsys.readouterr()
        assert name.removeprefix(f"{kind}/") in said.out
        assert "or accept an intended change with --accept" in said.err
        assert main(["verify", str(tmp_path / kind), "--accept"]) == 0
        assert "all as they were written" in capsys.readouterr().out
    assert load(tmp_path / "st" / "bert").card.prompt == "passage: "
    assert Store.open(tmp_path / "store", check=True).num_tokens
    assert [p.name for p in tmp_path.rglob("*.part")] == []


def test_folders_of_others_are_read_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = folder / "plain"
    path = next(foreign.rglob("config.json")).parent
    assert verify(path).files == 0
    assert main(["verify", str(path)]) == 0
    with pytest.raises(CheckpointError, match=r"there is no folder .*nowhere; name one of a model, a store"):
        verify(folder / "nowhere")
    assert "no checksums, since polyseme did not write it; nothing was compared" in capsys.readouterr().out


def test_a_folder_without_checksums_is_read_with_a_warning_until_it_gets_them(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "bert", tmp_path / "bert")
    record = tmp_path / "bert" / RECORD
    plain = msgspec.json.decode(record.read_bytes())
    record.write_text(json.dumps({name: v for name, v in plain.items() if name not in ("files", "checksum")}))
    with pytest.warns(PolysemeWarning, match="bert has no checksums, so damage to it would not be noticed"):
        load(tmp_path / "bert")
    assert verify(tmp_path / "bert", accept=True).damaged == {}
    load(tmp_path / "bert")


def test_checks_can_be_left_out(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder / "bert", tmp_path / "bert")
    path = tmp_path / "bert" / "special_tokens_map.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(CheckpointError, match=r"special_tokens_map\.json has changed"):
        load(tmp_path / "bert")
    load(tmp_path / "bert", verify=False)
    monkeypatch.setenv("POLYSEME_VERIFY", "0")
    load(tmp_path / "bert")


@pytest.mark.parametrize("content", [b'{"a":1e-05}', b'{\n  "a": [1, 2],\n  "b": "\xc3\xa9"\n}\n'])
def test_every_bit_of_a_record_counts(tmp_path: Path, content: bytes) -> None:
    write_checked(tmp_path / "record.json", content)
    written = (tmp_path / "record.json").read_bytes()
    assert msgspec.json.decode(read_checked(tmp_path / "record.json")) == msgspec.json.decode(content)
    assert written == with_checksum(content)
    for place in range(len(written)):
        for bit in range(8):
            changed = written[:place] + bytes([written[place] ^ 1 << bit]) + written[place + 1 :]
            with pytest.raises(CheckpointError, match=r"record\.json is damaged"):
                without_checksum(changed, where=Path("record.json"))


def test_a_record_cannot_name_files_outside_of_its_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "bert", tmp_path / "bert")
    plain = msgspec.json.decode(read_checked(tmp_path / "bert" / RECORD))
    for name in ("../secret", "/etc/passwd"):
        entry = {"bytes": 1, "sha256": "", "xxh3": ""}
        write_checked(tmp_path / "bert" / RECORD, json.dumps(plain | {"files": {name: entry}}).encode())
        with pytest.raises(CheckpointError, match="which lies outside of its folder"):
            load(tmp_path / "bert")


def test_what_was_just_done_is_done_already(folder: Path, tmp_path: Path) -> None:
    """A command that was killed when its result stood, and is given again, is no error; another one is."""
    text = write_text(tmp_path / "text.txt")

    def vocabulary(**more: Any) -> None:
        learn_tokenizer([text], out=tmp_path / "v", **{"vocab_size": 300, **more})

    def store(**more: Any) -> None:
        prepare([text], tokenizer=folder / "tokenizer", out=tmp_path / "s", **more)

    def converted(**more: Any) -> None:
        convert(folder / "bert", tmp_path / "c", **more)

    others = {
        vocabulary: {"vocab_size": 301},
        store: {"words": "characters"},
        converted: {"to": "tensorflow"},
    }
    for command, other in others.items():
        command()
        before = {path: (path.read_bytes(), path.stat().st_ino) for path in files_of(tmp_path)}
        command()
        assert {path: (path.read_bytes(), path.stat().st_ino) for path in files_of(tmp_path)} == before
        with pytest.raises(
            DataError, match="exists and is not empty; name another folder, or remove it first"
        ):
            command(**other)
    text.write_text(text.read_text("utf-8") + "又一句。\n", "utf-8")
    for command in (vocabulary, store):
        with pytest.raises(
            DataError, match="exists and is not empty; name another folder, or remove it first"
        ):
            command()


def test_saving_again_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    model = load(folder / "bert")
    save(model, tmp_path / "one")
    save(model, tmp_path / "two")
    for path in files_of(tmp_path / "one"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    accept_folder(tmp_path / "two")
    plain = [msgspec.json.decode((tmp_path / name / RECORD).read_bytes()) for name in ("one", "two")]
    assert plain[0]["files"] == plain[1]["files"]
    assert issubclass(CheckpointError, PolysemeError)
    assert os.listdir(tmp_path / "one")


def test_a_command_killed_anywhere_and_given_again_leaves_the_whole_result_and_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    """Killed behind a call that changes the disk; who reads in between finds all of the result or none."""
    model, other = load(folder / "bert"), load(folder / "st" / "bert")
    text = folder / "text.txt"

    def replaced(out: Path) -> None:
        if not out.exists() and not out.with_name(f".{out.name}.old").exists():
            save(other, out)
        save(model, out, replace=True)

    commands: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
        "save": (replaced, load),
        "convert": (lambda out: convert(folder / "bert", out), load),
        "learn": (lambda out: learn_tokenizer([text], out=out, vocab_size=150), Tokenizer.load),
        "prepare": (
            lambda out: prepare([text], tokenizer=folder / "tokenizer", out=out),
            lambda out: Store.open(out, check=True),
        ),
        "file": (lambda out: write_whole(out, b"content"), lambda out: out.read_bytes()),
    }
    for name, (command, read) in commands.items():
        whole = tmp_path / name / "whole"
        command(whole)
        for number in itertools.count(1, step=3 if name in ("save", "file") else 11):
            out = tmp_path / name / f"killed-{number}"
            child = os.fork()
            if child == 0:
                die_behind_call(number)
                command(out)
                os._exit(0)
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
                break
            if out.exists():
                read(out)
            command(out)
            read(out)
            assert [p.name for p in files_of(out)] == [p.name for p in files_of(whole)]
        assert number > 3
        left = [path.name for path in (tmp_path / name).rglob(".*")]
        assert left == [], name


def test_hashing_a_large_file_takes_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(256 << 20)
    code = (
        "import re, sys; from pathlib import Path; from polyseme.integrity import fast_hash\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = peak(); fast_hash(Path(sys.argv[1])); print(peak() - before)"
    )
    grown = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    ).stdout
    assert int(grown) < 64 << 10
