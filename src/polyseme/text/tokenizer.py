"""Tokenizers: text to ids and back, with offsets into the raw text."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from polyseme.errors import CheckpointError, SettingsError
from polyseme.files import write_whole
from polyseme.text.codepoints import codepoints, pieces, plain_word_starts
from polyseme.text.encoded import Encoded, Int32s, Int64s
from polyseme.text.pipelines import Definition, Kind, kind_of
from polyseme.text.tokenizer_files import read_tokenizer, write_tokenizer


class Tokenizer:
    """One tokenizer of any kind, around a pipeline of the `tokenizers` library.

    The text is data: a special token's name in it, "[SEP]" or "</s>", is encoded as the characters it is
    made of and never as the special token. (transformers does the opposite unless it is called with
    `split_special_tokens=True`.) No special tokens are added either; whoever builds inputs adds them.

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

    def __init__(
        self, definition: Definition, roles: Mapping[str, str], *, where: str = "the tokenizer"
    ) -> None:
        try:
            self._pipeline = tokenizers.Tokenizer.from_str(json.dumps(definition))
            # Without this the library finds the names of special tokens in raw text.
            self._pipeline.encode_special_tokens = True
            self.kind = kind_of(definition)
        except Exception as error:  # The library raises plain Exception.
            raise CheckpointError(f"{where} cannot be read as a tokenizer: {error}") from error
        self._definition = definition
        ids = self._pipeline.get_vocab(with_added_tokens=True)
        self.vocabulary = [""] * (max(ids.values(), default=-1) + 1)
        for token, index in ids.items():
            self.vocabulary[index] = token
        self.special_tokens = dict(roles)
        special = {entry["content"] for entry in definition.get("added_tokens", []) if entry["special"]}
        self._roles = {role: ids[token] for role, token in roles.items()}
        self.special_ids = frozenset([*self._roles.values(), *(ids[token] for token in special)])
        self._forbidden = np.asarray(sorted(self.special_ids - {self._roles.get("unknown", -1)}), np.int32)

    @classmethod
    def load(cls, source: str | Path) -> "Tokenizer":
        """From a folder or a file: tokenizer.json, vocab.txt, or GPT-2's vocabulary with merges.

        Settings beside it (tokenizer_config.json) are respected. Anything damaged is a `CheckpointError`.
        """
        definition, roles = read_tokenizer(Path(source))
        return cls(definition, roles, where=str(source))

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files into `folder`, from which this library and transformers read them."""
        for name, data in self.files().items():
            write_whole(Path(folder) / name, data)

    def files(self, *, token_type_ids: bool = True, max_length: int | None = None) -> dict[str, bytes]:
        """What `save` writes, by name; `token_type_ids` says whether the model reads segment numbers."""
        return write_tokenizer(
            self._definition, self.special_tokens, token_type_ids=token_type_ids, max_length=max_length
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self._definition, self.special_tokens)

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
    def crosses_words(self) -> bool:
        """Whether a token may hold the end of one word and the begin of the next, if words are not given."""
        return self.kind in ("bpe", "byte-bpe", "unigram", "words")

    def encode(self, text: str, *, starts: Int64s | None = None) -> Encoded:
        """The tokens of `text` without special ones.

        `starts` are the character offsets at which words start; without them ideographs and signs stand
        alone and letters and digits together. A tokenizer that `crosses_words` is then cut at `starts`.
        """
        ids, offsets = self._encode_cut(text, starts)
        words = plain_word_starts(text) if starts is None else starts
        begins = _visible(text, offsets)
        return Encoded(ids, offsets, (np.searchsorted(words, begins, side="right") - 1).astype(np.int32))

    def encode_offsets(self, text: str) -> tuple[Int32s, Int32s, Int32s]:
        """Ids, begins and ends."""
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
        all_ids, all_begins = [], []
        for index, text in enumerate(texts):
            ids, offsets = self._encode_cut(text, None if starts is None else starts[index])
            all_ids.append(ids)
            all_begins.append(_visible(text, offsets))
        counts = np.asarray([len(ids) for ids in all_ids], dtype=np.int64)
        return _joined(all_ids), _joined(all_begins), counts

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The tokens as the vocabulary spells them."""
        return [self.vocabulary[index] for index in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the tokens, as far as the vocabulary kept it; special tokens are left out."""
        text: str = self._pipeline.decode([int(index) for index in ids], skip_special_tokens=True)
        return text

    def _role(self, role: str) -> int:
        if role not in self._roles:
            raise SettingsError(
                f"this {self.kind} tokenizer has no {role} token; "
                f"it has {', '.join(sorted(self._roles)) or 'no special token'}: use another tokenizer here"
            )
        return self._roles[role]

    def _encode_cut(self, text: str, starts: Int64s | None) -> tuple[Int32s, Int32s]:
        """Ids and offsets; inside the words that start at `starts` where tokens could cross them."""
        if starts is None or not self.crosses_words:
            return self._encode_whole(text)
        parts, begins = pieces(text, starts)
        encoded = [self._encode_whole(part) for part in parts]
        offsets = [o + begin for (_, o), begin in zip(encoded, begins, strict=True)]
        return _joined([ids for ids, _ in encoded]), _joined(offsets).reshape(-1, 2)

    def _encode_whole(self, text: str) -> tuple[Int32s, Int32s]:
        codepoints(text)
        encoding = self._pipeline.encode(text, add_special_tokens=False)
        ids = np.asarray(encoding.ids, dtype=np.int32)
        return ids, np.asarray(encoding.offsets, dtype=np.int32).reshape(-1, 2)


def _visible(text: str, offsets: Int32s) -> Int32s:
    """The begin of each token, moved past the blanks at its front unless it is all blank."""
    begins = offsets[:, 0].copy()
    for index, (begin, end) in enumerate(offsets.tolist()):
        while begin < end - 1 and text[begin].isspace():
            begin += 1
        begins[index] = begin
    return begins


def _joined(parts: list[Int32s]) -> Int32s:
    return np.concatenate(parts).astype(np.int32, copy=False) if parts else np.zeros(0, dtype=np.int32)
