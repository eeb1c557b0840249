"""Sorted tables of keys and values: LevelDB's format, in which TensorFlow keeps a checkpoint's index.

Entries lie sorted in blocks; of each key only what differs from the one before it is written, except at the
restarts. An index block names the last key and the place of every block; the footer names the index block.
"""

from collections.abc import Iterator, Mapping

from polyseme.checkpoints.readers.crc32c import crc32c, masked
from polyseme.protobuf import Damaged, read_varint, varint

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_TRAILER = 5
"""Behind each block: one byte for its compression, four for the checksum."""
_RESTART_EVERY = 16
_LONGEST_KEY = 4096


def read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a table in the order of their keys; raises `Damaged` for anything out of order.

    Blocks may not overlap and keys must rise, so that a hostile file costs no more than its length.
    """
    if len(data) < _FOOTER or not data.endswith(_MAGIC):
        raise Damaged("it does not end as an index does")
    footer = data[-_FOOTER:]
    _, _, place = _handle(footer, 0)
    offset, size, _ = _handle(footer, place)
    end, last = 0, b""
    first = True
    for _, handle in _entries(_block(data, offset, size)):
        start, length, _ = _handle(handle, 0)
        if start < end:
            raise Damaged("its blocks lie over each other")
        end = start + length
        for key, value in _entries(_block(data, start, length)):
            if not first and key <= last:
                raise Damaged("its keys are out of order")
            first, last = False, key
            yield key, value


def write_table(entries: Mapping[bytes, bytes], *, block_size: int = 1 << 18) -> bytes:
    """The table of these entries, uncompressed, as TensorFlow writes it."""
    keys = sorted(entries)
    parts: list[bytes] = []
    handles: dict[bytes, bytes] = {}
    block: dict[bytes, bytes] = {}
    place = weight = 0
    for number, key in enumerate(keys):
        block[key] = entries[key]
        weight += len(key) + len(entries[key])
        if weight >= block_size or number == len(keys) - 1:
            following = keys[number + 1] if number + 1 < len(keys) else None
            parts.append(_sealed(_packed(block)))
            handles[_separator(key, following)] = _placed(place, parts[-1])
            place, weight, block = place + len(parts[-1]), 0, {}
    parts.append(_sealed(_packed({})))
    footer = _placed(place, parts[-1])
    place += len(parts[-1])
    parts.append(_sealed(_packed(handles, every=1)))
    footer += _placed(place, parts[-1])
    return b"".join([*parts, footer.ljust(_FOOTER - len(_MAGIC), b"\0"), _MAGIC])


def _handle(data: bytes, place: int) -> tuple[int, int, int]:
    offset, place = read_varint(data, place)
    size, place = read_varint(data, place)
    return offset, size, place


def _block(data: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise Damaged("it names a block beyond its end")
    if int.from_bytes(data[end + 1 : end + _TRAILER], "little") != masked(crc32c(data[offset : end + 1])):
        raise Damaged("a block's checksum is wrong")
    if data[end] != 0:
        raise Damaged(
            f"a block is compressed (kind {data[end]}), and polyseme reads uncompressed ones; "
            "save the checkpoint again with a release of TensorFlow that does not compress its index"
        )
    return data[offset:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block."""
    if len(block) < 4:
        raise Damaged("a block is cut off")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise Damaged("a block claims more restarts than it holds")
    place, key = 0, b""
    content = block[:end]
    while place < end:
        shared, place = read_varint(content, place)
        own, place = read_varint(content, place)
        size, place = read_varint(content, place)
        if shared > len(key) or shared + own > _LONGEST_KEY or own + size > end - place:
            raise Damaged("an entry claims more than its block holds")
        key = key[:shared] + content[place : place + own]
        place += own
        yield key, content[place : place + size]
        place += size


def _packed(entries: Mapping[bytes, bytes], *, every: int = _RESTART_EVERY) -> bytes:
    """The block of some entries, with a whole key at each restart."""
    content, restarts, last = bytearray(), [0], b""
    for number, (key, value) in enumerate(entries.items()):
        shared = 0
        if number % every:
            shared = next((i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), len(last))
        elif number:
            restarts.append(len(content))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    places = b"".join(place.to_bytes(4, "little") for place in restarts)
    return bytes(content) + places + len(restarts).to_bytes(4, "little")


def _sealed(block: bytes) -> bytes:
    content = block + b"\0"
    return content + masked(crc32c(content)).to_bytes(4, "little")


def _placed(place: int, sealed: bytes) -> bytes:
    return varint(place) + varint(len(sealed) - _TRAILER)


def _separator(key: bytes, following: bytes | None) -> bytes:
    """A short key between the last of a block and the first of the next one."""
    for place, byte in enumerate(key):
        if following is None:
            if byte != 0xFF:
                return key[:place] + bytes([byte + 1])
        elif place == len(following) or byte != following[place]:
            if byte < 0xFF and place < len(following) and byte + 1 < following[place]:
                return key[:place] + bytes([byte + 1])
            break
    return key
