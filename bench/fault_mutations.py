"""Damage to files: flipped bits, lost and doubled bytes, and well-formed files with wrong values in them."""

import bz2
import gzip
import json
import lzma
import random
import re
from collections.abc import Callable
from typing import Any

_VALUES: tuple[str, ...] = (
    "null", "true", "[]", "{}", '""', '"x"', "-1", "0", "0.5", "1e999", "-1e999", "NaN", "1e-320",
    "2147483648",
    "9223372036854775808", "-9223372036854775809", "9" * 5000, "0." + "3" * 5000, '"' + "y" * 70000 + '"',
    '"\\ud800"', '"\\u0000"', "[[1]]", '{"a":1}', '"../../etc/passwd"', "[" * 2000 + "]" * 2000,
    "[" * 100_000,
)  # fmt: skip
"""JSON texts that stand where another value was."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+_-]*|true|false|null')


def mutate(content: bytes, name: str, rng: random.Random) -> bytes:
    """One damaged copy of a file; structured files are damaged by value half of the time."""
    ending = name.rsplit(".", 1)[-1]
    if ending in _COMPRESSED and rng.random() < 0.5:
        opened, closed = _COMPRESSED[ending]
        return closed(mutate(opened(content), name.removesuffix(f".{ending}"), rng))
    if ending in ("json", "jsonl") and rng.random() < 0.6:
        return _json_values(content, rng)
    if ending == "toml" and rng.random() < 0.6:
        return _token_values(content, rng)
    if ending == "safetensors" and rng.random() < 0.4:
        return _safetensors_header(content, rng)
    if ending in ("txt", "tsv", "csv", "bio", "xml") and rng.random() < 0.4:
        return _lines(content, rng)
    return _bytes(content, rng)


def _bytes(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        place = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(8)
        if kind <= 1 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 2 and data:
            data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            del data[place : place + rng.randrange(1, 9)]
        elif kind == 5:
            data[place:place] = data[place : place + rng.randrange(1, 40)]
        elif kind == 6:
            data[place : place + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, rng.randbytes(8)))
        else:
            data[place:place] = rng.choice((b"\xff" * 9, b"\n", b"\0", rng.randbytes(rng.randrange(1, 9))))
    return bytes(data)


def _json_values(content: bytes, rng: random.Random) -> bytes:
    try:
        if content.count(b"\n") > 1 and not content.lstrip().startswith((b"[", b"{\n", b"{ ")):
            lines = content.splitlines(keepends=True)
            place = rng.randrange(len(lines))
            lines[place] = _json_document(lines[place], rng) + b"\n"
            return b"".join(lines)
        return _json_document(content, rng)
    except (ValueError, RecursionError):
        return _token_values(content, rng)


def _json_document(content: bytes, rng: random.Random) -> bytes:
    value = json.loads(content)
    holders: list[tuple[Any, Any]] = []
    _collect(value, holders)
    if not holders:
        return rng.choice(_VALUES).encode()
    holder, key = rng.choice(holders)
    marker = "\x07changed\x07"
    kind = rng.randrange(6)
    if kind <= 3:
        holder[key] = marker
    elif kind == 4:
        del holder[key]
    elif isinstance(holder, dict):
        holder[rng.choice(("unknown", "", str(key) + "s", "9" * 300))] = marker
    else:
        holder.extend([marker] * rng.choice((1, 3, 1000)))
    text = json.dumps(value, ensure_ascii=False)
    return text.replace(json.dumps(marker), rng.choice(_VALUES)).encode("utf-8", "surrogatepass")


def _collect(value: Any, holders: list[tuple[Any, Any]]) -> None:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        holders.append((value, key))
        _collect(value[key], holders)


def _token_values(content: bytes, rng: random.Random) -> bytes:
    """Put another value where a number, a string or a word of the file stands."""
    tokens = list(_TOKEN.finditer(content))
    if not tokens:
        return _bytes(content, rng)
    token = rng.choice(tokens)
    return content[: token.start()] + rng.choice(_VALUES).encode() + content[token.end() :]


def _safetensors_header(content: bytes, rng: random.Random) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = _json_values(content[8 : 8 + size], rng)
    written = len(header) if rng.random() < 0.9 else rng.choice((0, 1 << 40, (1 << 64) - 1))
    return written.to_bytes(8, "little") + header + content[8 + size :]


def _lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    place = rng.randrange(len(lines))
    kind = rng.randrange(9)
    if kind == 0:
        lines.insert(place, rng.choice(lines))
    elif kind == 1:
        del lines[place]
    elif kind == 2:
        lines[place] = lines[place].rstrip(b"\r\n")
    elif kind == 3:
        lines[place] = lines[place].replace(b"\t", b" ").replace(b",", b";")
    elif kind == 4:
        lines[place] = lines[place] * 3000
    elif kind == 5:
        lines[place] = rng.choice(
            (b"\t\t\t\n", b'"\n', b"\0\n", b"\xef\xbb\xbf\n", b"\xff\xfe\n", b"\r\r\n", b"\n\n\n")
        )
    elif kind == 6:
        lines[place] = lines[place].decode("utf-8", "replace").encode("gb18030")
    elif kind == 7:
        lines[place] = rng.choice(_SLOW)
    else:
        lines[place] = lines[place].strip() + rng.choice(_VALUES).encode() + b"\n"
    return b"".join(lines)


_SLOW = tuple(
    f"{first}{unit * count}\n".encode()
    for first, unit, count in (
        ("[//", " ", 50_000), ("[http", " ", 50_000), ("&#", "9", 5000), ("", "{{", 20_000),
        ("", "[[", 20_000),
        ("", "<", 50_000), ("", "''", 20_000), ("", "<!--", 10_000), ("", "{|", 20_000),
        ("", "a", 100_000), ("", "啊", 100_000), ("", "\u0301", 20_000), ("", "=", 50_000),
        ("", "。", 50_000), ("", "1.", 30_000), ("", '"', 30_001),
    )
)  # fmt: skip
"""Lines that take quadratic time where a pattern backtracks."""
_COMPRESSED: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "gz": (gzip.decompress, gzip.compress),
    "bz2": (bz2.decompress, bz2.compress),
    "xz": (lzma.decompress, lzma.compress),
}
