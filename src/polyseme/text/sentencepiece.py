"""SentencePiece's own files, `spiece.model` and its kin, as what `tokenizer.json` would hold.

The file is a message of protocol buffers: pieces with their scores and types, the trainer's settings, and
the normaliser's table (Kudo and Richardson 2018, "SentencePiece"). What the family that uses it puts around
texts is not in it, but shows in its control pieces and in the numbers of the usual ones.
"""

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from polyseme.errors import CheckpointError
from polyseme.files import refuse_lfs_pointer
from polyseme.protobuf import Damaged, fields
from polyseme.text.character_map import check_character_map
from polyseme.text.frames import FrameName
from polyseme.text.pipelines import BLANK_SIGN, Definition, bpe_model, definition, unigram_model
from polyseme.text.roles import roles_of

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces."""

_UNIGRAM, _BPE = 1, 2
_KINDS = {_UNIGRAM: "unigram", _BPE: "bpe", 3: "word", 4: "char"}
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
ENDING = ".model"
SHIFTED = "sentencepiece.bpe.model"
"""The name of the files whose pieces XLM-R numbers in its own way, whatever kind they are."""

_MODEL_TYPE, _BLANK_BEHIND = 3, 24
_CHARACTERS, _BLANK_IN_FRONT, _FEWER_BLANKS = 2, 3, 4
_SENTINELS = 100
"""Tokens for hidden spans that T5's tokenizer adds behind the pieces, unless its settings say otherwise."""

_LOWERCASE: dict[FrameName, bool] = {"around": True, "behind": False}
"""Whether the families that prepare texts themselves, ALBERT and XLNet, lower them by default."""


class Piece(NamedTuple):
    """One entry of the vocabulary."""

    text: str
    score: float
    """The logarithm of its probability; in BPE minus its place among the merges."""
    type: int


class Model(NamedTuple):
    """What a file says."""

    pieces: list[Piece]
    kind: int
    characters: bytes
    """The normaliser's compiled table; empty where texts stay as they are."""
    blank_in_front: bool
    fewer_blanks: bool
    """Blanks around a text are dropped, and several become one."""


def sentencepiece_tokenizer(
    path: Path, settings: Mapping[str, Any], more: dict[str, int]
) -> tuple[Definition, dict[str, str]]:
    """The definition of a tokenizer, and its special tokens by role; `more` are tokens added beside the file.

    Of `settings`, those of `tokenizer_config.json` beside it, count the special tokens, `do_lower_case`,
    `keep_accents` and `extra_ids`. Raises `CheckpointError` for a file that is damaged or of a kind that is
    not read.
    """
    refuse_lfs_pointer(path, CheckpointError)
    try:
        model = read_model(path.read_bytes())
    except (Damaged, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is no SentencePiece model, or is damaged: {error}") from error
    if model.kind not in (_UNIGRAM, _BPE):
        raise CheckpointError(
            f"{path} is a SentencePiece model of the kind {_KINDS.get(model.kind, model.kind)}; "
            "only unigram and bpe are read"
        )
    shifted = path.name.endswith(SHIFTED)
    pieces = _shifted(model.pieces) if shifted else model.pieces
    unknown = next(piece.text for piece in pieces if piece.type == UNKNOWN)
    special = {piece.text for piece in pieces if piece.type == CONTROL} | {unknown, *more}
    roles = roles_of(settings, special, path, unknown=unknown)
    frame = "doubled" if shifted else _frame(roles)
    if frame == "end":
        pieces = [*pieces, *_sentinels(settings, path)]
    own = {piece.text: number for number, piece in enumerate(pieces)}
    if len(own) < len(pieces):
        raise CheckpointError(f"{path} is damaged: a piece stands twice in its vocabulary")
    ids = own | more
    whole = definition(
        "unigram" if model.kind == _UNIGRAM else "bpe",
        _unigram(pieces) if model.kind == _UNIGRAM else _merged(pieces, own),
        roles=roles,
        ids=ids,
        normalizer=_normalizer(model, settings, lowercase=_LOWERCASE.get(frame)),
        frame=frame,
        more=[piece.text for piece in pieces if piece.type == CONTROL],
    )
    if model.kind == _BPE:  # Unigram has them in its scores.
        whole["added_tokens"] += _found_first(pieces, ids)
    return whole | _blanks(model, pieces), roles


def read_model(content: bytes) -> Model:
    """The message of a file; raises `Damaged` where the bytes are none."""
    pieces: list[Piece] = []
    kind, characters, in_front, fewer = _UNIGRAM, b"", True, True
    for field in fields(content):
        if field.number == _PIECES:
            pieces.append(_piece(field.content()))
        elif field.number == _TRAINER:
            for inner in fields(field.content()):
                if inner.number == _MODEL_TYPE:
                    kind = inner.integer()
                if inner.number == _BLANK_BEHIND and inner.integer():
                    raise Damaged("its blanks stand behind words, which is not read here")
        elif field.number == _NORMALIZER:
            for inner in fields(field.content()):
                if inner.number == _CHARACTERS:
                    characters = inner.content()
                elif inner.number == _BLANK_IN_FRONT:
                    in_front = bool(inner.integer())
                elif inner.number == _FEWER_BLANKS:
                    fewer = bool(inner.integer())
    if characters:
        check_character_map(characters)
    if not any(piece.type == UNKNOWN for piece in pieces):
        raise Damaged("it has no piece for what is unknown")
    return Model(pieces, kind, characters, in_front, fewer)


def _piece(content: bytes) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for field in fields(content):
        if field.number == 1:
            text = field.content().decode()
        elif field.number == 2:
            score = struct.unpack("<f", (field.integer() & 0xFFFFFFFF).to_bytes(4, "little"))[0]
        elif field.number == 3:
            kind = field.integer()
    if not text or not math.isfinite(score) or kind not in range(NORMAL, BYTE + 1):
        raise Damaged(f"a piece is {text!r} with the score {score} and the type {kind}")
    return Piece(text, score, kind)


def _shifted(pieces: Sequence[Piece]) -> list[Piece]:
    """XLM-R's numbers: fairseq's four special tokens, the pieces behind the file's own three, the mask."""
    first = [Piece("<s>", 0.0, CONTROL), Piece("<pad>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL)]
    return [*first, Piece("<unk>", 0.0, UNKNOWN), *pieces[3:], Piece("<mask>", 0.0, CONTROL)]


def _frame(roles: Mapping[str, str]) -> FrameName:
    """By the spelling of the control pieces, in which the families differ."""
    if roles.get("first") == "[CLS]":
        return "around"
    if roles.get("first") == "<cls>":
        return "behind"
    return "end" if "separator" in roles and "first" not in roles else "none"


def _sentinels(settings: Mapping[str, Any], path: Path) -> list[Piece]:
    """`<extra_id_99>` to `<extra_id_0>`, in the order of their ids."""
    number = settings.get("extra_ids", _SENTINELS)
    if not isinstance(number, int) or not 0 <= number <= 10_000:
        raise CheckpointError(
            f"the settings beside {path} have extra_ids {number!r}; it is a number from 0 on"
        )
    return [Piece(f"<extra_id_{n}>", 0.0, CONTROL) for n in reversed(range(number))]


def _unigram(pieces: Sequence[Piece]) -> dict[str, Any]:
    """The most probable cut; a piece that the user defined is always found, and a special one is no text."""
    scores = [piece.score for piece in pieces if piece.type == NORMAL] or [0.0]
    lowest, highest = min(scores), max(scores)
    # So does SentencePiece: above any cut of the same characters, however many they are.
    defined = {piece.text: len(piece.text) * highest - 0.1 for piece in pieces if piece.type == USER_DEFINED}
    own = {NORMAL, USER_DEFINED}
    vocabulary = [
        (piece.text, defined.get(piece.text, piece.score) if piece.type in own else lowest)
        for piece in pieces
    ]
    unknown = next(number for number, piece in enumerate(pieces) if piece.type == UNKNOWN)
    model = unigram_model(vocabulary, unknown=unknown)
    return model | {"byte_fallback": any(piece.type == BYTE for piece in pieces)}


def _merged(pieces: Sequence[Piece], ids: Mapping[str, int]) -> dict[str, Any]:
    """The pair with the highest score is merged first, so each piece stands for every pair that gives it."""
    normal = sorted((piece for piece in pieces if piece.type == NORMAL), key=lambda piece: -piece.score)
    known = {piece.text for piece in normal}
    merges = [
        (piece.text[:cut], piece.text[cut:])
        for piece in normal
        for cut in range(1, len(piece.text))
        if piece.text[:cut] in known and piece.text[cut:] in known
    ]
    unknown = next(piece.text for piece in pieces if piece.type == UNKNOWN)
    model = bpe_model(ids, merges, unknown=unknown)
    return model | {"fuse_unk": True, "byte_fallback": any(piece.type == BYTE for piece in pieces)}


def _found_first(pieces: Sequence[Piece], ids: Mapping[str, int]) -> list[dict[str, Any]]:
    """Pieces that the user defined, which no merge may cross."""
    return [
        {
            "id": ids[piece.text],
            "content": piece.text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": False,
        }
        for piece in pieces
        if piece.type == USER_DEFINED
    ]


def _normalizer(
    model: Model, settings: Mapping[str, Any], *, lowercase: bool | None
) -> dict[str, Any] | None:
    """What is done to a text before it is cut; `lowercase` is None where the family leaves texts alone."""
    steps: list[dict[str, Any]] = []
    if lowercase is not None:
        steps += [{"type": "Replace", "pattern": {"String": quote}, "content": '"'} for quote in ("``", "''")]
        if not settings.get("keep_accents", False):
            steps += [{"type": "NFKD"}, {"type": "StripAccents"}]
        if settings.get("do_lower_case", lowercase):
            steps.append({"type": "Lowercase"})
    if model.characters:
        table = base64.b64encode(model.characters).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": table})
    if model.fewer_blanks:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if model.blank_in_front:  # in front of a blank too, which the pre-tokenizer would not do
        steps.append({"type": "Prepend", "prepend": BLANK_SIGN})
    return {"type": "Sequence", "normalizers": steps} if steps else None


def _blanks(model: Model, pieces: Sequence[Piece]) -> Definition:
    """Blanks as signs, before cutting and after joining."""
    inner = any(BLANK_SIGN in piece.text[1:] for piece in pieces if piece.type == NORMAL)
    signs = {
        "type": "Metaspace",
        "replacement": BLANK_SIGN,
        "prepend_scheme": "never",
        "split": not inner,
    }
    bytewise = any(piece.type == BYTE for piece in pieces)
    written = signs | {"prepend_scheme": "always" if model.blank_in_front else "never"}
    steps = [*([{"type": "ByteFallback"}] if bytewise else []), written]
    return {"pre_tokenizer": signs, "decoder": {"type": "Sequence", "decoders": steps}}
