"""Texts, words, tokens and ranges of characters to vectors: one class for all models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyseme import progress
from polyseme.checkpoints.loading import load
from polyseme.checkpoints.model import Model
from polyseme.devices import pick_device, pick_precision, usable_cores
from polyseme.embedding.alignment import Ranges, check_ranges, cut_ranges, join_words, mean_by_range
from polyseme.embedding.layers import Layers
from polyseme.embedding.settings import EmbedSettings
from polyseme.embedding.windows import windows
from polyseme.errors import CheckpointError, SettingsError
from polyseme.models.batch import Batch
from polyseme.models.batching import batches_by_length, pad
from polyseme.models.pooling import pool
from polyseme.records import from_plain
from polyseme.text.words import word_cutter

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Pieces:
    """The parts of one text (tokens, words or ranges) with a vector each."""

    texts: list[str]
    offsets: NDArray[np.int64]
    """Begin and end in the text, in characters: `[pieces, 2]`."""
    vectors: Vectors
    """`[pieces, width]`"""


@dataclass(frozen=True)
class _Row:
    """What the network reads at once: a text or one window of it, special tokens included."""

    text: int
    input_ids: NDArray[np.int32]
    own: slice
    """The positions that count for the text: in a window, the tokens to which it gives the most context."""


class Embedder:
    """Vectors from a model. A text gives the same vector alone and in any batch.

    Texts longer than the model are read by overlapping windows whose states are joined, each token
    from the window that shows it the most context; `long_texts="truncate"` cuts them instead, and
    says so once. An empty text is read as its special tokens alone, or as the token that fills rows.

    >>> embedder = Embedder.load("models/mini", pooling="mean")  # doctest: +SKIP
    >>> embedder.sentences(["程序已经启动", "按照法定程序"]).shape  # doctest: +SKIP
    (2, 256)
    """

    def __init__(self, model: Model, **options: Any) -> None:
        """`options` are those of `EmbedSettings`; what they leave open is as the model's card says."""
        if model.tokenizer is None:
            raise CheckpointError("this model has no tokenizer, so it cannot read text")
        self.settings = settings = from_plain(options, EmbedSettings, where="embedding")
        self.tokenizer = model.tokenizer
        card = model.card
        self.layers = Layers.of(settings.layers or "-1")
        self.pooling: str = settings.pooling or card.pooling or "mean"
        self.normalize = card.normalize if settings.normalize is None else settings.normalize
        usual = "windows" if card.max_length is None else "truncate"
        self.truncates = (settings.long_texts or usual) == "truncate"
        torch.set_num_threads(settings.threads or usable_cores())
        self.device = pick_device(settings.device)
        self.precision = pick_precision(settings.precision, self.device)
        self._prompt = card.prompt
        self._backbone = model.backbone.to(self.device).eval()
        self._config = model.backbone.config
        self.max_length = self._longest(settings.max_length, card.max_length)
        self._numbers = self.layers.numbers(self._config.num_layers)
        if self.pooling == "pooler":
            self._check_pooler()
        self._said_cut = False

    @classmethod
    def load(cls, name_or_folder: str | Path, **options: Any) -> "Embedder":
        """The embedder of a folder or hub name, with the model's own pooling, scaling and length."""
        return cls(load(name_or_folder), **options)

    @property
    def width(self) -> int:
        """Numbers in the vector of one text."""
        return self.token_width * (2 if self.pooling == "mean-max" else 1)

    @property
    def token_width(self) -> int:
        """Numbers in the vector of one token, word or range."""
        return self._config.hidden_size * self.layers.width(self._config.num_layers)

    def sentences(self, texts: Sequence[str]) -> Vectors:
        """One vector a text, in the texts' order: `[len(texts), width]`."""
        ids = self.tokenizer.encode_batch([self._prompt + text for text in texts])
        rows = self._rows(ids)
        parts = np.zeros((len(rows), self.width), dtype=np.float32)
        for numbers, states, own, pooled in self._run(rows):
            part = pooled if self.pooling == "pooler" else pool(states, own, self.pooling)
            assert part is not None
            parts[numbers] = part.float().cpu().numpy()
        vectors = self._joined(parts, rows, len(texts))
        if self.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[Pieces]:
        """The vector of each token, special tokens left out."""
        encoded = [self.tokenizer.encode(text) for text in texts]
        states = self._token_states([one.ids for one in encoded])
        return [
            Pieces(
                self.tokenizer.tokens(one.ids)[: len(vectors)],
                one.offsets[: len(vectors)].astype(np.int64),
                vectors,
            )
            for one, vectors in zip(encoded, states, strict=True)
        ]

    def words(self, texts: Sequence[str | Sequence[str]], *, words: str = "rjieba") -> list[Pieces]:
        """The vector of each word: the mean of its tokens; zeros where it has none.

        A text is cut by the word cutter `words`; a list of words is taken as already cut, and its offsets
        count in the text that they make when joined.
        """
        cutter = word_cutter(words)
        joined = [
            (text, cut_ranges(text, cutter)) if isinstance(text, str) else join_words(text) for text in texts
        ]
        return self._pieces([text for text, _ in joined], [ranges for _, ranges in joined])

    def ranges(self, texts: Sequence[str], ranges: Sequence[Sequence[tuple[int, int]]]) -> list[Pieces]:
        """The vector of each range of characters (begin, end): the mean of the tokens that it touches."""
        checked = [
            check_ranges(text, of_text, number=number)
            for number, (text, of_text) in enumerate(zip(texts, ranges, strict=True))
        ]
        return self._pieces(texts, checked)

    def _pieces(self, texts: Sequence[str], ranges: Sequence[Ranges]) -> list[Pieces]:
        encoded = [self.tokenizer.encode(text) for text in texts]
        states = self._token_states([one.ids for one in encoded])
        return [
            Pieces(
                [text[begin:end] for begin, end in of_text.tolist()],
                of_text,
                mean_by_range(vectors, one.offsets[: len(vectors)], of_text),
            )
            for text, one, vectors, of_text in zip(texts, encoded, states, ranges, strict=True)
        ]

    def _token_states(self, ids: Sequence[NDArray[np.int32]]) -> list[Vectors]:
        """The states of each text's own tokens, `[tokens, token_width]`; fewer where the text was cut."""
        rows = self._rows(ids)
        of_rows: list[Vectors] = [np.zeros((0, self.token_width), dtype=np.float32)] * len(rows)
        for numbers, states, own, _ in self._run(rows):
            for number, row_states, row_own in zip(numbers, states.float(), own, strict=True):
                of_rows[number] = row_states[row_own].cpu().numpy()
        joined = [of_rows[start:stop] for start, stop in _runs(rows, len(ids))]
        before, after = len(self.tokenizer.frame.before), len(self.tokenizer.frame.after)
        whole = [np.concatenate(parts) for parts in joined]
        # Where nothing stands around texts, an empty one was read as a token that is not its own.
        return [
            states[before : len(states) - after][: len(of_text)]
            for states, of_text in zip(whole, ids, strict=True)
        ]

    def _rows(self, ids: Sequence[NDArray[np.int32]]) -> list[_Row]:
        """Each text as one row, or as several windows that lie together."""
        room = self.max_length - self.tokenizer.frame.size
        self._say_cut(sum(len(of_text) > room for of_text in ids), len(ids))
        return [
            row
            for text, of_text in enumerate(ids)
            for row in self._rows_of(text, of_text[:room] if self.truncates else of_text)
        ]

    def _rows_of(self, text: int, ids: NDArray[np.int32]) -> Iterator[_Row]:
        frame = self.tokenizer.frame
        size, before = self.max_length - frame.size, len(frame.before)
        for window in windows(len(ids), size=size, overlap=size // 4):
            # Behind [CLS] everything moves on by one; the text's first [CLS] and its last [SEP] count too.
            begin = 0 if window.own_start == 0 else window.own_start - window.start + before
            end = window.own_stop - window.start + before
            end += len(frame.after) if window.own_stop == len(ids) else 0
            row = self.tokenizer.framed(ids[window.start : window.stop])
            yield _Row(text, row, slice(begin, max(end, begin + 1)))

    def _run(self, rows: Sequence[_Row]) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor, Tensor | None]]:
        """Batch by batch: row numbers, chosen states, which positions count, pooled states."""
        lengths = [len(row.input_ids) for row in rows]
        for numbers in batches_by_length(lengths, max_tokens=self.settings.batch_tokens):
            matrix, real = pad(
                [rows[n].input_ids for n in numbers],
                padding=self.tokenizer.filling_id,
                most=self._config.max_position_embeddings,
            )
            own = np.zeros_like(real)
            for place, number in enumerate(numbers):
                own[place, rows[number].own] = True
            states, pooled = self._states(matrix, real)
            yield numbers, states, torch.from_numpy(own).to(self.device), pooled

    @torch.inference_mode()
    def _states(self, matrix: NDArray[np.int64], real: NDArray[np.bool_]) -> tuple[Tensor, Tensor | None]:
        """The states of the chosen layers, joined or averaged: `[rows, length, token_width]`."""
        mask = None if real.all() else torch.from_numpy(real)
        batch = Batch(input_ids=torch.from_numpy(matrix), attention_mask=mask).to(self.device)
        only_last = self._numbers == (self._config.num_layers,)
        bf16 = self.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            states = self._backbone(batch, every_layer=not only_last)
        if only_last:
            return states.last.float(), states.pooled
        chosen = [states.layers[number].float() for number in self._numbers]
        if self.layers.how == "mean":
            return torch.stack(chosen).mean(dim=0), states.pooled
        return torch.cat(chosen, dim=-1), states.pooled

    def _joined(self, parts: Vectors, rows: Sequence[_Row], num_texts: int) -> Vectors:
        """One vector a text from those of its windows."""
        weights = np.array([row.own.stop - row.own.start for row in rows], dtype=np.float32)
        vectors = np.zeros((num_texts, parts.shape[1]), dtype=np.float32)
        for text, (start, stop) in enumerate(_runs(rows, num_texts)):
            of_text, weight = parts[start:stop], weights[start:stop, None]
            vectors[text] = of_text[0] if stop - start == 1 else _JOINS[self.pooling](of_text, weight)
        return vectors

    def _longest(self, asked: int | None, of_folder: int | None) -> int:
        positions: int = self._config.max_position_embeddings
        if asked is not None and asked > positions:
            raise SettingsError(
                f"max_length {asked} is more than the {positions} positions of this model; "
                "longer texts are read by windows anyway"
            )
        return asked or min(of_folder or positions, positions)

    def _check_pooler(self) -> None:
        if not self._config.pooler:
            raise SettingsError("this model has no pooler; choose pooling first, last, mean, max or mean-max")
        if self._numbers != (self._config.num_layers,):
            raise SettingsError(
                f"the pooler reads the last layer, not layers={self.settings.layers}; "
                "leave layers out, or choose another pooling"
            )

    def _say_cut(self, cut: int, total: int) -> None:
        if cut and self.truncates and not self._said_cut:
            self._said_cut = True
            progress.say(
                f"{cut} of the first {total} texts are longer than the {self.max_length} tokens read here "
                "and were cut; long_texts=windows reads them whole"
            )


def _runs(rows: Sequence[_Row], num_texts: int) -> list[tuple[int, int]]:
    """Where the rows of each text begin and end."""
    ends = np.cumsum(np.bincount([row.text for row in rows], minlength=num_texts)).tolist() if rows else []
    return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []


def _weighted_mean(parts: Vectors, weights: Vectors) -> Vectors:
    mean: Vectors = (parts * weights).sum(axis=0) / weights.sum()
    return mean


def _mean_and_max(parts: Vectors, weights: Vectors) -> Vectors:
    half = parts.shape[1] // 2
    return np.concatenate([_weighted_mean(parts[:, :half], weights), parts[:, half:].max(axis=0)])


_JOINS = {
    "first": lambda parts, weights: parts[0],
    "last": lambda parts, weights: parts[-1],
    "mean": _weighted_mean,
    "max": lambda parts, weights: parts.max(axis=0),
    "mean-max": _mean_and_max,
    "pooler": _weighted_mean,
}
"""A text's vector from those of its windows, by pooling; of the pooler's, the mean."""
