"""The table path: tokenising at the speed of NumPy where one character alone decides its token.

In BERT's rules an ideograph or a sign is a token whatever stands beside it, and a blank always parts.
Such characters are looked up in a table, a whole text at once. What lies between them (Latin words,
numbers, marks that combine, controls) depends on its neighbours; each such run goes through the real
pipeline once and is remembered. The table itself is asked of the real pipeline, one character at a time,
so it cannot disagree about what a sign or a blank is.
"""

import unicodedata
from typing import Any

import numpy as np
import tokenizers

from polyseme.text.codepoints import CharacterTable, codepoints
from polyseme.text.encoded import Int32s, Int64s
from polyseme.text.memo import Memo
from polyseme.text.pipelines import BERT_WORDS, EVERY_CHARACTER, Definition

_PARTS = -1  # yields no token and ends what is beside it
_RUN = -2  # depends on its neighbours


def suits(definition: Definition) -> bool:
    """Whether single characters decide: BERT's normalizer and cut, or every character for itself."""
    normal = definition.get("normalizer") is None or definition["normalizer"]["type"] == "BertNormalizer"
    cut = definition.get("pre_tokenizer") in (BERT_WORDS, EVERY_CHARACTER)
    model = definition["model"].get("type") in ("WordPiece", "WordLevel")
    # Tokens that a user added are looked for anywhere in the text, also across characters.
    added = any(not entry["special"] for entry in definition.get("added_tokens", []))
    return normal and cut and model and not added


class TablePath:
    """The table of one tokenizer, and the memo for what the table cannot say."""

    def __init__(
        self, pipeline: tokenizers.Tokenizer, definition: Definition, memo: Memo, *, forbidden: frozenset[int]
    ) -> None:
        self._normalizer: Any = pipeline.normalizer
        self._cut: Any = pipeline.pre_tokenizer
        self._vocabulary: dict[str, int] = definition["model"]["vocab"]
        self._unknown = self._vocabulary[definition["model"]["unk_token"]]
        self._forbidden = forbidden
        self._memo = memo
        self._table = CharacterTable(self._code)

    def encode(self, text: str) -> tuple[Int32s, Int32s]:
        """Ids and offsets of all tokens of `text`."""
        codes = self._table[codepoints(text)]
        singles = np.flatnonzero(codes >= 0)
        in_run = codes == _RUN
        edges = np.flatnonzero(np.diff(in_run, prepend=False, append=False))
        if not len(edges):
            return codes[singles], _offsets(singles)
        begins, ends = edges[::2], edges[1::2]  # [runs]
        runs = [text[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
        run_ids, run_offsets, counts = self._memo.encode(runs, begins)
        # A run's tokens come after all singles before it and all tokens of earlier runs.
        before = np.searchsorted(singles, begins)
        at = np.repeat(before, counts) + np.arange(len(run_ids))
        ids = np.empty(len(singles) + len(run_ids), dtype=np.int32)
        offsets = np.empty((len(ids), 2), dtype=np.int32)
        single = np.ones(len(ids), dtype=bool)
        single[at] = False
        ids[at], ids[single] = run_ids, codes[singles]
        offsets[at], offsets[single] = run_offsets, _offsets(singles)
        return ids, offsets

    def _code(self, character: str) -> int:
        token = alone(character, self._normalizer, self._cut)
        if token is None:
            return _RUN
        index: int = self._vocabulary.get(token, self._unknown) if token else _PARTS
        return self._unknown if index in self._forbidden else index


def alone(character: str, normalizer: Any, cut: Any) -> str | None:
    """What a character is in any surroundings: a token by itself, "" if it only parts; None if it depends."""
    # What combines or decomposes may be sorted anew together with the marks beside it.
    if unicodedata.combining(character) or len(unicodedata.normalize("NFD", character)) > 1:
        return None
    around = f"x{character}x"
    normal = normalizer.normalize_str(around) if normalizer else around
    if normal == "xx":
        # What vanishes lets the marks on both of its sides meet.
        return None
    match [piece for piece, _ in cut.pre_tokenize_str(normal)]:
        case ["x", "x"]:
            return ""
        case ["x", str(token), "x"] if len(token) == 1:
            return token
    return None


def _offsets(singles: Int64s) -> Int32s:
    return np.stack([singles, singles + 1], axis=1).astype(np.int32)
