"""Tokenizers: text to ids and back, with offsets into the raw text."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from polyseme.errors import CheckpointError, DataError, SettingsError
from polyseme.files import write_whole
from polyseme.input_files import require_regular, require_regular_entries
from polyseme.integrity import open_record
from polyseme.records import nearest
from polyseme.text.codepoints import codepoints, pieces, plain_word_starts, visible
from polyseme.text.encoded import Encoded, Int32s, Int64s
from polyseme.text.frames import Frame, frame_of
from polyseme.text.memo import Memo
from polyseme.text.panics import refusal
from polyseme.text.pipelines import Definition, Kind, kind_of, lowered
from polyseme.text.sequences import check_text, check_texts
from polyseme.text.table import TablePath, suits
from polyseme.text.tokenizer_files import read_tokenizer, write_tokenizer

_BATCH_CHARACTERS = 1 << 18
_CHINESE = "[\u3001-\u303f\u3400-\u9fff\uf900-\uff65\U00020000-\U0003ffff]"
_BLANKS_IN_CHINESE = re.compile(f"(?<={_CHINESE}) | (?={_CHINESE})")


class Tokenizer:
    """One tokenizer of any kind, around a pipeline of the `tokenizers` library.

    The text is data: a special token's name in it, "[SEP]" or "</s>", is encoded as the characters it is
    made of and never as the special token. (transformers does the opposite unless it is called with
    `split_special_tokens=True`.) Only the special tokens that `keeping` names, such as the marks "[E1]" and
    "[/E1]" of entities, are found in texts. No special tokens are added either; whoever builds inputs adds
    them.

    >>> tokenizer = Tokenizer.load("shared/vocab.txt")        # doctest: +SKIP
    >>> tokenizer.tokens(tokenizer.encode("BERT理解上下文").ids)  # doctest: +SKIP
    ['be', '##rt', '理', '解', '上', '下', '文']
    """

    kind: Kind
    vocabulary: list[str]
    """The token of each id; empty where the file leaves an id out."""
    special_tokens: dict[str, str]
    """Role (padding, unknown, first, separator, mask) to token, as far as the tokenizer has them."""
    special_ids: frozenset[int]
    sentinel_ids: tuple[int, ...]
    """`<extra_id_0>`, `<extra_id_1>` …: what T5 puts in the place of a hidden span; often none."""
    frame: Frame
    """What stands around a text and between two, by this tokenizer's own rules."""

    kept: tuple[str, ...]
    """Special tokens that a text may hold."""

    def __init__(
        self,
        definition: Definition,
        roles: Mapping[str, str],
        *,
        kept: Sequence[str] = (),
        where: str = "the tokenizer",
    ) -> None:
        self.kept = tuple(dict.fromkeys(kept))
        self._where = where
        found = _finding(definition, self.kept, where)
        try:
            self._pipeline = tokenizers.Tokenizer.from_str(json.dumps(found))
            # Without this the library finds the names of special tokens in raw text.
            self._pipeline.encode_special_tokens = True
            self.kind = kind_of(definition)
            ids = self._pipeline.get_vocab(with_added_tokens=True)
            _check_added(self._pipeline, definition, ids, where)
        except CheckpointError:
            raise
        except BaseException as error:
            raise refusal(error, where=where) from error
        self._definition = definition
        self.vocabulary = [""] * (max(ids.values(), default=-1) + 1)
        for token, index in ids.items():
            self.vocabulary[index] = token
        self.special_tokens = dict(roles)
        special = {entry["content"] for entry in definition.get("added_tokens", []) if entry["special"]}
        self._roles = {role: ids[token] for role, token in roles.items()}
        self.special_ids = frozenset([*self._roles.values(), *(ids[token] for token in special)])
        self.sentinel_ids = tuple(
            ids[token]
            for token in takewhile(special.__contains__, (f"<extra_id_{number}>" for number in count()))
        )
        kept_ids = {ids[token] for token in self.kept}
        self._forbidden = self.special_ids - {self._roles.get("unknown", -1)} - kept_ids
        try:
            self.frame = frame_of(self._pipeline)
        except BaseException as error:
            raise refusal(error, where=where) from error
        if max((*self.frame.before, *self.frame.between, *self.frame.after), default=0) >= self.vocab_size:
            raise CheckpointError(f"{where} puts tokens around texts whose ids are not in its vocabulary")
        self._memo = Memo(self._encode_plain)
        self._table = (
            TablePath(self._pipeline, definition, self._memo, forbidden=self._forbidden)
            if suits(found)
            else None
        )

    @classmethod
    def load(cls, source: str | Path, *, undeclared: bool = True) -> "Tokenizer":
        """From a folder or a file: tokenizer.json, vocab.txt, or GPT-2's vocabulary with merges.

        Settings and added tokens beside it are respected. Special tokens that the settings name without an
        id get the next free ids, as in transformers, unless they are not `undeclared`. Anything damaged is a
        `CheckpointError`.
        """
        place = Path(source)
        require_regular_entries(place) if place.is_dir() else require_regular(place)
        if (record := open_record(place if place.is_dir() else place.parent)) is not None:
            record.check_tokenizer()
        definition, roles, kept = read_tokenizer(place, undeclared=undeclared)
        return cls(definition, roles, kept=kept, where=str(source))

    def keeping(self, special_tokens: Sequence[str]) -> "Tokenizer":
        """The same tokenizer, which finds these special tokens in texts; saved, it keeps them again.

        >>> tokenizer.keeping(["[E1]", "[/E1]"])  # doctest: +SKIP
        """
        check_texts(special_tokens, "special_tokens")
        return Tokenizer(
            self._definition, self.special_tokens, kept=[*self.kept, *special_tokens], where=self._where
        )

    def lowering(self) -> "Tokenizer":
        """The same tokenizer with texts in lower case, as `do_lower_case` of sentence-transformers asks."""
        return Tokenizer(lowered(self._definition), self.special_tokens, kept=self.kept, where=self._where)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files into `folder`, from which this library and transformers read them."""
        for name, data in self.files().items():
            write_whole(Path(folder) / name, data)

    def files(self, *, token_type_ids: bool = True, max_length: int | None = None) -> dict[str, bytes]:
        """What `save` writes, by name; `token_type_ids` says whether the model reads segment numbers."""
        return write_tokenizer(
            self._definition,
            self.special_tokens,
            kept=self.kept,
            token_type_ids=token_type_ids,
            max_length=max_length,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Tokenizer, kept=self.kept), (self._definition, self.special_tokens)

    @property
    def definition(self) -> Definition:
        """The content of its `tokenizer.json`."""
        return self._definition

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return len(self.vocabulary)

    @property
    def padding_id(self) -> int:
        return self._role("padding")

    @property
    def unknown_id(self) -> int:
        return self._role("unknown")

    @property
    def first_id(self) -> int:
        """The token before a text: [CLS], <s>."""
        return self._role("first")

    @property
    def separator_id(self) -> int:
        """The token after a text: [SEP], </s>."""
        return self._role("separator")

    @property
    def mask_id(self) -> int:
        return self._role("mask")

    @property
    def filling_id(self) -> int:
        """What fills rows up where nothing is read: the padding, or any token where there is none."""
        return self._roles.get("padding", self._roles.get("separator", 0))

    def framed(self, ids: Int32s) -> Int32s:
        """The ids of a text inside its frame; what would be no token at all is the one that fills rows."""
        row = self.frame.single(ids)
        return row if len(row) else np.asarray([self.filling_id], dtype=np.int32)

    @property
    def crosses_words(self) -> bool:
        """Whether a token may hold the end of one word and the begin of the next, if words are not given."""
        return self.kind in ("bpe", "byte-bpe", "unigram", "words")

    def encode(self, text: str, *, starts: Int64s | None = None) -> Encoded:
        """The tokens of `text` without special ones.

        `starts` are the character offsets at which words start; without them ideographs and signs stand
        alone and letters and digits together. A tokenizer that `crosses_words` is then cut at `starts`.
        """
        check_text(text)
        ids, offsets = self._encode_cut(text, starts)
        words = plain_word_starts(text) if starts is None else starts
        begins = _visible(text, offsets)
        return Encoded(ids, offsets, (np.searchsorted(words, begins, side="right") - 1).astype(np.int32))

    def encode_offsets(self, text: str) -> tuple[Int32s, Int32s, Int32s]:
        """Ids, begins and ends."""
        check_text(text)
        ids, offsets = self._encode_cut(text, None)
        return ids, offsets[:, 0], offsets[:, 1]

    def encode_batch(self, texts: Sequence[str]) -> list[Int32s]:
        """The ids of each text."""
        ids, _, counts = self.encode_joined(texts)
        return np.split(ids, np.cumsum(counts)[:-1]) if len(counts) else []

    def encode_joined(
        self, texts: Sequence[str], *, starts: Sequence[Int64s] | None = None
    ) -> tuple[Int32s, Int32s, Int64s]:
        """The ids of all texts in a row, where each token begins in its own text, and tokens per text.

        A begin is that of the token's first visible character, so that it lies in the word of the token
        even where the token holds the blank before it.
        """
        check_texts(texts)
        if self._table is not None and (starts is None or not self.crosses_words):
            parts = [self._encode_lines(batch, self._table) for batch in _batches(texts)]
        elif starts is None:
            parts = [self._encode_one(text, None) for text in texts]
        else:
            parts = [self._encode_one(text, cut) for text, cut in zip(texts, starts, strict=True)]
        counts = np.concatenate([np.zeros(0, dtype=np.int64), *(part[2] for part in parts)])
        return _joined([part[0] for part in parts]), _joined([part[1] for part in parts]), counts

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The tokens as the vocabulary spells them."""
        return [self.vocabulary[index] for index in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the tokens, as far as the vocabulary kept it; special tokens are left out.

        WordPiece does not keep blanks: they stand again between words, but not beside Chinese characters.
        """
        numbers = [int(index) for index in ids]
        if any(not 0 <= index < self.vocab_size for index in numbers):
            raise DataError(f"a token's id lies from 0 to {self.vocab_size - 1} in this vocabulary")
        try:
            text: str = self._pipeline.decode(numbers, skip_special_tokens=True)
        except BaseException as error:
            raise refusal(error, where=self._where) from error
        return _BLANKS_IN_CHINESE.sub("", text) if self.kind in ("wordpiece", "words") else text

    def _role(self, role: str) -> int:
        if role not in self._roles:
            raise SettingsError(
                f"this {self.kind} tokenizer has no {role} token; "
                f"it has {', '.join(sorted(self._roles)) or 'no special token'}: use another tokenizer here"
            )
        return self._roles[role]

    @staticmethod
    def _encode_lines(texts: Sequence[str], table: TablePath) -> tuple[Int32s, Int32s, Int64s]:
        """`encode_joined` through the table: the texts as lines of one, since a line feed parts tokens."""
        ids, offsets = table.encode("\n".join(texts))
        lengths = np.asarray([len(text) + 1 for text in texts], dtype=np.int64)
        line_ends = np.cumsum(lengths)
        token_ends = np.searchsorted(offsets[:, 0], line_ends)
        counts = np.diff(token_ends, prepend=0)
        begins = offsets[:, 0] - np.repeat(line_ends - lengths, counts).astype(np.int32)
        return ids, begins, counts

    def _encode_one(self, text: str, starts: Int64s | None) -> tuple[Int32s, Int32s, Int64s]:
        ids, offsets = self._encode_cut(text, starts)
        return ids, _visible(text, offsets), np.asarray([len(ids)], dtype=np.int64)

    def _encode_cut(self, text: str, starts: Int64s | None) -> tuple[Int32s, Int32s]:
        """Ids and offsets; inside the words that start at `starts` where tokens could cross them."""
        if starts is not None and self.crosses_words:
            ids, offsets, _ = self._memo.encode(*pieces(text, starts))
            return ids, offsets
        if self._table is not None:
            return self._table.encode(text)
        codepoints(text)
        plain_ids, plain_offsets = self._encode_plain(text)
        return np.asarray(plain_ids, np.int32), np.asarray(plain_offsets, np.int32).reshape(-1, 2)

    def _encode_plain(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Through the pipeline of the library, never yielding a special token other than the unknown."""
        try:
            encoding = self._pipeline.encode(text, add_special_tokens=False)
        except BaseException as error:
            raise refusal(error, where=self._where, text=text) from error
        ids, offsets = encoding.ids, encoding.offsets
        if self._forbidden.isdisjoint(ids):
            return ids, offsets
        # A Unigram vocabulary contains its special tokens, so "</s>" in a text is found whole. The text
        # is cut inside that place, where no token can span it any more.
        begin, end = next(span for index, span in zip(ids, offsets, strict=True) if index in self._forbidden)
        if end - begin < 2:
            unknown = self._role("unknown")
            return [unknown if index in self._forbidden else index for index in ids], offsets
        left, right = self._encode_plain(text[: begin + 1]), self._encode_plain(text[begin + 1 :])
        moved = [(a + begin + 1, b + begin + 1) for a, b in right[1]]
        return left[0] + right[0], left[1] + moved


def _finding(definition: Definition, kept: Sequence[str], where: str) -> Definition:
    """The definition whose pipeline finds the `kept` special tokens in texts: for it they are not special."""
    if not kept:
        return definition
    entries = {entry["content"]: entry for entry in definition.get("added_tokens") or []}
    special = sorted(text for text, entry in entries.items() if entry["special"])
    for token in kept:
        if token not in entries:
            raise SettingsError(
                f"{where} has no special token {token!r}{nearest(token, special)}; "
                f"it has {', '.join(special) or 'none'}"
            )
        entries[token] = entries[token] | {"special": False}
    return definition | {"added_tokens": list(entries.values())}


def _check_added(
    pipeline: tokenizers.Tokenizer, definition: Definition, ids: Mapping[str, int], where: str
) -> None:
    """The library numbers added tokens itself, and fails on one of which its normalizer leaves nothing."""
    normalizer: Any = pipeline.normalizer
    for entry in definition.get("added_tokens") or []:
        text, index = entry["content"], ids.get(entry["content"])
        if index != entry["id"]:
            raise CheckpointError(
                f"{where}: the added token {text[:40]!r} has the id {entry['id']}, and transformers gives it "
                f"{index}; the ids of added tokens must follow those of the vocabulary"
            )
        if entry["normalized"] and normalizer is not None and not normalizer.normalize_str(text):
            raise CheckpointError(f"{where}: its normalizer leaves nothing of the added token {text[:40]!r}")


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in groups whose arrays stay in the processor's cache."""
    first = size = 0
    for index, text in enumerate(texts):
        size += len(text)
        if size > _BATCH_CHARACTERS:
            yield texts[first : index + 1]
            first, size = index + 1, 0
    if first < len(texts):
        yield texts[first:]


def _visible(text: str, offsets: Int32s) -> Int32s:
    """The begin of each token, moved past the blanks at its front unless it is all blank."""
    begins, ends = offsets[:, 0], offsets[:, 1]
    seen = visible(text)
    if not len(seen):
        return begins
    next_seen = seen[np.searchsorted(seen, begins).clip(max=len(seen) - 1)]
    return np.where((begins <= next_seen) & (next_seen < ends), next_seen, begins).astype(np.int32)


def _joined(parts: list[Int32s]) -> Int32s:
    return np.concatenate(parts).astype(np.int32, copy=False) if parts else np.zeros(0, dtype=np.int32)
