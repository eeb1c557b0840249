"""Tokenizers on disk: `tokenizer.json`, `vocab.txt`, GPT-2's vocabulary and merges, SentencePiece's model,
and the settings beside them."""

import codecs
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from polyseme import progress
from polyseme.errors import CheckpointError
from polyseme.files import refuse_lfs_pointer
from polyseme.text.added_tokens import declared, with_added
from polyseme.text.frames import FrameName
from polyseme.text.pipelines import (
    BERT_WORDS,
    Definition,
    bpe_model,
    definition,
    model_name,
    normalizer,
    wordpiece_model,
)
from polyseme.text.roles import ROLES, roles_of
from polyseme.text.sentencepiece import ENDING, sentencepiece_tokenizer
from polyseme.text.tokenizer_schema import MODELS, Id, check_definition
from polyseme.text.tokenizer_settings import KEEP, check_settings

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

_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that take a tokenizer.json as it is."""

_PREPARING = ("AlbertTokenizer", "XLNetTokenizer")
"""Classes that build their normalizer from the settings."""

_FRAMES: dict[str, FrameName] = {"RobertaTokenizer": "doubled", "GPT2Tokenizer": "none"}
"""By the tokenizer_class of settings beside a vocabulary with merges, which itself says nothing of a frame.

Without a class, `<s>` as the first token tells RoBERTa's."""


_MAX_BYTES = 1 << 27
"""Above the files of any published tokenizer."""


class Tokens(NamedTuple):
    """What the files of a tokenizer amount to."""

    definition: Definition
    """The content of a `tokenizer.json`."""
    roles: dict[str, str]
    """Special tokens by role."""
    kept: tuple[str, ...] = ()
    """Special tokens that a text may hold."""


def read_tokenizer(source: Path, *, undeclared: bool = True) -> Tokens:
    """The tokenizer of a folder or file; `undeclared` special tokens, which have no id, get the next ones."""
    if not source.exists():
        raise CheckpointError(f"there is no tokenizer at {source}; name a folder or a vocabulary file")
    path = _main_file(source) if source.is_dir() else source
    settings = _settings_beside(path)
    kind = _kind_of_file(path)
    check_settings(settings, path, kind=kind)
    legacy = (
        {} if settings.get("added_tokens_decoder") is not None else _json_beside(path, "added_tokens.json")
    )
    found = declared(settings, legacy, path)
    more = {text: index for text, (index, _) in found.items()}
    if kind == "merges":
        definition, roles = _byte_pairs(path, settings, more)
    elif kind == "sentencepiece":
        definition, roles = sentencepiece_tokenizer(path, settings, more)
    elif kind == "tokenizer.json":
        definition, roles = _tokenizer_json(path, settings, more)
    else:
        definition, roles = _bert_vocabulary(path, settings, more)
    definition = with_added(definition, settings, found, path, undeclared=undeclared)
    definition = _as_segments_say(definition, settings)
    return Tokens(definition, roles, _kept(settings, path))


def write_tokenizer(
    definition: Definition,
    roles: Mapping[str, str],
    *,
    kept: Sequence[str] = (),
    token_type_ids: bool,
    max_length: int | None,
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
    if kept:
        settings[KEEP] = list(kept)
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


def _kind_of_file(path: Path) -> str:
    """Which of the kinds of `tokenizer_settings` a vocabulary is, by its name and what lies beside it."""
    if _merges_beside(path) is not None:
        return "merges"
    if path.name.endswith(ENDING):
        return "sentencepiece"
    return "tokenizer.json" if path.suffix == ".json" else "vocab.txt"


def _tokenizer_json(
    path: Path, settings: dict[str, Any], more: dict[str, int]
) -> tuple[Definition, dict[str, str]]:
    content = _read_json(path)
    if not isinstance(content.get("model"), dict):
        raise CheckpointError(
            f'{path} is no tokenizer.json: it has no "model"; if it is GPT-2\'s vocab.json, '
            "merges.txt must lie beside it"
        )
    name = model_name(content["model"])
    if not isinstance(name, str) or name not in MODELS:
        raise CheckpointError(f"{path} holds a model of the unknown kind {str(name)[:40]!r}")
    # What transformers does when it uses the tokenizer in training must not cut or pad texts here.
    content |= {"truncation": None, "padding": None}
    check_definition(content, model=name, where=str(path))
    _switch(content.get("normalizer"), settings)
    _check_lowering(content, settings, path)
    _put_blank_in_front(content, settings, path)
    tokens = _tokens_of(content["model"])
    known = tokens | {entry["content"] for entry in content.get("added_tokens") or []} | more.keys()
    unknown = content["model"].get("unk_token")
    if unknown is not None and unknown not in tokens:
        raise CheckpointError(
            f"{path} names the unknown token {unknown!r}, but the vocabulary lacks it; add it"
        )
    return content, roles_of(settings, known, path, unknown=unknown)


def _switch(rules: dict[str, Any] | None, settings: Mapping[str, Any]) -> None:
    """Let the settings beside a tokenizer decide about BERT's normalizer, as transformers does."""
    if rules is None or rules.get("type") != "BertNormalizer":
        return
    for name, switch in _BERT_SWITCHES.items():
        value = settings.get(name, rules.get(switch))
        if not isinstance(value, bool) and (value is not None or name != "strip_accents"):
            raise CheckpointError(
                f"the setting {name} beside a tokenizer is true or false, not {value!r:.40}"
            )
        rules[switch] = value


def _put_blank_in_front(content: Definition, settings: Mapping[str, Any], path: Path) -> None:
    """Let `add_prefix_space` decide about a cut into bytes, as the classes of GPT-2 and RoBERTa do."""
    asked, cut = settings.get("add_prefix_space"), content.get("pre_tokenizer") or {}
    if not isinstance(asked, bool) or settings.get("tokenizer_class") in (None, *_GENERIC):
        return
    if cut.get("type") == "ByteLevel":
        content["pre_tokenizer"] = cut | {"add_prefix_space": asked}
    elif cut.get("type") == "Metaspace" and asked == (cut.get("prepend_scheme") == "never"):
        raise CheckpointError(
            f"{path} has the prepend_scheme {cut['prepend_scheme']}, but the settings beside it "
            f"add_prefix_space {asked}; make them agree"
        )


def _check_lowering(content: Definition, settings: Mapping[str, Any], path: Path) -> None:
    """Refuse a `do_lower_case` or `keep_accents` that ALBERT's and XLNet's classes would set otherwise."""
    if str(settings.get("tokenizer_class")).removesuffix("Fast") not in _PREPARING:
        return
    rules = content.get("normalizer") or {}
    steps = {step["type"] for step in rules.get("normalizers", [rules]) if step}
    for name, step, value in (("do_lower_case", "Lowercase", True), ("keep_accents", "StripAccents", False)):
        if isinstance(settings.get(name), bool) and (settings[name] is value) != (step in steps):
            raise CheckpointError(
                f"the settings beside {path} have {name} {settings[name]}, which its normalizer does not do; "
                "make them agree"
            )


def _as_segments_say(definition: Definition, settings: Mapping[str, Any]) -> Definition:
    """Where `model_input_names` leaves the segments out, transformers gives a model none: all are 0."""
    names, template = settings.get("model_input_names"), definition.get("post_processor") or {}
    if not isinstance(names, list) or "token_type_ids" in names:
        return definition
    if template.get("type") != "TemplateProcessing":
        return definition
    plain = {
        name: [
            {kind: part | {"type_id": 0} for kind, part in piece.items() if part} for piece in template[name]
        ]
        for name in ("single", "pair")
    }
    return definition | {"post_processor": template | plain}


def _kept(settings: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    kept = settings.get(KEEP) or []
    if not isinstance(kept, list) or not all(isinstance(token, str) for token in kept):
        raise CheckpointError(f"the settings beside {path} have {KEEP} that is no list of tokens")
    return tuple(kept)


def _tokens_of(model: Mapping[str, Any]) -> set[str]:
    vocabulary = model.get("vocab", {})
    return set(vocabulary) if isinstance(vocabulary, dict) else {entry[0] for entry in vocabulary}


def _bert_vocabulary(
    path: Path, settings: dict[str, Any], more: dict[str, int]
) -> tuple[Definition, dict[str, str]]:
    """A `vocab.txt`, one token a line; lower case unless the settings beside it say otherwise."""
    vocabulary = _numbered(_without_numbers(_lines(path)), path)
    ids = vocabulary | more
    roles = roles_of(settings, set(ids), path)
    missing = [role for role in ROLES if role not in roles]
    if missing:
        raise CheckpointError(
            f"{path} lacks the special token for {', '.join(missing)} "
            f"({', '.join(ROLES[role][1][0] for role in missing)}); add the line, "
            "or name the token in tokenizer_config.json beside it"
        )
    rules = normalizer("wordpiece", lowercase=True, strip_accents=None)
    _switch(rules, settings)
    if roles["unknown"] not in vocabulary:
        raise CheckpointError(f"{path} lacks the unknown token {roles['unknown']!r}; add the line")
    model = wordpiece_model(vocabulary, unknown=roles["unknown"])
    return definition("wordpiece", model, roles=roles, ids=ids, normalizer=rules), roles


def _byte_pairs(
    path: Path, settings: dict[str, Any], more: dict[str, int]
) -> tuple[Definition, dict[str, str]]:
    """GPT-2's or GPT's pair of files; the vocabulary may be JSON or one token a line."""
    merges = _merges_beside(path)
    assert merges is not None
    vocabulary = _read_vocabulary(merges)
    ids = vocabulary | more
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
    roles = roles_of(settings, set(ids), path)
    if any(token.endswith(_END_OF_WORD) for token in vocabulary):
        return _ended_words(vocabulary, pairs, roles, ids), roles
    model = bpe_model(vocabulary, pairs, unknown=None)
    kind = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    first, separator = roles.get("first"), roles.get("separator")
    # One token for begin and end is GPT-2's, which puts it around nothing; RoBERTa's are <s> and </s>.
    usual: FrameName = "none" if first == separator else ("doubled" if first == "<s>" else "around")
    frame = _FRAMES.get(kind, usual)
    whole = definition("byte-bpe", model, roles=roles, ids=ids, normalizer=None, frame=frame)
    if isinstance(settings.get("add_prefix_space"), bool):
        whole["pre_tokenizer"] = whole["pre_tokenizer"] | {"add_prefix_space": settings["add_prefix_space"]}
    return whole, roles


def _ended_words(
    vocabulary: Mapping[str, int],
    pairs: Sequence[tuple[str, str]],
    roles: Mapping[str, str],
    ids: Mapping[str, int],
) -> Definition:
    """GPT's tokenizer, without the repairs of ftfy and spaCy's cut, as transformers has it: BERT's words in
    lower case, whose last tokens end in `</w>`."""
    model = bpe_model(vocabulary, pairs, unknown=roles.get("unknown"))
    model["end_of_word_suffix"] = _END_OF_WORD
    rules = normalizer("wordpiece", lowercase=True, strip_accents=None)
    whole = definition("bpe", model, roles=roles, ids=ids, normalizer=rules, frame="none")
    decoder = {"type": "BPEDecoder", "suffix": _END_OF_WORD}
    return whole | {"pre_tokenizer": BERT_WORDS, "decoder": decoder}


def _read_vocabulary(merges: Path) -> dict[str, int]:
    ending = next(ending for ending in BYTE_PAIRS if merges.name.endswith(ending))
    stem = merges.name.removesuffix(ending)
    for name in BYTE_PAIRS[ending]:
        path = merges.with_name(stem + name)
        if path.exists():
            return _ids(_read_json(path), path) if name.endswith(".json") else _numbered(_lines(path), path)
    raise CheckpointError(
        f"{merges} has no {' or '.join(stem + name for name in BYTE_PAIRS[ending])} beside it"
    )


def _ids(vocabulary: dict[str, Any], path: Path) -> dict[str, int]:
    try:
        return msgspec.convert(vocabulary, dict[str, Id])
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path} is no vocabulary: {str(error)[:200]}") from error


def _settings_beside(path: Path) -> dict[str, Any]:
    """The special tokens and switches of the JSON files that transformers writes beside a vocabulary.

    As there, special_tokens_map.json decides unless tokenizer_config.json lists the added tokens.
    """
    tokens = _json_beside(path, "special_tokens_map.json")
    settings = _json_beside(path, "tokenizer_config.json")
    return tokens | settings if "added_tokens_decoder" in settings else settings | tokens


def _json_beside(path: Path, name: str) -> dict[str, Any]:
    beside = path.with_name(name)
    return _read_json(beside) if beside.exists() and path.name != name else {}


def _numbered(lines: Sequence[str], path: Path) -> dict[str, int]:
    """Tokens by their line; of equal ones the later counts, as in transformers, and the numbers stay."""
    vocabulary = {token: index for index, token in enumerate(lines)}
    if not vocabulary:
        raise CheckpointError(f"{path} is empty; a vocabulary has one token a line")
    if len(vocabulary) < len(lines):
        token, index = next((token, index) for index, token in enumerate(lines) if vocabulary[token] != index)
        progress.warn(
            f"{path}: the token {token!r} of line {index + 1} is repeated in line {vocabulary[token] + 1}, "
            f"whose id is used, as in transformers ({len(lines) - len(vocabulary)} repeated lines)"
        )
    return vocabulary


def _without_numbers(lines: list[str]) -> list[str]:
    """The tokens of lines that end in a tab and their own number, as ERNIE's vocabulary writes them."""
    numbered = all(line.endswith(f"\t{index}") for index, line in enumerate(lines))
    return [line.rpartition("\t")[0] for line in lines] if numbered else lines


def _lines(path: Path) -> list[str]:
    """The lines of a file; only the line feed ends one, for U+2028 is a token of BERT's vocabulary."""
    refuse_lfs_pointer(path, CheckpointError)
    try:
        text = _content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path} is not UTF-8 (byte {error.start}); a vocabulary has one token a line"
        ) from error
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def _read_json(path: Path) -> dict[str, Any]:
    refuse_lfs_pointer(path, CheckpointError)
    try:
        content = msgspec.json.decode(_content(path).removeprefix(codecs.BOM_UTF8))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error) or 'nested too deeply'}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no settings file: it holds {type(content).__name__}, not an object")
    return content


def _content(path: Path) -> bytes:
    """The bytes of a plain file: a pipe or a device may have no end."""
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is no plain file, as a tokenizer's files are")
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(
                f"{path} is larger than {_MAX_BYTES >> 20} MB, which no tokenizer's file is"
            )
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _json(content: Any) -> bytes:
    # Python's own indenting takes seconds for a vocabulary of 250,000 tokens.
    return msgspec.json.format(json.dumps(content, ensure_ascii=False).encode(), indent=2) + b"\n"
