"""Runs, fine-tunings, stores and jobs with a damaged file: one line, or the right result."""

import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import small_store
from safetensors.torch import save_file
from torch import nn

from polyseme.checkpoints.cards import how_made
from polyseme.embedding.files import packing_of
from polyseme.embedding.jobs import _encoded, _Line, resumed
from polyseme.errors import CheckpointError, PolysemeError, SettingsError
from polyseme.inspection.verifying import verify
from polyseme.integrity import write_checked
from polyseme.models.transformer.building import build
from polyseme.models.transformer.config import TransformerConfig
from polyseme.tasks.finetuning import scores_of
from polyseme.tasks.partial import Partial, check_command
from polyseme.tasks.runs import Run
from polyseme.text.store import Store
from polyseme.training.building import model_config
from polyseme.training.journal import Journal, journal_line, read_journal, read_reports
from polyseme.training.loop import LossError
from polyseme.training.memory_check import check_memory, least_parameters
from polyseme.training.optimizers import Optimizers, build_optimizers
from polyseme.training.recipes import changed, read_recipe
from polyseme.training.settings import TrainingSettings
from polyseme.training.state import Progress, load_state, newest_state, save_state

VALUES = (
    *("null", "true", "-1", "0", "9" * 5_000, "1e308", "-9223372036854775809", "18446744073709551615", '"x"'),
    *('"../../etc/passwd"', '"\\u0000"', '"\\ud800"', "[]", "{}", "[[[]]]", "1.5", "[" * 20_000, "NaN"),
)
WHOLE = (b"", b"null", b"[]", b"{}", b"0", b'"x"', b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000)
_VALUE = re.compile(r'(?<=:)\s*("(?:[^"\\]|\\.)*"|-?[0-9.eE+-]+|true|false|null|\[[^\[\]{}]*\]|\{[^{}]*\})')


def damaged(content: bytes) -> Iterator[bytes]:
    """The content with values replaced by some others, each key renamed, cut off, and replaced as a whole."""
    text = content.decode()
    for number, value in enumerate(_VALUE.finditer(text)):
        for other in VALUES[number % 3 :: 3]:
            yield (text[: value.start()] + other + text[value.end() :]).encode()
    for key in re.finditer(r'"(\w+)":', text):
        yield (text[: key.start(1)] + "x" + text[key.end(1) :]).encode()
    yield from (content[:size] for size in range(0, len(content), max(1, len(content) // 8)))
    yield from WHOLE


def each_is_refused_or_right(path: Path, read: Callable[[], Any]) -> int:
    """Read with every damage of the file; the number of the damages that were refused."""
    content, messages = path.read_bytes(), []
    for other in damaged(content):
        path.write_bytes(other)
        try:
            read()
        except PolysemeError as error:
            messages.append(str(error))
    path.write_bytes(content)
    read()
    assert not any("\n" in message or len(message) > 8_000 for message in messages)
    return len(messages)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("damaged"), documents=20)


def test_a_manifest_with_any_value_damaged_opens_to_the_same_tokens_or_is_refused(store: Store) -> None:
    tokenizer = store.tokenizer
    sound = store.gather(store.document_starts[:-1], store.document_starts[1:])

    def read() -> None:
        opened = Store.open(store.folder)
        opened.__dict__["tokenizer"] = tokenizer
        ids, marks = opened.gather(opened.document_starts[:-1], opened.document_starts[1:])
        assert np.array_equal(ids, sound[0])
        assert np.array_equal(marks, sound[1])
        assert len(opened.sentence_starts) == opened.num_sentences + 1
        assert len(opened.counts) == opened.vocab_size

    assert each_is_refused_or_right(store.folder / "manifest.json", read) > 66


def test_a_damaged_manifest_is_accepted_or_refused_in_one_line(store: Store, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(store.folder, tmp_path / "store"))
    path = folder / "manifest.json"
    assert each_is_refused_or_right(path, lambda: verify(folder, accept=True)) > len(WHOLE) // 2


def test_a_damaged_record_is_accepted_or_refused_in_one_line(tmp_path: Path) -> None:
    write_checked(tmp_path / "run.json", b'{"recipe": {"name": "a"}, "steps": 3, "rate": 0.5, "files": {}}\n')
    write_checked(tmp_path / "polyseme.json", b'{"format_version": 1, "made": {"steps": 3}, "files": {}}\n')
    (tmp_path / "journal.jsonl").write_bytes(journal_line({"kind": "train", "step": 1, "parts": {"a": 1.5}}))
    for path in sorted(tmp_path.iterdir()):
        assert each_is_refused_or_right(path, lambda: verify(tmp_path, accept=True)) > len(WHOLE) // 2


def test_files_of_other_sizes_are_not_accepted_as_a_store(store: Store, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(store.folder, tmp_path / "store"))
    for name in ("ids-00000.bin", "marks-00000.bin", "document_starts.bin", "counts.bin"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-2])
        with pytest.raises(CheckpointError, match=name):
            verify(folder, accept=True)
        (folder / name).write_bytes(content)
    (folder / "marks-00000.bin").unlink()
    with pytest.raises(CheckpointError, match=r"marks-00000\.bin is missing"):
        verify(folder, accept=True)


@pytest.mark.parametrize("name", ["document_starts", "sentence_starts"])
def test_an_index_file_whose_numbers_fall_or_leave_the_store_is_refused(store: Store, name: str) -> None:
    path = store.folder / f"{name}.bin"
    content = path.read_bytes()
    numbers = np.frombuffer(content, dtype="<i8")
    try:
        for place in (0, 1, len(numbers) // 2, -1):
            for value in (-1, 1 << 40, -(1 << 63), store.num_tokens + 1, numbers[place - 2] - 1):
                changed_numbers = numbers.copy()
                changed_numbers[place] = value
                path.write_bytes(changed_numbers.tobytes())
                with pytest.raises(CheckpointError, match=rf"{name}.bin has changed since it was written"):
                    getattr(Store.open(store.folder), name)
                with pytest.raises(
                    CheckpointError, match=rf"{name}.bin does not fit to the tokens of the store"
                ):
                    getattr(Store.open(store.folder, verify=False), name)
    finally:
        path.write_bytes(content)


def test_token_ids_beyond_the_vocabulary_and_counts_that_do_not_add_up_are_refused(store: Store) -> None:
    def read(opened: Store) -> None:
        opened.gather(np.array([0]), np.array([8]))
        assert len(opened.counts)

    for name, value, said in (
        ("ids-00000.bin", b"\xff\xff", "holds a token id of 65535, and its vocabulary has"),
        ("counts.bin", b"\xff" * 8, "does not fit to the tokens of the store"),
        ("counts.bin", b"\x01" + b"\0" * 7, "does not fit to the tokens of the store"),
    ):
        path = store.folder / name
        content = path.read_bytes()
        path.write_bytes(value + content[len(value) :])
        try:
            with pytest.raises(CheckpointError, match=said):
                read(Store.open(store.folder, verify=False))
        finally:
            path.write_bytes(content)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 2)


def saved(folder: Path) -> tuple[Net, Optimizers, Path]:
    net = Net()
    optimizers = build_optimizers(net, TrainingSettings())
    progress = Progress(
        step=7, epoch=1, batch=2, tokens=30, seconds=1.5, total_steps=9, settled=True, environment={"a": 1}
    )
    save_state(folder, net, optimizers, progress)
    return net, optimizers, folder / "step-00000007"


def test_a_state_with_any_value_damaged_is_read_or_refused(tmp_path: Path) -> None:
    net, optimizers, state = saved(tmp_path)

    def read() -> None:
        found = newest_state(tmp_path)
        assert found is not None
        assert load_state(found, net, optimizers).step == 7

    assert each_is_refused_or_right(state / "state.json", read) > 33


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    _, optimizers, state = saved(tmp_path)
    with pytest.raises(CheckpointError, match="step-00000007 is no state of this run"):
        load_state(state, nn.Linear(3, 2), optimizers)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_and_averages_that_are_not_finite_are_never_saved(tmp_path: Path, value: float) -> None:
    net, optimizers, state = saved(tmp_path)
    later = Progress(
        step=8, epoch=1, batch=3, tokens=40, seconds=2, total_steps=9, settled=True, environment={"a": 1}
    )
    net.dense.bias.data[1] = value
    with pytest.raises(
        LossError, match=f"after step 8, dense.bias holds {value}, so this state is not saved"
    ):
        save_state(tmp_path, net, optimizers, later)
    assert newest_state(tmp_path) == state
    net.dense.bias.data[1] = 0
    net.dense.weight.grad = torch.full((2, 3), 1e25)  # finite, and its square is not
    optimizers.step(factor=1.0)
    with pytest.raises(LossError, match=r"after step 8, .* holds inf, so this state is not saved"):
        save_state(tmp_path, net, optimizers, later)
    assert newest_state(tmp_path) == state


def test_a_journal_with_damaged_lines_gives_the_others(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    good = {"kind": "train", "step": 2, "parts": {"masked-lm": 7.3}, "rate": 0.5}
    for other in damaged(journal_line({**good, "step": 1})[:-1]):
        if b"\n" not in other:
            path.write_bytes(other + b"\n" + journal_line(good))
            assert read_reports(path)[-1].step == 2
            Journal(path, step=2).close()
            assert read_journal(path)[-1] == good
            Journal(path, step=1).close()
            assert good not in read_journal(path)


def test_the_result_of_a_seed_with_any_value_damaged_is_read_or_refused(tmp_path: Path) -> None:
    place = Partial(tmp_path)
    run = Run(
        seed=1,
        tensors={"head.weight": torch.ones(2)},
        dev={"accuracy": 0.5, "f1": 0.25},
        test={},
        epochs=[{"seed": 1, "epoch": 1, "loss": 0.5, "dev": {"accuracy": 0.5}}],
        tokens=90,
        seconds=1.5,
        outputs=[np.ones((1, 2), dtype=np.float32)],
    )
    place.write("seed-1", run)

    def read() -> None:
        found = place.read("seed-1", seed=1, metric="accuracy", like=None)
        assert found is not None
        assert isinstance(found.dev["accuracy"], float)

    assert each_is_refused_or_right(tmp_path / "seed-1.json", read) > 26
    for name in ("seed-1.safetensors", "seed-1-outputs.safetensors"):
        content = (tmp_path / name).read_bytes()
        for other in (b"", content[:40], b"\xff" * 8 + content[8:], content[:-3]):
            (tmp_path / name).write_bytes(other)
            with pytest.raises(CheckpointError, match=r"seed-1.*\.safetensors is damaged; remove the folder"):
                read()
        (tmp_path / name).write_bytes(content)
    save_file({"x.tokens": torch.ones(1)}, tmp_path / "seed-1-outputs.safetensors")
    with pytest.raises(CheckpointError, match=r"seed-1-outputs\.safetensors is damaged; remove the folder"):
        read()


def test_the_command_of_a_fine_tuning_with_any_value_damaged_is_read_or_refused(tmp_path: Path) -> None:
    words = {"way": "full", "epochs": 2, "seeds": [1], "clip": None, "rates.warmup": 0.1, "model": "0a1b"}
    check_command(Partial(tmp_path), words)
    refused = each_is_refused_or_right(
        tmp_path / "command.json", lambda: check_command(Partial(tmp_path), words)
    )
    assert refused > 25


def test_a_job_of_vectors_with_any_value_damaged_is_none_or_refused(tmp_path: Path) -> None:
    how = {"text": "0a", "model": "1b", "dimensions": 2, "output_precision": "int8", "block": [4096, 524288]}
    about = {"how": how, "ranges": [[0.0, 0.0], [1.0, 1.0]], "environment": {"torch": "2"}}
    write_checked(tmp_path / "job.json", json.dumps(about).encode())
    line = _encoded(_Line(rows=2, length=4, crc=zlib.crc32(b"\0" * 4)))
    (tmp_path / "journal").write_bytes(line)

    class Format:
        def head(self, rows: int) -> bytes:
            return b""

    def read() -> None:
        (tmp_path / "vectors").write_bytes(b"\0" * 4)
        job = resumed(tmp_path / "v.npy", tmp_path, lambda packing, how: Format(), how)  # type: ignore[arg-type, return-value]
        assert job is None or job.rows in (0, 2)

    each_is_refused_or_right(tmp_path / "job.json", read)
    for other in damaged(line[9:-1]):
        for checksum in (line[:9], f"{zlib.crc32(other):08x} ".encode()):
            (tmp_path / "journal").write_bytes(checksum + other + b"\n")
            read()


@pytest.mark.parametrize(
    "how",
    [
        {"dimensions": 2},
        {"dimensions": 2, "output_precision": "int8"},
        {"dimensions": 2, "output_precision": "int8", "ranges": [[1.0], [2.0]]},
        {"dimensions": 1 << 40, "output_precision": "fp32"},
        {"dimensions": "2", "output_precision": "fp32"},
    ],
)
def test_what_a_file_of_vectors_says_of_itself_is_checked(how: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"^v\.npy"):
        packing_of(how, where="v.npy")


def test_a_network_that_no_machine_holds_is_refused_with_its_size(store: Store) -> None:
    for change in ("num_layers=1000000000", "hidden_size=1073741824", "intermediate_size=2000000000"):
        recipe = changed(read_recipe("modernbert-wwm"), [f"sizes.tiny.{change}"])
        with pytest.raises(
            SettingsError, match=r"make about .* parameters, whose training takes .* GB, and this"
        ):
            check_memory(model_config(recipe, "tiny", store))
    with pytest.raises(SettingsError, match=r"num_layers must be below 2\^31"):
        model_config(changed(read_recipe("bert"), ["sizes.tiny.num_layers=9999999999"]), "tiny", store)


def test_the_estimate_of_parameters_is_close_below_those_that_are_built() -> None:
    for gated in (False, True):
        config = TransformerConfig(vocab_size=200, hidden_size=64, num_layers=3, num_heads=4, gated=gated)
        built = sum(parameter.numel() for parameter in build(config).parameters())
        assert 0.9 * built < least_parameters(config) <= built


def test_results_of_seeds_with_different_scores_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"the results of the seeds have different scores"):
        scores_of([{"accuracy": 0.5, "x": 0.1}, {"accuracy": 0.5, "f1": 0.1}])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", {}),
        ("task_settings", 3),
        ("inventory", []),
        ("reading", "x"),
        ("max_length", 0),
        ("max_length", "9"),
    ],
)
def test_a_folder_whose_fine_tuning_is_said_with_another_type_is_refused(
    tmp_path: Path, key: str, value: Any
) -> None:
    made = {"task": "tagging", "task_settings": {}, "inventory": {}, "reading": {}, "max_length": None}
    (tmp_path / "polyseme.json").write_text(json.dumps({"family": "bert", "made": {**made, key: value}}))
    with pytest.raises(CheckpointError, match=rf"of how the model was made is damaged: .*\$\.{key}"):
        how_made(tmp_path)
