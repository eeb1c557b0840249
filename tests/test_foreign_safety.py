"""Files of other frameworks that were made on purpose to do harm end in one clear line."""

import json
import os
import pickle
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorflow_writer import gpt2, random_model, write
from test_foreign_mutations import is_refused
from test_foreign_others import parameter_file

from polyseme.checkpoints.convert import convert
from polyseme.checkpoints.foreign.opening import open_folder
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.readers.crc32c import crc32c, masked
from polyseme.checkpoints.readers.numpy_pickles import open_pickled_arrays
from polyseme.checkpoints.readers.openai_arrays import open_arrays
from polyseme.checkpoints.readers.paddle import open_parameters
from polyseme.checkpoints.readers.sorted_tables import write_table
from polyseme.checkpoints.readers.tensorflow import checkpoint_files, open_checkpoint
from polyseme.errors import CheckpointError
from polyseme.protobuf import (
    bytes_field,
    fixed_field,
    number_field,
    varint,
)

DATA = Path(__file__).parent / "data"
HEADER = {b"": number_field(1, 1) + bytes_field(3, number_field(1, 1))}


def entry(
    *, kind: int = 1, shape: tuple[int, ...] = (2,), shard: int = 0, offset: int = 0, size: int = 8
) -> bytes:
    dimensions = b"".join(bytes_field(2, number_field(1, length)) for length in shape)
    numbers = (number_field(1, kind), bytes_field(2, dimensions), number_field(3, shard))
    return b"".join([*numbers, number_field(4, offset), number_field(5, size), fixed_field(6, 1)])


def index_file(folder: Path, entries: dict[bytes, bytes]) -> Path:
    (folder / "m.data-00000-of-00001").write_bytes(b"\0" * 64)
    (folder / "m.index").write_bytes(write_table(entries))
    return folder / "m.index"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            entry(offset=60),
            r"at the bytes 60 to 68 of m\.data-00000-of-00001, which has 64; the file is cut off",
        ),
        (entry(offset=1 << 63), "places a at the bytes -9223372036854775808"),
        (entry(size=1 << 62), "the file is cut off"),
        (entry(shape=(3,)), r"gives a the shape \[3\] of float32 and 8 bytes, which do not fit together"),
        (entry(shape=(1 << 40, 1 << 40)), "an impossible shape of 2 dimensions"),
        (entry(shape=(0, 1 << 62), size=0), "an impossible shape of 2 dimensions"),
        (entry(shape=(1,) * 300), "an impossible shape of 300 dimensions"),
        (entry(shape=((1 << 64) - 1,)), "an impossible shape of 1 dimensions"),
        (entry(shard=1), "places a in shard 1 of 1"),
        (entry(shard=(1 << 64) - 1), "places a in shard -1 of 1"),
        (
            entry() + bytes_field(7, b""),
            "a: the tensor is stored in slices, which polyseme does not put together",
        ),
        (bytes_field(1, b"x"), "a: field 1 holds bytes where a number belongs"),
        (number_field(2, 3), "a: field 2 holds a number where bytes belong"),
        (b"\x0a\xff\xff\xff\xff\x0f", "a: a field claims 4294967295 bytes, of which 0 are there"),
        (b"\x08" + b"\xff" * 20, "a: a number is longer than 64 bits"),
        (b"\x0b", "a: field 1 is of the unknown kind 3"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(record: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(index_file(tmp_path, {**HEADER, b"a": record}))


def test_a_text_is_no_weight_and_is_only_refused_when_it_is_read(tmp_path: Path) -> None:
    stored = open_checkpoint(index_file(tmp_path, {**HEADER, b"a": entry(kind=7)}))
    with pytest.raises(CheckpointError, match=r"a is of TensorFlow's kind 7, not of numbers"):
        stored["a"].read()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({}, "its header is missing"),
        ({b"": number_field(1, 1 << 40)}, r"it claims 1099511627776 shards"),
        ({b"": b""}, "it claims 0 shards"),
        ({b"": number_field(1, 1) + number_field(2, 1)}, "a machine of the other byte order"),
    ],
)
def test_a_header_that_cannot_be_is_refused(header: dict[bytes, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(index_file(tmp_path, {**header, b"a": entry()}))


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"a\x1b[2J"])
def test_a_name_that_is_no_text_is_refused(name: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a tensor's name (is no text|holds control characters)"):
        open_checkpoint(index_file(tmp_path, {**HEADER, name: entry()}))


def block(content: bytes, *, compression: int = 0) -> bytes:
    sealed = content + bytes([compression])
    return sealed + masked(crc32c(sealed)).to_bytes(4, "little")


def table(parts: list[bytes], handles: list[tuple[int, int]]) -> bytes:
    """A table of these raw blocks, whose index names these places and sizes."""
    data = b"".join(parts)
    entries = b"".join(
        b"\0"
        + varint(1)
        + varint(len(varint(start) + varint(size)))
        + bytes([97 + n])
        + varint(start)
        + varint(size)
        for n, (start, size) in enumerate(handles)
    )
    index = block(entries + b"\0" * 4 + b"\1\0\0\0")
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(index) - 5)
    return data + index + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def test_blocks_in_a_circle_over_each_other_compressed_or_swelling_are_refused(tmp_path: Path) -> None:
    rows = b"\0\0" + varint(len(HEADER[b""])) + HEADER[b""]
    whole = block(rows + b"\0" * 4 + b"\1\0\0\0")
    size = len(whole) - 5
    # Each entry repeats all of the key before it and adds a byte: keys that grow without end.
    swelling = rows + b"".join(varint(n) + b"\1\0" + b"a" for n in range(20_000))
    for content, message in (
        (table([whole], [(0, size), (0, size)]), "its blocks lie over each other"),
        (table([whole], [(0, size), (1, size)]), "its blocks lie over each other"),
        (table([whole, whole], [(0, size), (size + 5, size)]), "its keys are out of order"),
        (table([whole], [(len(whole), 30)]), "its keys are out of order|checksum|beyond|claims|its header"),
        (table([whole], [(0, 1 << 60)]), "it names a block beyond its end"),
        (
            table([block(b"\4\4abcd", compression=1)], [(0, 6)]),
            r"a block is compressed \(kind 1\), and polyseme",
        ),
        (
            table([block(swelling + b"\0" * 4 + b"\1\0\0\0")], [(0, len(swelling) + 8)]),
            "claims more than its block",
        ),
        (table([block(b"\xff\xff\xff\xff")], [(0, 4)]), "a block claims more restarts than it holds"),
        (table([block(b"")], [(0, 0)]), "a block is cut off"),
        (b"", "it does not end as an index does"),
        (b"\0" * 200, "it does not end as an index does"),
    ):
        (tmp_path / "m.index").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(tmp_path / "m.index")


def test_a_sparse_index_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "m.index").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="is larger than 256 MB, which no index is"):
        open_checkpoint(tmp_path / "m.index")


class Call:
    """A pickle of this calls something when an ordinary loader reads it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize(
    ("hostile", "named"),
    [
        (lambda trap: Call(os.system, f"touch {trap}"), r"posix\.system"),
        (lambda trap: Call(eval, f"open({str(trap)!r}, 'w')"), r"(builtins|__builtin__)\.eval"),
        (lambda trap: Call(open, str(trap), "w"), r"_?io\.open"),
        (
            lambda trap: np.array([Call(os.system, f"touch {trap}")], dtype=object),
            "arrays of the kind 'O8'|posix",
        ),
        (lambda trap: Call(bytearray, 1 << 40), r"(builtins|__builtin__)\.bytearray"),
        (lambda trap: Path(str(trap)), r"pathlib"),
    ],
    ids=["system", "eval", "open", "objects", "memory", "class"],
)
def test_a_pickle_that_asks_for_more_than_arrays_is_refused_by_its_name(
    hostile: Callable[[Path], Any], named: str, protocol: int, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps({"word_embedding": hostile(trap)}, protocol=protocol))
    with pytest.raises(CheckpointError, match=f"is not only weights: it asks for .*({named}).*runs no code"):
        open_pickled_arrays(path)
    assert not trap.exists()


def array_pickle(state: bytes) -> bytes:
    """A dictionary of one array whose state is given as opcodes."""
    begin = b"\x80\x02}U\1acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
    return begin + state + b"bs."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # Places in the memo for which an unpickler in C takes memory at once.
        (b"\x80\x02}r\xff\xff\xff\x7f.", ""),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.", ""),
        (b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.", "damaged or cut off"),
        (b"\x80\x02C\xff.", "damaged or cut off"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged or cut off"),
        (b"(" * 100_000, "damaged or cut off"),
        (b"]" + b"]a" * 0 + b"\x85" * 100_000 + b".", "holds a tuple, not arrays by name"),
        (b"\x80\x02]q\0h\0a.", "holds a list, not arrays by name"),
        (b"\x80\x02}q\0U\1ah\0s.", "the entry 'a' is a dict, not a plain array"),
        (b"\x80\x02}K\1K\1s.", "the entry '1' is a int, not a plain array"),
        (
            array_pickle(b"(K\1(ML\1tcnumpy\ndtype\nU\2f4\x85R\x89U\1at"),
            r"an array of the shape \[332\] has|state is not",
        ),
        (
            array_pickle(b"(K\1(\x8a\x09" + b"\xff" * 8 + b"\0tcnumpy\ndtype\nU\2f4\x85R\x89C\1at"),
            "impossible shape",
        ),
        (array_pickle(b"(K\1)cnumpy\ndtype\nU\1O\x85R\x89C\1at"), "asks for arrays of the kind 'O'"),
        (array_pickle(b"N"), "an array's state is not what it must be"),
        (b"\x80\x02}U\1ac_codecs\nencode\n" + b"X\x0a\0\0\0aaaaaaaaaaq\1\x85Rs.", "the entry 'a' is a bytes"),
        (b"", "damaged or cut off"),
    ],
    ids=range(16),
)
def test_pickles_made_by_hand_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(content)
    start = time.monotonic()
    if message:
        with pytest.raises(CheckpointError, match=message):
            open_pickled_arrays(path)
    else:
        assert open_pickled_arrays(path) == {}
    assert time.monotonic() - start < 5


def test_a_text_that_is_encoded_again_and_again_is_refused(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"\x85q\1"
    again = b"c_codecs\nencode\nq\2" + b"0" + b"h\2h\1R0" * 100_000
    path = tmp_path / "model.pdparams"
    path.write_bytes(b"\x80\x02" + text + again + b"}.")
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="more bytes than it holds"):
        open_pickled_arrays(path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<I", 1), "its version is not 0"),
        (struct.pack("<IQ", 0, 1 << 60), "it claims 1152921504606846976 levels of detail"),
        (struct.pack("<IQQ", 0, 1, 1 << 60), "a level of detail goes beyond its end"),
        (struct.pack("<IQII", 0, 0, 0, 1 << 31), "the description claims 2147483648 bytes"),
        (struct.pack("<IQII", 0, 0, 0, 9), "the description is cut off"),
        (
            struct.pack("<IQII", 0, 0, 0, 2) + number_field(1, 5),
            r"the shape \[\] asks for 4 bytes, and 0 follow",
        ),
        (struct.pack("<IQII", 0, 0, 0, 2) + number_field(1, 9), "its numbers are of Paddle's kind 9"),
        (
            struct.pack("<IQII", 0, 0, 0, 12) + number_field(1, 5) + varint(16) + varint(1 << 62),
            r"\[\d+\] asks for",
        ),
        (b"", "it is cut off"),
        (parameter_file(torch.ones(3))[:-1], "asks for 12 bytes, and 11 follow"),
        (parameter_file(torch.ones(3)) + b"\0", "asks for 12 bytes, and 13 follow"),
    ],
)
def test_a_parameter_file_that_cannot_be_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "word_embedding").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_parameters(tmp_path / "word_embedding")


def test_an_array_with_objects_or_of_a_size_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params_shapes.json").write_text(json.dumps([[1]] * 14))
    np.save(tmp_path / "params_0.npy", np.array([Call(os.system, "false")], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"params_0\.npy is damaged or no array of NumPy"):
        open_arrays(tmp_path / "params_shapes.json")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n"
    content = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
    (tmp_path / "params_0.npy").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"params_0\.npy is damaged or no array of NumPy"):
        open_arrays(tmp_path / "params_shapes.json")
    for shapes, message in (
        ([[1]] * 13, "lists 13 shapes; GPT has 2, and 12 a layer"),
        ([[-1]] * 14, r"lists \[-1\], which is no shape"),
        ([[True]] * 14, r"lists \[True\], which is no shape"),
        ([[]] * 14, r"lists \[\], which is no shape"),
        (["x"] * 14, "lists x, which is no shape"),
        ([[1]] * 20_000, "lists 10001 shapes"),
    ):
        (tmp_path / "params_shapes.json").write_text(json.dumps(shapes))
        with pytest.raises(CheckpointError, match=message):
            open_arrays(tmp_path / "params_shapes.json")


def foreign_settings() -> Iterator[dict[str, Any]]:
    for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "hidden_act", "vocab_size"):
        for value in (-1, 0, 1 << 70, "12", None, [], {}, 1e300, True):
            yield {key: value}
    yield {"transformers": []}
    yield {"transformers": {"hidden_act": []}}
    yield {"model_type": "gpt2", "architectures": 3}


def test_settings_that_cannot_be_end_in_one_line(tmp_path: Path) -> None:
    for file in (DATA / "tensorflow_bert").iterdir():
        shutil.copy(file, tmp_path / file.name)
    path = tmp_path / "bert_config.json"
    plain, refused = json.loads(path.read_text()), 0
    load(tmp_path)  # What torch does once, when it first builds without memory, takes its time.
    for changes in foreign_settings():
        path.write_text(json.dumps(plain | changes))
        refused += is_refused(lambda: load(tmp_path))
    assert refused > 30


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(DATA / "tensorflow_bert", source)
    shard = source / "bert_model.ckpt.data-00000-of-00001"
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CheckpointError, match="its checksum is wrong"):
        convert(source, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_layers_that_a_tensor_only_claims_cost_nothing(tmp_path: Path) -> None:
    tensors = {
        "model/transformer/word_embedding/lookup_table": torch.zeros(2, 2),
        "model/transformer/r_w_bias": torch.zeros(5000, 1, 1),
    }
    with pytest.raises(CheckpointError, match="r_w_bias claims 5000 layers"):
        open_folder(write(tmp_path, tensors, "xlnet_model.ckpt"))


def test_kernels_of_another_width_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = random_model("GPT2LMHeadModel", vocab_size=28, n_embd=16, n_layer=1, n_head=2, n_positions=20)
    tensors = gpt2(model)
    tensors["model/h0/mlp/c_fc/w"] = torch.zeros(2, 16, 64)
    with pytest.raises(
        CheckpointError, match=r"c_fc/w has the shape \[2, 16, 64\]; its first dimension must be 1"
    ):
        open_folder(write(tmp_path, tensors, "model.ckpt"))


def test_several_shards_and_blocks_hold_the_same(tmp_path: Path) -> None:
    tensors = {f"layer_{n}/kernel": torch.full((n % 5, 3), float(n)) for n in range(300)}
    for name, content in checkpoint_files(tensors, "m", shards=7, block_size=100).items():
        (tmp_path / name).write_bytes(content)
    stored = open_checkpoint(tmp_path / "m.index")
    assert stored.keys() == tensors.keys()
    assert all(torch.equal(stored[name].read(), tensor) for name, tensor in tensors.items())
