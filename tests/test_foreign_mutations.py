"""Mutated files of other frameworks are read or end in one clear line, in little time and memory."""

import io
import json
import pickle
import random
import resource
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polyseme.checkpoints.foreign.opening import open_folder
from polyseme.checkpoints.readers.crc32c import crc32c, masked
from polyseme.checkpoints.readers.numpy_pickles import open_pickled_arrays
from polyseme.checkpoints.readers.openai_arrays import open_arrays
from polyseme.checkpoints.readers.paddle import open_parameters
from polyseme.checkpoints.readers.tensorflow import open_checkpoint
from polyseme.checkpoints.weights import Stored
from polyseme.errors import CheckpointError
from polyseme.protobuf import read_varint, varint

DATA = Path(__file__).parent / "data"
MUTATIONS = 600
SECONDS, KILOBYTES = 5, 1 << 19


def crc_by_the_book(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_the_checksum_is_that_of_the_definition() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    rng = random.Random(0)
    for size in [*range(1, 40), 127, 128, 129, 1000, 4099, 131_073]:
        data = rng.randbytes(size)
        assert crc32c(data) == crc_by_the_book(data), size
    assert crc32c(memoryview(b"123456789")) == 0xE3069283


def read_all(stored: dict[str, Stored]) -> None:
    for tensor in stored.values():
        assert tuple(tensor.read().shape) == tensor.shape


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with bits flipped, bytes set, cut off, doubled or put in."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + rng.randrange(1, 9)]
        elif kind == 4:
            data[place:place] = data[place : place + rng.randrange(1, 40)]
        else:
            data[place:place] = rng.choice((b"\xff" * 9, rng.randbytes(rng.randrange(1, 9)), varint(1 << 62)))
    return bytes(data)


def is_refused(read: Callable[[], object]) -> bool:
    """Whether `read` ends in one line; if not, it does what it should. It takes little either way."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = ""
    try:
        read()
    except CheckpointError as error:
        message = str(error)
    assert time.monotonic() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KILOBYTES
    assert "\n" not in message
    assert len(message) < 1000
    return bool(message)


def sealed(index: bytes) -> bytes:
    """An index whose one block of data has the checksum of what it holds now, at its first place."""
    size = open_size(index)
    if size is None or size + 5 > len(index):
        return index
    checksum = masked(crc32c(index[: size + 1])).to_bytes(4, "little")
    return index[: size + 1] + checksum + index[size + 5 :]


def open_size(index: bytes) -> int | None:
    """The size of the first block: the footer begins with the place of the empty block behind it."""
    try:
        place, _ = read_varint(index[-48:], 0)
    except ValueError:
        return None
    return place - 5 if place >= 5 else None


def test_a_mutated_index_of_tensorflow_is_refused_or_read(tmp_path: Path) -> None:
    index = (DATA / "tensorflow_bert" / "bert_model.ckpt.index").read_bytes()
    shard = "bert_model.ckpt.data-00000-of-00001"
    shutil.copy(DATA / "tensorflow_bert" / shard, tmp_path / shard)
    rng, refused = random.Random(1), 0
    path = tmp_path / "bert_model.ckpt.index"
    assert sealed(index) == index
    size = open_size(index)
    assert size is not None
    for number in range(2 * MUTATIONS):
        if number % 2:
            content = mutated(index, rng)
        else:
            # Only inside the block, and with the right checksum, so that the inner layers are reached.
            block = mutated(index[:size], rng)
            block = block[:size].ljust(size, b"\0")
            content = sealed(block + index[size:])
        path.write_bytes(content)
        refused += is_refused(lambda: read_all(open_checkpoint(path)))
    assert refused > MUTATIONS


def test_a_mutated_shard_of_tensorflow_is_refused(tmp_path: Path) -> None:
    for file in (DATA / "tensorflow_bert").glob("bert_model*"):
        shutil.copy(file, tmp_path / file.name)
    path = tmp_path / "bert_model.ckpt.data-00000-of-00001"
    whole, rng = path.read_bytes(), random.Random(2)
    for _ in range(100):
        place = rng.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="is damaged, its checksum is wrong; fetch it again"):
            read_all(open_checkpoint(tmp_path / "bert_model.ckpt.index"))
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="the file is cut off, fetch it again"):
            open_checkpoint(tmp_path / "bert_model.ckpt.index")
    path.unlink()
    with pytest.raises(
        CheckpointError, match=r"needs the file bert_model\.ckpt\.data-00000-of-00001, which is"
    ):
        open_checkpoint(tmp_path / "bert_model.ckpt.index")


def test_mutated_parameters_of_paddle_are_refused_or_read(tmp_path: Path) -> None:
    content = (DATA / "paddle" / "params" / "word_embedding").read_bytes()
    rng, refused, path = random.Random(3), 0, tmp_path / "word_embedding"
    for number in range(MUTATIONS):
        # The header is 26 bytes of 1818: half of the mutations go there.
        path.write_bytes(mutated(content[:40], rng) + content[40:] if number % 2 else mutated(content, rng))
        refused += is_refused(lambda: read_all(open_parameters(path)))
    assert refused > MUTATIONS // 3


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_mutated_pickles_of_arrays_are_refused_or_read(protocol: int, tmp_path: Path) -> None:
    state = {f"layer.{n}.weight": np.arange(n * 3, dtype=np.float32).reshape(n, 3) for n in range(1, 5)}
    content = pickle.dumps(state, protocol=protocol)
    rng, refused, path = random.Random(protocol), 0, tmp_path / "model.pdparams"
    path.write_bytes(content)
    read_all(open_pickled_arrays(path))
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(content, rng))
        refused += is_refused(lambda: read_all(open_pickled_arrays(path)))
    assert refused > MUTATIONS // 2


def test_mutated_arrays_of_openai_are_refused_or_read(tmp_path: Path) -> None:
    shapes = [
        [4, 8],
        [6, 8],
        [1, 8, 24],
        [24],
        [1, 8, 8],
        [8],
        [8],
        [8],
        [1, 8, 32],
        [32],
        [1, 32, 8],
        [8],
        [8],
        [8],
    ]
    (tmp_path / "params_shapes.json").write_text(json.dumps(shapes))
    row = np.arange(sum(int(np.prod(shape)) for shape in shapes), dtype=np.float32)
    for number, piece in enumerate(np.array_split(row, 2)):
        np.save(tmp_path / f"params_{number}.npy", piece)
    path = tmp_path / "params_shapes.json"
    read_all(open_arrays(path))
    rng, refused = random.Random(4), 0
    for number in range(MUTATIONS):
        file = (tmp_path / "params_1.npy", path)[number % 2]
        whole = file.read_bytes()
        file.write_bytes(mutated(whole[:128], rng) + whole[128:])
        refused += is_refused(lambda: read_all(open_arrays(path)))
        file.write_bytes(whole)
    assert refused > MUTATIONS // 3


def test_mutated_pickles_of_torch_are_refused_or_read(tmp_path: Path) -> None:
    for file in (DATA / "uer_bert").iterdir():
        shutil.copy(file, tmp_path / file.name)
    path = tmp_path / "bert_model.bin"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    inner = next(name for name in parts if name.endswith("data.pkl"))
    rng, refused = random.Random(5), 0
    for number in range(MUTATIONS):
        if number % 2:
            content = mutated((DATA / "uer_bert" / "bert_model.bin").read_bytes(), rng)
        else:
            memory = io.BytesIO()
            with zipfile.ZipFile(memory, "w", zipfile.ZIP_STORED) as archive:
                for name, part in parts.items():
                    archive.writestr(name, mutated(part, rng) if name == inner else part)
            content = memory.getvalue()
        path.write_bytes(content)
        refused += is_refused(lambda: read_all(open_folder(tmp_path).stored))
    assert refused > MUTATIONS // 2
