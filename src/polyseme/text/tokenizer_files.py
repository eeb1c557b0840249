"""Tokenizers on disk: `tokenizer.json`, `vocab.txt`, GPT-2's vocabulary and merges, SentencePiece's model,
and the settings beside them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from polyseme.errors import CheckpointError
from polyseme.files import refuse_lfs_pointer
from polyseme.text.frames import FrameName
from polyseme.text.pipelines import (
    BERT_WORDS,
    Definition,
    bpe_model,
    definition,
    kind_of,
    normalizer,
    wordpiece_model,
)
from polyseme.text.roles import ROLES, roles_of
from polyseme.text.sentencepiece import ENDING, sentencepiece_tokenizer

BYTE_PAIRS: dict[str, tuple[str, ...]] = {
    "merges.txt": ("vocab.json", "vocab.txt"),
    "vocab.bpe": ("encoder.json",),
    "vocab_40000.bpe": ("encoder_bpe_40000.json",),
}
"""Files of merges, and of the vocabulary beside them: as transformers, GPT-2 and GPT call them. Something
may stand before both names."""

_END_OF_WORD = "</w>"
"""What ends the last token of a word in GPT's vocabulary (Sennrich et al. 2016, section 3.2)."""

_BERT_SWITCHES = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}

_FRAMES: dict[str, FrameName] = {"RobertaTokenizer": "doubled", "GPT2Tokenizer": "none"}
"""By the tokenizer_class of settings beside a vocabulary with merges, which itself says nothing of a frame.

Without a class, `<s>` as the first token tells RoBERTa's."""


def read_tokenizer(source: Path) -> tuple[Definition, dict[str, str]]:
    """The `tokenizer.json` that a folder or file amounts to, and its special tokens by role."""
    if not source.exists():
        raise CheckpointError(f"there is no tokenizer at {source}; name a folder or a vocabulary file")
    path = _main_file(source) if source.is_dir() else source
    settings = _settings_beside(path)
    merges = _merges_beside(path)
    if merges is not None:
        return _byte_pairs(path, merges, settings)
    if path.name.endswith(ENDING):
        return sentencepiece_tokenizer(path, settings)
    if path.suffix == ".json":
        return _tokenizer_json(path, settings)
    return _bert_vocabulary(path, settings)


def write_tokenizer(
    definition: Definition, roles: Mapping[str, str], *, token_type_ids: bool, max_length: int | None
) -> dict[str, bytes]:
    """The files of a tokenizer's folder, by name, such that transformers makes the same ids."""
    tokens = {ROLES[role][0][0]: token for role, token in roles.items()}
    if "separator" in roles and roles.get("first", roles["separator"]) == roles["separator"]:
        # Where nothing of its own begins a text, what ends it is what a model writes at last.
        tokens["eos_token"] = roles["separator"]
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokens,
        "clean_up_tokenization_spaces": False,
        "model_input_names": inputs if token_type_ids else [inputs[0], inputs[2]],
    }
    if max_length is not None:
        settings["model_max_length"] = max_length
    files = {"tokenizer.json": _json(definition), "special_tokens_map.json": _json(tokens)}
    if definition["model"].get("type") == "WordPiece":
        rules = definition.get("normalizer") or {}
        if rules.get("type") == "BertNormalizer":
            settings |= {name: rules[switch] for name, switch in _BERT_SWITCHES.items()}
        vocabulary = sorted(definition["model"]["vocab"].items(), key=lambda entry: entry[1])
        if [index for _, index in vocabulary] == list(range(len(vocabulary))):
            files["vocab.txt"] = "".join(f"{token}\n" for token, _ in vocabulary).encode()
    files["tokenizer_config.json"] = _json(settings)
    return files


def _main_file(folder: Path) -> Path:
    """The file of a folder that says most: tokenizer.json, then a vocabulary with merges, then vocab.txt,
    then SentencePiece's model."""
    if (folder / "tokenizer.json").exists():
        return folder / "tokenizer.json"
    merges = sorted(path for path in folder.iterdir() if path.name.endswith(tuple(BYTE_PAIRS)))
    if len(merges) == 1:
        return merges[0]
    if (folder / "vocab.txt").exists():
        return folder / "vocab.txt"
    models = sorted(path for path in folder.iterdir() if path.name.endswith(ENDING))
    if len(models) == 1:
        return models[0]
    raise CheckpointError(
        f"{folder} holds no tokenizer: neither tokenizer.json nor vocab.txt nor one vocabulary with merges "
        "nor one SentencePiece model; name the file itself if it has another name"
    )


def _merges_beside(path: Path) -> Path | None:
    """The merges that belong to a vocabulary, told by the name: `x_vocab.json` and `x_merges.txt`."""
    for ending, vocabularies in BYTE_PAIRS.items():
        if path.name.endswith(ending):
            return path
        for vocabulary in vocabularies:
            merges = path.with_name(path.name.removesuffix(vocabulary) + ending)
            if path.name.endswith(vocabulary) and merges.exists():
                return merges
    return None


def _tokenizer_json(path: Path, settings: dict[str, Any]) -> tuple[Definition, dict[str, str]]:
    content = _read_json(path)
    if not isinstance(content.get("model"), dict):
        raise CheckpointError(
            f'{path} is no tokenizer.json: it has no "model"; if it is GPT-2\'s vocab.json, '
            "merges.txt must lie beside it"
        )
    try:
        kind_of(content)
    except KeyError as error:
        raise CheckpointError(f"{path} holds a model of an unknown kind, {error}") from error
    # What transformers does when it uses the tokenizer in training must not cut or pad texts here.
    content |= {"truncation": None, "padding": None}
    try:
        _switch(content.get("normalizer"), settings)
        tokens = _tokens_of(content["model"])
        known = tokens | {entry["content"] for entry in content.get("added_tokens", []) if "id" in entry}
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged: its vocabulary, normalizer or added tokens are not what they must be"
        ) from error
    unknown = content["model"].get("unk_token")
    if unknown is not None and unknown not in tokens:
        raise CheckpointError(
            f"{path} names the unknown token {unknown!r}, but the vocabulary lacks it; add it"
        )
    return content, roles_of(settings, known, path, unknown=unknown)


def _switch(rules: dict[str, Any] | None, settings: Mapping[str, Any]) -> None:
    """Let the settings beside a tokenizer decide about BERT's normalizer, as transformers does."""
    if rules is not None and rules.get("type") == "BertNormalizer":
        rules |= {switch: settings[name] for name, switch in _BERT_SWITCHES.items() if name in settings}


def _tokens_of(model: Mapping[str, Any]) -> set[str]:
    vocabulary = model.get("vocab", {})
    return set(vocabulary) if isinstance(vocabulary, dict) else {entry[0] for entry in vocabulary}


def _bert_vocabulary(path: Path, settings: dict[str, Any]) -> tuple[Definition, dict[str, str]]:
    """A `vocab.txt`, one token a line; lower case unless the settings beside it say otherwise."""
    vocabulary = _numbered(_without_numbers(_lines(path)), path)
    roles = roles_of(settings, set(vocabulary), path)
    missing = [role for role in ROLES if role not in roles]
    if missing:
        raise CheckpointError(
            f"{path} lacks the special token for {', '.join(missing)} "
            f"({', '.join(ROLES[role][1][0] for role in missing)}); add the line, "
            "or name the token in tokenizer_config.json beside it"
        )
    rules = normalizer("wordpiece", lowercase=True, strip_accents=None)
    _switch(rules, settings)
    model = wordpiece_model(vocabulary, unknown=roles["unknown"])
    return definition("wordpiece", model, roles=roles, ids=vocabulary, normalizer=rules), roles


def _byte_pairs(path: Path, merges: Path, settings: dict[str, Any]) -> tuple[Definition, dict[str, str]]:
    """GPT-2's or GPT's pair of files; the vocabulary may be JSON or one token a line."""
    vocabulary = _read_vocabulary(merges)
    pairs = []
    for number, line in enumerate(_lines(merges), start=1):
        if line.startswith("#version") or not line:
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not {*parts, "".join(parts)} <= vocabulary.keys():
            raise CheckpointError(
                f"{merges}, line {number}: {line!r} is not a merge of two tokens of the vocabulary beside it"
            )
        pairs.append((parts[0], parts[1]))
    roles = roles_of(settings, set(vocabulary), path)
    if any(token.endswith(_END_OF_WORD) for token in vocabulary):
        return _ended_words(vocabulary, pairs, roles), roles
    model = bpe_model(vocabulary, pairs, unknown=None)
    kind = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    first, separator = roles.get("first"), roles.get("separator")
    # One token for begin and end is GPT-2's, which puts it around nothing; RoBERTa's are <s> and </s>.
    usual: FrameName = "none" if first == separator else ("doubled" if first == "<s>" else "around")
    frame = _FRAMES.get(kind, usual)
    return definition("byte-bpe", model, roles=roles, ids=vocabulary, normalizer=None, frame=frame), roles


def _ended_words(
    vocabulary: Mapping[str, int], pairs: Sequence[tuple[str, str]], roles: Mapping[str, str]
) -> Definition:
    """GPT's tokenizer, without the repairs of ftfy and spaCy's cut, as transformers has it: BERT's words in
    lower case, whose last tokens end in `</w>`."""
    model = bpe_model(vocabulary, pairs, unknown=roles.get("unknown"))
    model["end_of_word_suffix"] = _END_OF_WORD
    rules = normalizer("wordpiece", lowercase=True, strip_accents=None)
    whole = definition("bpe", model, roles=roles, ids=vocabulary, normalizer=rules, frame="none")
    decoder = {"type": "BPEDecoder", "suffix": _END_OF_WORD}
    return whole | {"pre_tokenizer": BERT_WORDS, "decoder": decoder}


def _read_vocabulary(merges: Path) -> dict[str, int]:
    ending = next(ending for ending in BYTE_PAIRS if merges.name.endswith(ending))
    stem = merges.name.removesuffix(ending)
    for name in BYTE_PAIRS[ending]:
        path = merges.with_name(stem + name)
        if path.exists():
            return _read_json(path) if name.endswith(".json") else _numbered(_lines(path), path)
    raise CheckpointError(
        f"{merges} has no {' or '.join(stem + name for name in BYTE_PAIRS[ending])} beside it"
    )


def _settings_beside(path: Path) -> dict[str, Any]:
    """The special tokens and switches of the JSON files that transformers writes beside a vocabulary."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if path.with_name(name).exists() and path.name != name:
            settings |= _read_json(path.with_name(name))
    return settings


def _numbered(lines: Sequence[str], path: Path) -> dict[str, int]:
    vocabulary: dict[str, int] = {}
    for index, token in enumerate(lines):
        if token in vocabulary:
            raise CheckpointError(
                f"{path}, line {index + 1}: the token {token!r} already stands in line "
                f"{vocabulary[token] + 1}; each token may stand once"
            )
        vocabulary[token] = index
    if not vocabulary:
        raise CheckpointError(f"{path} is empty; a vocabulary has one token a line")
    return vocabulary


def _without_numbers(lines: list[str]) -> list[str]:
    """The tokens of lines that end in a tab and their own number, as ERNIE's vocabulary writes them."""
    numbered = all(line.endswith(f"\t{index}") for index, line in enumerate(lines))
    return [line.rpartition("\t")[0] for line in lines] if numbered else lines


def _lines(path: Path) -> list[str]:
    """The lines of a file; only the line feed ends one, for U+2028 is a token of BERT's vocabulary."""
    refuse_lfs_pointer(path, CheckpointError)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path} is not UTF-8 (byte {error.start}); a vocabulary has one token a line"
        ) from error
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def _read_json(path: Path) -> dict[str, Any]:
    refuse_lfs_pointer(path, CheckpointError)
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error) or 'nested too deeply'}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no settings file: it holds {type(content).__name__}, not an object")
    return content


def _json(content: Any) -> bytes:
    # Python's own indenting takes seconds for a vocabulary of 250,000 tokens.
    return msgspec.json.format(json.dumps(content, ensure_ascii=False).encode(), indent=2) + b"\n"
