"""What `tokenizer.json` holds for each kind of tokenizer."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from polyseme.text.frames import FRAMES, FrameName

Kind = Literal["wordpiece", "bpe", "byte-bpe", "unigram", "characters", "words"]
Definition = dict[str, Any]
"""The content of a `tokenizer.json`."""

BLANK_SIGN = "▁"
"""Stands for the blank before a word in BPE and Unigram vocabularies, as SentencePiece has it."""

BERT_WORDS = {"type": "BertPreTokenizer"}
EVERY_CHARACTER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "WhitespaceSplit"},
        {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False},
    ],
}
BLANK_SIGNS = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Metaspace", "replacement": BLANK_SIGN, "prepend_scheme": "never", "split": True},
        {"type": "Punctuation", "behavior": "Isolated"},
    ],
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}

PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "wordpiece": BERT_WORDS,
    "bpe": BLANK_SIGNS,
    "byte-bpe": BYTES,
    "unigram": BLANK_SIGNS,
    "characters": EVERY_CHARACTER,
    "words": BERT_WORDS,
}
DECODERS: dict[str, dict[str, Any] | None] = {
    "wordpiece": {"type": "WordPiece", "prefix": "##", "cleanup": False},
    "bpe": {"type": "Metaspace", "replacement": BLANK_SIGN, "prepend_scheme": "never", "split": True},
    "byte-bpe": BYTES,
    "unigram": {"type": "Metaspace", "replacement": BLANK_SIGN, "prepend_scheme": "never", "split": True},
    "characters": {"type": "Fuse"},
    "words": None,
}


def normalizer(
    kind: Kind, *, lowercase: bool, strip_accents: bool | None, chinese: bool = True
) -> dict[str, Any]:
    """BERT's normalizer; bytes keep control characters, and only WordPiece sets Chinese apart."""
    return {
        "type": "BertNormalizer",
        "clean_text": kind != "byte-bpe",
        "handle_chinese_chars": chinese and kind == "wordpiece",
        "strip_accents": strip_accents,
        "lowercase": lowercase,
    }


def definition(
    kind: Kind,
    model: dict[str, Any],
    *,
    roles: Mapping[str, str],
    ids: Mapping[str, int],
    normalizer: dict[str, Any] | None,
    frame: FrameName = "around",
    more: Sequence[str] = (),
) -> Definition:
    """A whole `tokenizer.json` with the special tokens `roles` (role to token) and `more` at their `ids`."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": ids[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in sorted({*roles.values(), *more}, key=lambda token: ids[token])
        ],
        "normalizer": normalizer,
        "pre_tokenizer": PRE_TOKENIZERS[kind],
        "post_processor": _framed(roles, ids, frame),
        "decoder": DECODERS[kind],
        "model": model,
    }


def lowered(whole: Definition) -> Definition:
    """The tokenizer with its texts in lower case before all else, unless a step already does that.

    BERT's own normalizer lowers letters too, and then strips no accents that it did not strip before.
    """
    rules = whole.get("normalizer")
    steps = [] if rules is None else rules["normalizers"] if rules["type"] == "Sequence" else [rules]
    if any(step["type"] == "Lowercase" for step in steps):
        return whole
    if [step["type"] for step in steps] == ["BertNormalizer"]:
        (bert,) = steps
        strips = bert.get("strip_accents")
        strips = bert["lowercase"] if strips is None else strips
        return whole | {"normalizer": bert | {"lowercase": True, "strip_accents": strips}}
    return whole | {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}}


def wordpiece_model(
    vocabulary: Mapping[str, int], *, unknown: str, max_word_length: int = 100
) -> dict[str, Any]:
    """Greedy longest match from the left; a word of more characters than `max_word_length` is unknown."""
    return {
        "type": "WordPiece",
        "unk_token": unknown,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": max_word_length,
        "vocab": dict(vocabulary),
    }


def bpe_model(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], *, unknown: str | None
) -> dict[str, Any]:
    """Merges in the order in which they were learned."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": dict(vocabulary),
        "merges": [list(pair) for pair in merges],
    }


def unigram_model(scores: Sequence[tuple[str, float]], *, unknown: int) -> dict[str, Any]:
    """The most probable cut; `scores` are log probabilities in the order of ids."""
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": [list(pair) for pair in scores],
        "byte_fallback": False,
    }


def lookup_model(vocabulary: Mapping[str, int], *, unknown: str) -> dict[str, Any]:
    """Each word, or character, as it stands in the vocabulary."""
    return {"type": "WordLevel", "vocab": dict(vocabulary), "unk_token": unknown}


def model_name(model: Mapping[str, Any]) -> Any:
    """The model's type, which old files of BPE and WordPiece do not name."""
    return model.get("type") or ("BPE" if "merges" in model else "WordPiece")


def kind_of(definition: Definition) -> Kind:
    """Which of the kinds a `tokenizer.json` is; KeyError for a model that `tokenizers` does not have."""
    kinds: dict[str, Kind] = {"WordPiece": "wordpiece", "Unigram": "unigram", "WordLevel": "words"}
    name = model_name(definition["model"])
    if name == "BPE":
        outside = json.dumps([definition.get("pre_tokenizer"), definition.get("decoder")])
        return "byte-bpe" if "ByteLevel" in outside else "bpe"
    if definition.get("pre_tokenizer") == EVERY_CHARACTER:
        return "characters"
    return kinds[name]


def _framed(roles: Mapping[str, str], ids: Mapping[str, int], frame: FrameName) -> dict[str, Any] | None:
    """The special tokens around a text and a pair; none where the tokenizer lacks one of them."""
    before, between, after = FRAMES[frame]
    used = sorted({*before, *between, *after})
    if not used or not roles.keys() >= set(used):
        return None

    def special(of_roles: Sequence[str], segment: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": roles[role], "type_id": segment}} for role in of_roles]

    def text(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    first, second, end = SEGMENTS[frame]

    def ending(segment: int) -> list[dict[str, Any]]:
        return [*special(after[:-1], segment), *special(after[-1:], segment if end is None else end)]

    return {
        "type": "TemplateProcessing",
        "single": [*special(before, 0), text("A", 0), *ending(0)],
        "pair": [
            *special(before, 0),
            text("A", first),
            *special(between, first),
            text("B", second),
            *ending(second),
        ],
        "special_tokens": {
            roles[role]: {"id": roles[role], "ids": [ids[roles[role]]], "tokens": [roles[role]]}
            for role in used
        },
    }


SEGMENTS: dict[FrameName, tuple[int, int, int | None]] = {
    "around": (0, 1, None),
    "doubled": (0, 0, None),
    "behind": (0, 1, 2),
    "end": (0, 0, None),
    "none": (0, 0, None),
}
"""The segments of the two texts of a pair, and that of the very last token where it has one of its own."""
