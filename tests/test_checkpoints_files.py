"""Weights are data: every kind of file is read as tensors; what is damaged, or more than data, is refused."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import foreign, foreign_folder
from safetensors.torch import load_file, save_file
from torch import Tensor

from polyseme.checkpoints.loading import load
from polyseme.errors import CheckpointError

pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return foreign_folder(tmp_path / "model", "BertForPreTraining")


def pickled(folder: Path, content: Any = None) -> Path:
    """The folder with pytorch_model.bin in place of safetensors."""
    weights = folder / "model.safetensors"
    torch.save(load_file(weights) if content is None else content, folder / "pytorch_model.bin")
    weights.unlink()
    return folder


def sharded(folder: Path) -> Path:
    """The folder with its weights in three shards and an index."""
    tensors = load_file(folder / "model.safetensors")
    places: dict[str, str] = {}
    for number in range(3):
        name = f"model-{number + 1:05}-of-00003.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[number::3]}
        save_file(part, folder / name)
        places |= dict.fromkeys(part, name)
    write_index(folder, places)
    (folder / "model.safetensors").unlink()
    return folder


def write_index(folder: Path, places: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def states_of(folder: Path) -> dict[str, Tensor]:
    model = load(folder, heads=["masked-lm", "next-sentence"])
    return {
        f"{part}.{name}": tensor
        for part, module in (("backbone", model.backbone), *model.heads.items())
        for name, tensor in module.state_dict().items()
    }


def assert_refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickles_and_shards_hold_what_safetensors_hold(folder: Path) -> None:
    expected = states_of(folder)
    copy = Path(shutil.copytree(folder, folder.with_name("copy")))
    for found in (states_of(sharded(folder)), states_of(pickled(copy))):
        assert found.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_the_shards_that_transformers_writes_are_read(tmp_path: Path) -> None:
    theirs = foreign("BertForPreTraining")
    theirs.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert torch.equal(load(tmp_path).backbone.pooler.weight, theirs.bert.pooler.dense.weight)


def test_a_bare_backbone_with_and_without_the_prefix_is_the_same(tmp_path: Path) -> None:
    for kind in ("Bert", "ModernBert"):
        whole = foreign(f"{kind}ForMaskedLM")
        whole.save_pretrained(tmp_path / f"{kind}-whole")
        getattr(whole, "bert" if kind == "Bert" else "model").save_pretrained(tmp_path / f"{kind}-alone")
        one, other = load(tmp_path / f"{kind}-whole").backbone, load(tmp_path / f"{kind}-alone").backbone
        assert one.config == other.config
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_becomes_float32_unless_another_is_asked_for(
    dtype: torch.dtype, folder: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors")
    model = load(folder)
    expected = tensors["bert.pooler.dense.weight"].to(dtype)
    assert torch.equal(model.backbone.pooler.weight, expected.float())
    assert {parameter.dtype for parameter in model.backbone.parameters()} == {torch.float32}
    assert torch.equal(load(folder, dtype=dtype).backbone.pooler.weight, expected)


def test_whole_numbers_are_not_taken_for_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.pooler.dense.weight"] = tensors["bert.pooler.dense.weight"].to(torch.int8)
    save_file(tensors, folder / "model.safetensors")
    assert_refused(folder, r"bert\.pooler\.dense\.weight holds int8 and not floats; .* no quantised weights")


class Payload:
    """A pickle of this calls a function when it is read by an ordinary loader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_with_code_is_refused_by_its_name_and_runs_nothing(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    pickled(folder, {"bert.pooler.dense.weight": Payload(trap)})
    assert_refused(
        folder, r"pytorch_model\.bin is not only weights: it asks to call posix\.system; .*safetensors"
    )
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(trap), protocol=2))
    assert_refused(folder, r"asks to call posix\.system")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(trap), protocol=4))
    assert_refused(folder, r"is not a file of tensors: Unsupported operand")
    assert not trap.exists()


def test_safetensors_come_before_a_pickle_beside_them(folder: Path, tmp_path: Path) -> None:
    torch.save(Payload(tmp_path / "trap"), folder / "pytorch_model.bin")
    load(folder)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], r"holds a list, not tensors by name"),
        ({"epoch": 3}, r"the entry 'epoch' is a int, not a plain tensor"),
        ({3: torch.zeros(2)}, r"the entry 3 is a Tensor, not a plain tensor"),
        ({"a": torch.zeros(2, 2).to_sparse()}, r"the entry 'a' is a Tensor, not a plain tensor"),
    ],
)
def test_a_pickle_of_other_things_is_refused(content: Any, message: str, folder: Path) -> None:
    assert_refused(pickled(folder, content), message)


def test_a_file_cut_off_anywhere_is_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for length in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:length])
        assert_refused(folder, r"model\.safetensors is damaged or cut off: .*; fetch or write it again")
    pickled_whole = folder / "pytorch_model.bin"
    (folder / "model.safetensors").write_bytes(whole)
    pickled(folder)
    content = pickled_whole.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        pickled_whole.write_bytes(content[:length])
        assert_refused(folder, r"pytorch_model\.bin is (damaged or cut off|not a file of tensors)")


def test_a_header_that_claims_more_than_there_is_is_refused(folder: Path) -> None:
    for header in (
        b"{}",
        b"[" * 5000,
        b'{"a":{"dtype":"F32","shape":[9,9],"data_offsets":[0,4]}}',
        b'{"a":' * 4000,
    ):
        content = len(header).to_bytes(8, "little") + header
        (folder / "model.safetensors").write_bytes(content)
        assert_refused(folder, r"is damaged or cut off|the weights are 0 tensors")
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    assert_refused(folder, "is damaged or cut off")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[1]", "holds a list, not an object of settings"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a":' * 100_000, "is nested too deeply"),
        (b'{"model_type": "bert", "x": 1e999}', "is not JSON"),
        (b'{"a": "' + b"x" * (1 << 26) + b'"}', "is larger than 64 MB"),
    ],
    ids=["empty", "cut", "bytes", "list", "deep list", "deep object", "number", "large"],
)
def test_settings_that_are_no_settings_are_refused(content: bytes, message: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    assert_refused(folder, rf"config\.json {message}")


def test_a_folder_without_settings_or_weights_says_what_is_missing(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.dat")
    assert_refused(
        folder,
        r"no weights that polyseme reads \(model\.safetensors or pytorch_model\.bin\); it holds .*weights",
    )
    (folder / "config.json").unlink()
    assert_refused(folder, r"there is no file .*config\.json, which a model folder needs")


def test_an_index_that_does_not_fit_its_shards_is_refused(folder: Path) -> None:
    index = sharded(folder) / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    name, shard = next(iter(places.items()))
    write_index(folder, places | {"extra": shard})
    assert_refused(folder, rf"places extra in {shard}, which does not hold it")
    write_index(folder, {key: place for key, place in places.items() if key != name})
    assert_refused(folder, rf"{shard} holds {re.escape(name)}, which .* does not place there")
    write_index(folder, places | {name: "../other.safetensors"})
    assert_refused(folder, r"names the file '\.\./other\.safetensors', which lies outside of its folder")
    write_index(folder, places | {name: "absent.safetensors"})
    assert_refused(folder, r"names the file absent\.safetensors, which is missing")
    for wrong in ([], {"a": 3}, None):
        write_index(folder, wrong)
        assert_refused(folder, r"has no weight_map from tensors to files")
