"""Tokens that stand beside a vocabulary: in `added_tokens.json`, `tokenizer_config.json` and
`special_tokens_map.json`, with the ids that transformers gives them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from polyseme.errors import CheckpointError
from polyseme.text.pipelines import Definition
from polyseme.text.tokenizer_schema import MAX_ID
from polyseme.text.tokenizer_settings import HONOURED, ROLE_TOKENS, USUAL

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class _Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token as transformers writes it."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    special: bool = False
    kind: str = msgspec.field(default="AddedToken", name="__type")

    def entry(self, index: int) -> dict[str, Any]:
        """As a `tokenizer.json` holds it."""
        normalized = not self.special if self.normalized is None else self.normalized
        flags = {name: getattr(self, name) for name in _FLAGS} | {"normalized": normalized}
        return {"id": index, "content": self.content, **flags}


def declared(
    settings: Mapping[str, Any], legacy: Mapping[str, Any], path: Path
) -> dict[str, tuple[int, dict[str, Any]]]:
    """Tokens that are declared with an id, by their text: the id, and the entry of a `tokenizer.json`.

    `legacy` is the content of `added_tokens.json`, which counts only where the settings have no
    `added_tokens_decoder`, as in transformers.
    """
    decoder = settings.get("added_tokens_decoder")
    special = {text for text, _ in _specials(settings)}
    if decoder is None:
        tokens = [
            (_index(index, text, path), _Token(text, special=text in special))
            for text, index in legacy.items()
        ]
    elif isinstance(decoder, dict):
        tokens = [(_index(index, index, path), _token(token, path)) for index, token in decoder.items()]
    else:
        raise CheckpointError(f"the settings beside {path} have an added_tokens_decoder that is no object")
    tokens.sort(key=lambda token: token[0])
    return {token.content: (index, token.entry(index)) for index, token in tokens if token.content}


def with_added(
    definition: Definition,
    settings: Mapping[str, Any],
    found: Mapping[str, tuple[int, dict[str, Any]]],
    path: Path,
    *,
    undeclared: bool,
) -> Definition:
    """The definition with the tokens `found` beside it, and with the special tokens that settings name.

    Special tokens without an id get the next ones where they are `undeclared` in the vocabulary too; a text
    never holds them unless `Tokenizer.keeping` lets it.
    """
    entries = {entry["content"]: entry for entry in definition.get("added_tokens") or []}
    known = _vocabulary(definition["model"]) | {text: entry["id"] for text, entry in entries.items()}
    for text, (index, entry) in found.items():
        if known.get(text, index) != index:
            raise CheckpointError(
                f"the files beside {path} give the token {text[:40]!r} the id {index}, but its vocabulary "
                f"{known[text]}; make them agree"
            )
        entries[text] = entry | {"special": entry["special"] or _is_special(entries.get(text))}
        known[text] = index
    for text, named in _specials(settings):
        if text in known and text not in entries:
            entries[text] = named.entry(known[text])
        elif text not in known and undeclared and not _is_role(settings, text):
            known[text] = max(known.values(), default=-1) + 1
            entries[text] = named.entry(known[text])
    return definition | {"added_tokens": sorted(entries.values(), key=lambda entry: int(entry["id"]))}


def _specials(settings: Mapping[str, Any]) -> Iterator[tuple[str, _Token]]:
    """The special tokens that settings name, of roles and without."""
    named: list[Any] = [settings.get(name) for name in ROLE_TOKENS]
    for key in ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"):
        more = settings.get(key) or []
        named += more.values() if isinstance(more, dict) else more if isinstance(more, list) else []
    named += [
        value
        for key, value in settings.items()
        if key.endswith("_token") and key not in HONOURED and key not in USUAL
    ]  # image_token and the like
    for token in named:
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            flags = {name: token[name] for name in _FLAGS if isinstance(token.get(name), bool)}
            yield token["content"], _Token(token["content"], **(flags | {"special": True}))
        elif isinstance(token, str) and token:
            yield token, _Token(token, special=True)


def _is_role(settings: Mapping[str, Any], text: str) -> bool:
    named = (settings.get(name) for name in ROLE_TOKENS)
    return text in [token.get("content") if isinstance(token, dict) else token for token in named]


def _is_special(entry: Mapping[str, Any] | None) -> bool:
    return entry is not None and bool(entry["special"])


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return dict(vocabulary)
    return {entry[0]: index for index, entry in enumerate(vocabulary)}


def _token(value: Any, path: Path) -> _Token:
    try:
        return msgspec.convert(value, _Token)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"added_tokens_decoder beside {path}: {error}") from error


def _index(value: Any, shown: str, path: Path) -> int:
    text = value if isinstance(value, str) else None
    number = int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MAX_ID:
        raise CheckpointError(
            f"the added token {shown[:40]!r} beside {path} has an id that is no number from 0 to {MAX_ID}"
        )
    return number
