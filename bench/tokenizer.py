"""Does the table path agree with the `tokenizers` library, and how fast is it?

    python bench/tokenizer.py --tokenizer DIR --strings 1000000 --processes 2
    python bench/tokenizer.py --tokenizer DIR --text FILE

The first compares ids and offsets on random strings of everything that Unicode has to offer; the second
measures both paths on one thread over the lines of a text (.xz as well).
"""

import argparse
import lzma
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import tokenizers

from polyseme.text.tokenizer import Tokenizer

RANGES: dict[str, list[tuple[int, int]]] = {
    "ideographs": [(0x4E00, 0x9FFF), (0x3400, 0x4DBF)],
    "frequent": [(0x4E00, 0x4E80), (0x5200, 0x5230), (0x7684, 0x7684), (0x662F, 0x662F)],
    "compatibility": [(0xF900, 0xFAFF), (0x2F800, 0x2FA1F), (0x2E80, 0x2FDF)],
    "rare ideographs": [(0x20000, 0x2EBEF), (0x30000, 0x3134F)],
    "letters": [(0x61, 0x7A), (0x41, 0x5A)],
    "few letters": [(0x61, 0x65)],
    "digits": [(0x30, 0x39), (0xFF10, 0xFF19), (0x2460, 0x24FF)],
    "signs": [(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)],
    "wide signs": [(0x3000, 0x303F), (0xFF00, 0xFF0F), (0xFF1A, 0xFF65), (0x2010, 0x2060)],
    "symbols": [(0xA1, 0xBF), (0x20A0, 0x20C0), (0x2190, 0x22FF), (0x2500, 0x27BF)],
    "accented": [(0xC0, 0x24F), (0x1E00, 0x1EFF)],
    "other letters": [(0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0xE7F), (0x10A0, 0x10FF)],
    "combining": [(0x300, 0x36F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0x302A, 0x3030)],
    "combining signs": [(0x93C, 0x94D), (0x1B34, 0x1B44), (0x1D165, 0x1D172), (0x3099, 0x309A)],
    "blanks": [(0x20, 0x20)],
    "other blanks": [(0x9, 0xD), (0x85, 0x85), (0xA0, 0xA0), (0x2000, 0x200A), (0x2028, 0x202F)],
    "controls": [(0x0, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0xFFF0, 0xFFFF), (0xE000, 0xE010)],
    "zero width": [(0x200B, 0x200F), (0x2060, 0x2064), (0xFEFF, 0xFEFF), (0xFE00, 0xFE0F)],
    "hangul": [(0xAC00, 0xD7A3), (0x1100, 0x11FF), (0x3130, 0x318F)],
    "kana": [(0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)],
    "emoji": [(0x1F300, 0x1FAFF), (0x1F1E6, 0x1F1FF), (0x1F3FB, 0x1F3FF), (0x200D, 0x200D)],
    "anything": [(0x0, 0xD7FF), (0xE000, 0x10FFFF)],
}  # fmt: skip
LITERALS = ["[SEP]", "[CLS]", "[UNK]", "[PAD]", "[MASK]", "[mask]", "</s>", "##a", "[unused1]", "a" * 101]


def random_texts(rng: np.random.Generator, count: int) -> list[str]:
    """Short strings that stay with one kind of character for a while and then change to another."""
    names = list(RANGES)
    return ["".join(_stretch(rng, names) for _ in range(rng.integers(1, 9))) for _ in range(count)]


def _stretch(rng: np.random.Generator, names: Sequence[str]) -> str:
    kind = int(rng.integers(len(names) + 1))
    if kind == len(names):
        return LITERALS[int(rng.integers(len(LITERALS)))]
    spans = RANGES[names[kind]]
    length = int(rng.integers(1, 7))
    chosen = [spans[i] for i in rng.integers(len(spans), size=length)]
    return "".join(chr(rng.integers(first, last + 1)) for first, last in chosen)


def library(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer as the library alone has it, special tokens' names taken for text."""
    pipeline = tokenizers.Tokenizer.from_str(tokenizer.files()["tokenizer.json"].decode())
    pipeline.encode_special_tokens = True
    return pipeline


def disagreements(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """The texts of which the library makes other ids, other offsets or another number of tokens."""
    pipeline = library(tokenizer)
    ids, begins, counts = tokenizer.encode_joined(texts)
    ends = np.cumsum(counts)
    differing = []
    for text, count, end in zip(texts, counts.tolist(), ends.tolist(), strict=True):
        expected = pipeline.encode(text, add_special_tokens=False)
        same = ids[end - count : end].tolist() == expected.ids
        same = same and begins[end - count : end].tolist() == [begin for begin, _ in expected.offsets]
        encoded = tokenizer.encode(text)
        same = same and encoded.ids.tolist() == expected.ids
        if not (same and [*map(tuple, encoded.offsets.tolist())] == expected.offsets):
            differing.append(text)
    return differing


def _study(source: str, seed: int, count: int) -> list[str]:
    return disagreements(Tokenizer.load(source), random_texts(np.random.default_rng(seed), count))


def agreement(source: str, *, strings: int, processes: int, seed: int) -> int:
    """Compare in blocks of 10,000; prints the first texts that differ and returns how many do."""
    block = 10_000
    seeds = range(seed, seed + -(-strings // block))
    with ProcessPoolExecutor(processes) as pool:
        found = [text for texts in pool.map(partial(_study, source), seeds, repeat(block)) for text in texts]
    print(f"{len(seeds) * block:,} strings, {len(found):,} of which differ")
    for text in found[:10]:
        print("  ", ascii(text))
    return len(found)


def rates(source: str, path: Path) -> None:
    """Megabytes of UTF-8 a second, on one thread, of both paths, best of three."""
    tokenizer = Tokenizer.load(source)
    pipeline = library(tokenizer)
    content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    texts = content.decode().split("\n")
    size = sum(len(text.encode()) for text in texts) / 1e6
    ways: dict[str, Callable[[], object]] = {
        "table path, encode_joined": lambda: tokenizer.encode_joined(texts),
        "tokenizers library": lambda: [pipeline.encode(text, add_special_tokens=False) for text in texts],
    }
    for name, way in ways.items():
        best = np.inf
        for _ in range(3):
            start = time.perf_counter()
            way()
            best = min(best, time.perf_counter() - start)
        print(f"{name}: {size / best:.1f} MB/s ({size:.1f} MB)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, help="folder or vocabulary file")
    parser.add_argument("--strings", type=int, default=0, help="random strings to compare")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text", type=Path, help="measure on the lines of this file")
    options = parser.parse_args()
    differing = 0
    if options.strings:
        differing = agreement(
            options.tokenizer, strings=options.strings, processes=options.processes, seed=options.seed
        )
    if options.text:
        rates(options.tokenizer, options.text)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
